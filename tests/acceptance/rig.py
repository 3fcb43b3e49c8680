"""The daemon and the stand-in as processes, for tests that observe them from outside.

TEMWATCH_ACCEPTANCE_URL names a real render-ws to be used in place of the stand-in. Every test process works in a
project of its own there and deletes its stacks. Tests that control or end the stand-in are skipped and say so.

TEMWATCH_ACCEPTANCE_NGINX=1 puts a real nginx between each rig's daemon and render-ws (tests/nginx.py).

TEMWATCH_ACCEPTANCE_COLD=1 starts every process by its command line (tests/acceptance/warm.py), as `make faults` does.
"""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from daemon.simulator.delivery import Written
from handlers.images.reduction import level_size
from handlers.uris import uri_to_path
from tests.acceptance import warm
from tests.leases import Lease, leased
from tests.nginx import Nginx
from tests.process_group import kill_group

REAL_URL = os.environ.get("TEMWATCH_ACCEPTANCE_URL", "").rstrip("/")
SEES_FILES = os.environ.get("TEMWATCH_ACCEPTANCE_SEES_FILES", "") == "1"
"""Whether the real render-ws sees the files of the tests under the same paths (see pytest's --basetemp)."""
OWNER, PROJECT = ("temwatch", f"acceptance_{uuid.uuid4().hex}") if REAL_URL else ("em", "test")
THROUGH_NGINX = os.environ.get("TEMWATCH_ACCEPTANCE_NGINX", "") == "1"
IS_WARM = os.environ.get("TEMWATCH_ACCEPTANCE_COLD", "") != "1"


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0, what: str | Callable[[], str] = "") -> Any:
    """Return the condition's first true value; fail with `what` after the time-out."""
    deadline, pause_s = time.monotonic() + timeout_s, 0.05
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause_s)
        pause_s = min(1.1 * pause_s, 0.15)
    raise AssertionError(f"not within {timeout_s:g} s: {what() if callable(what) else what or condition}")


def fetch(url: str, *, method: str = "GET", body: Any = None) -> Any:
    """Return the JSON at a URL, with any status; None without an answer, whose reason is in the test's output."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            text = response.read()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read()
    except OSError as error:
        sys.stderr.write(f"{method} {url}: {error!r}\n")
        return None
    with contextlib.suppress(ValueError):
        return json.loads(text)
    return text.decode(errors="replace")


def temwatch(
    *arguments: str, timeout_s: float = 100, prefix: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command as a user types it, and capture its output."""
    if IS_WARM and not prefix and options.keys() <= {"cwd"}:
        return warm.run(arguments, timeout_s, **options)
    command = [*prefix, sys.executable, "-m", "daemon", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, **options)


def command_lines() -> list[str]:
    """Return the command lines of all processes, from where `ps` has them."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # the process has ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


class Program:
    """A Python module as a process, its output in a file.

    Parameters
    ----------
    is_warm : whether `daemon` is forked from a process that has imported it.
    """

    def __init__(
        self,
        log: Path,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        is_warm: bool = False,
    ):
        self.log = log
        self.process: subprocess.Popen[bytes] | warm.WarmProcess
        with log.open("ab") as file:
            if is_warm and IS_WARM and not prefix and env is None:
                assert arguments[0] == "daemon", arguments
                self.process = warm.start(arguments[1:], file, file)
                return
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def kill(self) -> None:
        """Kill the process alone with SIGKILL, as the kernel would."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Kill what is left of it and its children."""
        kill_group(self.process)


