"""The processes of the demonstration: their directory, configuration, logs and reports."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp

from daemon.config.settings import ENVIRONMENT_PREFIX
from daemon.simulator.writers import FORMATS
from handlers.errors import Fault, SettingsFault

LEVELS = 6
OWNER = "demo"
MARK = ".temwatch-demo"
"""Name of the file that marks the output of an earlier demonstration, which this one may replace."""


class DemoFault(Fault):
    """The demonstration cannot continue."""


def prepare(output: Path) -> None:
    """Create an empty output directory; replace one of an earlier demonstration.

    Raises
    ------
    SettingsFault
        If the directory contains anything else.
    """
    if output.exists() and any(output.iterdir()):
        if not (output / MARK).exists():
            raise SettingsFault(
                "--output", f"{output} is not empty and was not made by a demonstration", "choose another directory"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).touch()


def forget_site() -> None:
    """Remove a site's settings of temwatch, its logins to object stores and its proxies from the environment.

    The settings have precedence over the configuration of the demonstration, and could name the site's journal and its
    render-ws. A proxy does not reach the services of the demonstration, which are on this machine.
    """
    for name in list(os.environ):
        if name.upper().startswith((ENVIRONMENT_PREFIX, "AWS_")) or name.lower().endswith("_proxy"):
            del os.environ[name]


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_text(
    render_url: str, watched: Path, output: Path, port: int, format_: str = "pytemca", mipmaps: str | None = None
) -> str:
    """Return the configuration of the daemon, with short times.

    Parameters
    ----------
    mipmaps : lines with the place of the mipmaps; None: the output directory.
    """

    def quoted(value: object) -> str:
        return json.dumps(str(value))

    form = FORMATS[format_]
    return f"""\
[render]
url = {quoted(render_url)}
owner = "{OWNER}"
project = "temwatch"

[journal]
path = {quoted(output / "journal.sqlite")}

[pictures]
directory = {quoted(output / "drawn")}

[http]
port = {port}

[log]
format = "json"

[[watch]]
name = "temca2"
directory = {quoted(watched)}
format = {quoted(format_)}
scan_interval_s = 2
settle_s = 0.5
{form.watch}
[watch.z]
rule = "{form.z_rule}"

[watch.stacks]
raw = "{{specimen_id}}_raw"
mipmapped = "{{specimen_id}}_mips"
close_after_s = 2

[watch.mipmaps]
{mipmaps or f"output_dir = {quoted(output / 'mipmaps')}"}
levels = {LEVELS}

[watch.qc]
measure_stage_error = true
"""


@contextlib.asynccontextmanager
async def process(name: str, output: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """Run a Python process whose output goes to `{name}.log`; stop it at the end of the context."""
    log = output / f"{name}.log"
    with log.open("wb") as file:
        # -P: modules in the user's current directory are not imported.
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-P", *arguments, stdout=file, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
    try:
        yield started, log
    finally:
        if started.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.terminate()
            try:
                async with asyncio.timeout(60):
                    await started.wait()
            except TimeoutError:
                os.killpg(started.pid, signal.SIGKILL)
                await started.wait()


async def first_line(log: Path, wanted: Callable[[str], str | None], timeout_s: float = 60.0) -> str:
    """Return the result of `wanted` for the first line of a growing log for which it is not None."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in _lines(log):
            if found := wanted(line):
                return found
        await asyncio.sleep(0.05)
    raise DemoFault(log.stem, f"did not start within {timeout_s:g} s", f"see {log}")


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def ready_url(line: str) -> str | None:
    """Return the daemon's URL if this log line reports that it is ready."""
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        if isinstance(said, dict) and said.get("event") == "daemon.ready":
            return str(said["url"])
    return None


async def fetch_montages(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """Fetch all montages of the daemon, in order of acquisition."""
    async with http.get(f"{url}/api/montages", params={"limit": "10000"}) as answer:
        rows: list[dict[str, Any]] = (await answer.json())["montages"]
    return sorted(rows, key=lambda row: row["metafile"])


async def fetch_tiles_made(http: aiohttp.ClientSession, url: str) -> int:
    """Fetch the number of tiles whose mipmaps are made."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    values = (line.split()[1] for line in text.splitlines() if line.startswith("temwatch_tiles_mipmapped_total "))
    return int(float(next(values, "0")))


def imaged_tiles(log: Path) -> int:
    """Return how many images the microscope has written, according to its log."""
    said = log.read_text(encoding="utf-8", errors="replace")
    return sum(said.count(f'.{extension}"') for extension in ("tif", "png", "jpg"))