class Standins:
    """Stand-ins that tests pass on: each test begins with an empty one, and few have to be started."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._urls: dict[Program, str] = {}
        self._idle: list[Program] = []

    def take(self) -> tuple[Program, str]:
        """Return a stand-in without stacks, and its URL."""
        while self._idle:
            program = self._idle.pop()
            if program.process.poll() is None:
                url = self._urls[program]
                # Emptied here, not when it was given back: the last daemon may have left a request under way.
                assert fetch(control_url(url, "state"), method="DELETE") is not None, f"no stand-in answers at {url}"
                return program, url
        program = Program(self._directory / f"{len(self._urls)}.log", "daemon", "standin", "--port", "0", is_warm=True)
        self._urls[program] = url_said_in(program, 0)
        return program, self._urls[program]

    def give_back(self, program: Program) -> bool:
        """Return whether it is one of these; the next test gets it if it still runs.

        Its URL is known here: a test may have shown the daemon another one.
        """
        if program not in self._urls:
            return False
        self._idle.append(program)
        return True

    def close(self) -> None:
        for program in self._urls:
            program.end()


def is_real(render_url: str) -> bool:
    """Whether this is the named render-ws, and no stand-in."""
    return bool(REAL_URL) and render_url.startswith(REAL_URL)


def require_seen_files(render_url: str) -> None:
    """Skip the test if render-ws cannot read the files that it has to serve."""
    if is_real(render_url) and not SEES_FILES:
        pytest.skip(f"{REAL_URL} need not see the files: set TEMWATCH_ACCEPTANCE_SEES_FILES=1 if it does")


class RealService:
    """Stands for the stand-in's process: a render-ws that runs elsewhere is neither stopped nor killed."""

    def __getattr__(self, name: str) -> Any:
        pytest.skip(f"stops or kills the stand-in: {REAL_URL} is left alone")

    def end(self) -> None:
        pytest.skip(f"ends the stand-in: {REAL_URL} is left alone")


def delete_stacks() -> None:
    """Delete everything that the tests have put into the real render-ws."""
    for stack in fetch(f"{REAL_URL}/owner/{OWNER}/project/{PROJECT}/stackIds") or ():
        url = f"{REAL_URL}/owner/{OWNER}/project/{PROJECT}/stack/{stack['stack']}"
        fetch(f"{url}/state/COMPLETE", method="PUT")  # a READ_ONLY stack cannot be deleted
        fetch(url, method="DELETE")


def url_said_in(program: Program, known: int) -> str:
    """Return the line that a ready stand-in prints, after `known` lines of its log."""
    url = wait_for(
        lambda: next((line for line in program.lines()[known:] if line.startswith("http")), None),
        60,
        f"the stand-in's URL in {program.log}",
    )
    return str(url)


def control_url(render_url: str, name: str) -> str:
    """Return the URL of a page of the stand-in beside render-ws. Skips the test with a real render-ws."""
    if is_real(render_url):
        pytest.skip(f"needs the stand-in's controls: {REAL_URL} has none")
    return f"{render_url.split('/render-ws')[0]}/{name}"


@dataclass
class Rig:
    """One acquisition tree, one mipmap tree, a stand-in, and a daemon that can be killed and restarted."""

    root: Path
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted keys of the first watch, or whole sections, that differ from the rig's own: {"watch.strict": True}."""
    render_url: str = ""
    name: str = "daemon"
    prefix: tuple[str, ...] = ()
    standin: Program | RealService | None = None
    daemon: Program | None = None
    url: str = ""
    standins: Standins | None = None
    """Source of a stand-in without options; None starts one for this rig alone."""
    is_warm: bool = True
    """Whether daemon and stand-in are forked from a process that has imported them."""
    is_behind_nginx: bool = False
    """Whether the daemon reaches render-ws through a real nginx. Tests and their controls reach it directly."""
    nginx: Nginx | None = None

    def __post_init__(self) -> None:
        self.acquisition = self.root / "acquisition"
        self.mipmaps = self.root / "mipmaps"
        self.acquisition.mkdir(parents=True, exist_ok=True)

    # --- processes

    def start_standin(self, port: int = 0, *arguments: str) -> None:
        if REAL_URL:
            if port or arguments:
                pytest.skip(f"needs a stand-in with options: {' '.join(arguments) or f'port {port}'}")
            self.standin, self.render_url = RealService(), REAL_URL
            delete_stacks()
            return
        if self.standins and port == 0 and not arguments:
            self.standin, self.render_url = self.standins.take()
            return
        log = self.root / "standin.log"
        known = len(log.read_text().splitlines()) if log.exists() else 0
        self.standin = Program(log, "daemon", "standin", "--port", str(port), *arguments, is_warm=self.is_warm)
        self.render_url = url_said_in(self.standin, known)

    def put_nginx_in_front(self) -> None:
        """Start nginx before the stand-in, or with its present port; nothing if the rig is not behind nginx."""
        if not self.is_behind_nginx or (self.nginx and self.nginx.upstream == self.render_url):
            return
        self.nginx = self.nginx or Nginx(self.root / "nginx", self.render_url)
        self.nginx.upstream = self.render_url
        self.nginx.start()

    def config(self) -> Path:
        """Write the daemon's configuration file."""
        self.put_nginx_in_front()
        config, text = self.root / f"{self.name}.toml", self.config_text()
        if not config.exists() or config.read_text() != text:  # whole at every moment, for a process that reads it
            written = config.with_suffix(".new")
            written.write_text(text)
            written.replace(config)
        return config

    def start(self, timeout_s: float = 100.0) -> None:
        """Start the daemon, and return when it is ready."""
        config = self.config()
        log = self.root / f"{self.name}.log"
        known = len(log.read_text().splitlines()) if log.exists() else 0
        self.daemon = Program(log, "daemon", "run", "--config", str(config), prefix=self.prefix, is_warm=self.is_warm)
        self.url = wait_for(lambda: self._ready_url(known), timeout_s, f"daemon.ready in {log}")

    def use_z_table_without_sections(self) -> None:
        """Take z from a table that has no row for the sections of the tests, so that their montages become FAILED."""
        table = self.root / "z.csv"
        table.write_text("grid,z\n2000,7\n")
        self.settings |= {"watch.z.rule": "table", "watch.z.table": str(table)}

    def start_with_failed_montage(self, write: Callable[[], Written]) -> Written:
        """Start stand-in and daemon, and return a section whose montage is FAILED, since its z is unknown."""
        self.use_z_table_without_sections()
        self.start_standin()
        self.start()
        section = write()
        self.wait_until("failed", section.metafile)
        return section

    def _ready_url(self, known: int) -> str | None:
        assert self.daemon is not None
        if self.daemon.process.poll() is not None:
            ended = f"the daemon ended with {self.daemon.process.returncode}"
            raise AssertionError(f"{ended}:\n" + "\n".join(self.daemon.lines()[-30:]))
        for line in self.daemon.lines()[known:]:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if said.get("event") == "daemon.ready":
                    return str(said["url"])
        return None

    def close(self) -> None:
        if self.daemon is not None:
            self.daemon.end()
        if self.nginx is not None:
            self.nginx.stop()
        if isinstance(self.standin, RealService):
            delete_stacks()
            return
        if self.standin is None or (self.standins and self.standins.give_back(self.standin)):
            return
        self.standin.end()

    def config_text(self) -> str:
        watch: dict[str, Any] = {
            "name": self.name,
            "directory": str(self.acquisition),
            "scan_interval_s": 1,
            "settle_s": 0.2,
            "arrival_timeout_s": 20,
        }
        parts: dict[str, dict[str, Any]] = {
            "z": {"rule": "grid"},
            "stacks": {"raw": "{specimen_id}_raw", "mipmapped": "{specimen_id}_mips", "close_after_s": 0.5},
            "tilespecs": {},
            "qc": {},
            "mipmaps": {"output_dir": str(self.mipmaps), "levels": 6},
        }
        way = self.nginx.settings if self.nginx else {"url": self.render_url}
        top: dict[str, dict[str, Any]] = {
            "render": {**way, "owner": OWNER, "project": PROJECT},
            "journal": {"path": str(self.root / f"{self.name}.sqlite")},
            "http": {"port": 0},
            "log": {"format": "json"},
        }
        for key, value in self.settings.items():
            head, _, rest = key.partition(".")
            if head != "watch":
                top.setdefault(head, {})[rest] = value
            elif "." in rest:
                part, _, name = rest.partition(".")
                parts[part][name] = value
            else:
                watch[rest] = value
        text = [f"[{head}]\n{_toml(values)}" for head, values in top.items()]
        text.append(f"[[watch]]\n{_toml(watch)}")
        text += [f"[watch.{part}]\n{_toml(values)}" for part, values in parts.items() if values]
        return "\n".join(text)

    # --- answers of the daemon

    def montages(self) -> list[dict[str, Any]]:
        answer = self._from_journal("/api/montages?limit=10000", "montages")
        return answer["montages"] if answer else []

    def montage(self, montage_id: int) -> dict[str, Any]:
        """Return one montage with its events and attempts."""
        answer = self._from_journal(f"/api/montages/{montage_id}", "events")
        assert answer is not None, "the daemon does not answer"
        return answer

    def _from_journal(self, path: str, key: str) -> dict[str, Any] | None:
        """Return an answer that has the key; None if the daemon does not answer."""

        def answered() -> tuple[dict[str, Any] | None] | None:
            answer = fetch(self.url + path)
            if isinstance(answer, dict) and key not in answer:
                return None  # on a busy machine the journal may be slower than the page waits
            return (answer if isinstance(answer, dict) else None,)

        return wait_for(answered, 60, "an answer of the journal")[0]

    def montage_of(self, metafile: Path) -> dict[str, Any] | None:
        rows = [row for row in self.montages() if row["metafile"] == str(metafile) and row["state"] != "superseded"]
        return rows[0] if rows else None

    def wait_until(self, state: str, *metafiles: Path, timeout_s: float = 60.0) -> None:
        """Wait until each metafile's montage is in the state; fail at once if one FAILED instead."""

        def reached() -> bool:
            known = {row["metafile"]: row for row in reversed(self.montages()) if row["state"] != "superseded"}
            rows = [known.get(str(metafile)) for metafile in metafiles]
            failed = [row for row in rows if row and row["state"] == "failed" != state]
            assert not failed, failed
            return all(row is not None and row["state"] == state for row in rows)

        wait_for(reached, timeout_s, lambda: f"{state}; now {self._states(metafiles)}")

    @contextlib.contextmanager
    def held_at_mipmaps(self, write: Callable[[], Written], first: int = 0) -> Iterator[tuple[Written, Lease]]:
        """Write a section whose workers wait for every image but the `first` ones, until the lease is given back.

        Settling reads the images too. So the stand-in is stopped until the section has settled.
        """
        self.standin.process.send_signal(signal.SIGSTOP)
        try:
            section = write()
            self.wait_until("settled", section.metafile)
            with leased(*section.images[first:]) as lease:
                self.standin.process.send_signal(signal.SIGCONT)
                wait_for(lease.is_wanted, 60, "a worker waits for an image")
                yield section, lease
        finally:
            self.standin.process.send_signal(signal.SIGCONT)

    def _states(self, metafiles: tuple[Path, ...]) -> str:
        rows = {path.name: self.montage_of(path) or {"state": "unknown"} for path in metafiles}
        return str({name: (row["state"], row.get("waiting_for"), row.get("fault")) for name, row in rows.items()})

    def ready(self) -> dict[str, Any]:
        answer = fetch(f"{self.url}/readyz")
        return answer if isinstance(answer, dict) else {}

    # --- contents of render-ws

    def stack_url(self, stack: str) -> str:
        return f"{self.render_url}/owner/{OWNER}/project/{PROJECT}/stack/{stack}"

    def stack_state(self, stack: str) -> str | None:
        answer = fetch(self.stack_url(stack))
        return answer["state"] if isinstance(answer, dict) else None

    def tiles(self, stack: str, z: float) -> dict[str, Any]:
        """Return the tile specs of a layer by id; none if render-ws says that there are none."""
        answer = wait_for(lambda: fetch(f"{self.stack_url(stack)}/z/{z}/resolvedTiles"), 60, "an answer of render-ws")
        return answer["tileIdToSpecMap"] if isinstance(answer, dict) else {}

    def tell_standin(self, **fault: Any) -> None:
        """Make the stand-in misbehave; without arguments, behave again."""
        fetch(control_url(self.render_url, "faults"), method="POST" if fault else "DELETE", body=fault or None)

    def requests(self) -> list[dict[str, Any]]:
        return fetch(control_url(self.render_url, "requests"))


def _toml(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def verify_levels(tiles: dict[str, Any], levels: int = 6) -> int:
    """Return the number of mipmap files that the tiles name, after checking that each decodes to the right size."""
    files = 0
    for tile in tiles.values():
        named = tile["mipmapLevels"]
        assert sorted(named, key=int) == [str(level) for level in range(levels + 1)], (tile["tileId"], named)
        for level in range(1, levels + 1):
            with Image.open(uri_to_path(named[str(level)]["imageUrl"])) as image:
                image.load()
                assert image.size == level_size(int(tile["width"]), int(tile["height"]), level)
            files += 1
    return files


def digest_tree(directory: Path) -> dict[str, str]:
    """Return relative path -> sha256 of every file below a directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def running(rig: Rig, *, standin: bool = True) -> Iterator[Rig]:
    """Yield the rig; end its processes however the test ends."""
    try:
        if standin:
            rig.start_standin()
        rig.start()
        yield rig
    finally:
        rig.close()
