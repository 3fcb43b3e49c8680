"""The demonstration: a simulated microscope, the daemon and a stand-in render-ws, each a process of its own.

It shows the run as it goes, then reads the stacks back over REST, looks at every mipmap file that they name, puts a
picture of each section together from them, and says whether all of it is as it should be.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from daemon.montages.states import UNFINISHED, MontageState
from daemon.simulator.picture import compose_section, save_picture
from handlers.errors import Fault, SettingsFault
from handlers.images.reduction import level_size
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import StackState
from handlers.uris import uri_to_path

LOOK_EVERY_S = 0.3
STALLED_AFTER_S = 240.0
NOTHING_FOUND_AFTER_S = 15.0
LEVELS = 6
MARK = ".temwatch-demo"
"""Stands in a directory that an earlier demonstration made and that this one may therefore replace."""
FINISHED_WELL = frozenset({MontageState.COMPLETE, MontageState.IGNORED, MontageState.SUPERSEDED})


class DemoFault(Fault):
    """The demonstration cannot go on."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was found when the stacks were read back."""

    stack: StackId
    state: str
    tiles: int
    files: int
    problems: tuple[str, ...]


def parse_size(text: str) -> tuple[int, int]:
    """(width, height) in pixels from text such as 1024x1024.

    >>> parse_size("1024x768")
    (1024, 768)
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and 64 <= int(width) <= 8192 and 64 <= int(height) <= 8192):
        raise ValueError(f"{text!r} is not a size from 64x64 to 8192x8192, such as 1024x1024")
    return int(width), int(height)


@dataclass(slots=True)
class Show:
    """One demonstration; `directory` is the user's own, or None for a simulated microscope's."""

    sections: int
    tiles: int
    width: int
    height: int
    directory: Path | None
    keep: bool
    output: Path
    console: Console = field(default_factory=Console)

    async def run(self) -> bool:
        """Whether everything was done and verified."""
        self.output = self.output.absolute()
        prepare(self.output)
        watched = (self.directory or self.output / "acquisition").absolute()
        watched.mkdir(exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            render_url = await stack.enter_async_context(self._standin())
            config = self.output / "config.toml"
            config.write_text(config_text(render_url, watched, self.output, free_port()), encoding="utf-8")
            url = await stack.enter_async_context(self._daemon(config))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            self.console.print(
                f"render-ws stand-in  {render_url}\ntemwatch daemon     {url}\nwatching            {watched}"
            )
            montages = await self._watch(http, url, watched)
            client = await stack.enter_async_context(RenderClient(render_url))
            results = await verify(client, montages)
            pictures = await self._pictures(client, montages)
            good = self._report(montages, results, pictures)
            if self.keep:
                await self._stay(url, render_url)
            return good

    # --- the processes

    @contextlib.asynccontextmanager
    async def _standin(self) -> AsyncIterator[str]:
        async with process("standin", self.output, "-m", "daemon", "standin", "--port", "0") as (_, log):
            yield await first_line(log, lambda line: line.strip() if line.startswith("http") else None)

    @contextlib.asynccontextmanager
    async def _daemon(self, config: Path) -> AsyncIterator[str]:
        async with process("daemon", self.output, "-m", "daemon", "run", "--config", str(config)) as (_, log):
            yield await first_line(log, ready_url)

    @contextlib.asynccontextmanager
    async def _microscope(self, watched: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path] | None]:
        if self.directory is not None:
            yield None
            return
        arguments = [
            str(watched),
            *("--sections", str(self.sections)),
            *("--tiles", str(self.tiles)),
            *("--size", f"{self.width}x{self.height}"),
            *("--metafile-first", str(min(2, self.sections))),
        ]
        async with process("microscope", self.output, "-m", "daemon.simulator.microscope", *arguments) as started:
            yield started

    # --- the run

    async def _watch(self, http: aiohttp.ClientSession, url: str, watched: Path) -> list[dict[str, Any]]:
        """Shows the run until nothing is left to do; the montages as they are then."""
        columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            expected = None if self.directory else self.sections
            bars = {
                name: progress.add_task(name, total=total)
                for name, total in (
                    ("tiles imaged", expected and expected * self.tiles),
                    ("tile specs in stack", None),
                    ("tiles with mipmaps", None),
                    ("montages complete", expected),
                )
            }
            async with self._microscope(watched) as microscope:
                return await self._follow(http, url, microscope, progress, bars)

    async def _follow(
        self,
        http: aiohttp.ClientSession,
        url: str,
        microscope: tuple[asyncio.subprocess.Process, Path] | None,
        progress: Progress,
        bars: dict[str, TaskID],
    ) -> list[dict[str, Any]]:
        said: dict[int, str] = {}
        moved_at, last = time.monotonic(), ""
        while True:
            montages = await fetch_montages(http, url)
            made = await fetch_tiles_made(http, url)
            imaged = imaged_tiles(microscope[1]) if microscope else sum(m["tiles"] or 0 for m in montages)
            self._advance(progress, bars, montages, made, imaged)
            self._say(montages, said)
            now_at = f"{imaged} {made} {[m['state'] for m in montages]}"
            if now_at != last:
                moved_at, last = time.monotonic(), now_at
            if microscope and microscope[0].returncode not in (None, 0):
                raise DemoFault("microscope", "ended with an error", f"see {self.output / 'microscope.log'}")
            if self._is_over(montages, microscope, time.monotonic() - moved_at):
                return montages
            await asyncio.sleep(LOOK_EVERY_S)

    def _is_over(self, montages: list[dict[str, Any]], microscope: object, still_s: float) -> bool:
        unfinished = [m for m in montages if m["state"] in UNFINISHED]
        if self.directory is not None and not montages and still_s > NOTHING_FOUND_AFTER_S:
            raise DemoFault(str(self.directory), "no metafile (_metadata_*.json) was found below it")
        if still_s > STALLED_AFTER_S:
            raise DemoFault("demo", f"nothing moved for {STALLED_AFTER_S:g} s", f"see {self.output / 'daemon.log'}")
        if unfinished or not montages:
            return False
        if self.directory is not None:
            return still_s > 5
        return len(montages) >= self.sections and isinstance(microscope, tuple) and microscope[0].returncode == 0

    def _advance(
        self, progress: Progress, bars: dict[str, TaskID], montages: list[dict[str, Any]], made: int, imaged: int
    ) -> None:
        total = sum(m["tiles"] or 0 for m in montages)
        before = (MontageState.NOTICED, MontageState.SETTLED)
        in_stack = sum(m["tiles"] or 0 for m in montages if m["state"] not in before)
        done = sum(m["state"] == MontageState.COMPLETE for m in montages)
        expected = None if self.directory else self.sections * self.tiles
        progress.update(bars["tiles imaged"], completed=imaged, total=expected or imaged)
        progress.update(bars["tile specs in stack"], completed=in_stack, total=expected or total)
        progress.update(bars["tiles with mipmaps"], completed=made, total=expected or total)
        progress.update(bars["montages complete"], completed=done, total=self.sections if expected else len(montages))

    def _say(self, montages: list[dict[str, Any]], said: dict[int, str]) -> None:
        """One line for each outcome; on a terminal the bars say the rest."""
        for montage in montages:
            if montage["state"] not in UNFINISHED and said.get(montage["id"]) != montage["state"]:
                said[montage["id"]] = montage["state"]
                fault = f": {montage['fault']['problem']}" if montage["fault"] else ""
                self.console.print(f"{montage['state']:<9} {Path(montage['metafile']).name}{fault}", highlight=False)

    # --- the end

    async def _pictures(self, client: RenderClient, montages: list[dict[str, Any]]) -> list[Path]:
        wanted = {(m["mipmapped_stack"], m["z"]) for m in montages if m["state"] == MontageState.COMPLETE}
        pictures = []
        for stack, z in sorted(wanted):
            found = await client.resolved_tiles(StackId.parse(stack), z)
            if found is None:
                continue
            picture = self.output / "pictures" / f"{StackId.parse(stack).stack}_z{z:g}.png"
            picture.parent.mkdir(exist_ok=True)
            await asyncio.to_thread(_picture, found.to_json(), picture)
            pictures.append(picture)
        return pictures

    def _report(self, montages: list[dict[str, Any]], results: list[Result], pictures: list[Path]) -> bool:
        self.console.print(montage_table(montages), stack_table(results))
        for problem in (problem for result in results for problem in result.problems):
            self.console.print(f"[red]{problem}[/red]")
        for picture in pictures:
            self.console.print(f"picture   {picture}", highlight=False)
        good = bool(results) and all(not result.problems for result in results)
        good = good and all(m["state"] in FINISHED_WELL for m in montages) and bool(pictures)
        self.console.print("[green]all verified[/green]" if good else "[red]not everything is as it should be[/red]")
        return good

    async def _stay(self, url: str, render_url: str) -> None:
        self.console.print(
            f"still running until Ctrl-C; look at\n  {url}/api/montages\n  {url}/readyz\n  {url}/metrics\n"
            f"  {render_url}/owner/demo/stacks\n  {self.output}\n"
            f"and ask: temwatch status --config {self.output}/config.toml",
            highlight=False,
        )
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


def prepare(output: Path) -> None:
    """Makes an empty output directory; one that an earlier demonstration left is replaced.

    Raises
    ------
    SettingsFault
        If something else lies there.
    """
    if output.exists() and any(output.iterdir()):
        if not (output / MARK).exists():
            raise SettingsFault(
                "--output", f"{output} is not empty, and not of a demonstration", "name another directory"
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARK).touch()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config_text(render_url: str, watched: Path, output: Path, port: int) -> str:
    """Configuration of the demonstration's daemon: the usual one with short times."""

    def quoted(value: object) -> str:
        return json.dumps(str(value))

    return f"""\
[render]
url = {quoted(render_url)}
owner = "demo"
project = "temwatch"

[journal]
path = {quoted(output / "journal.sqlite")}

[http]
port = {port}

[log]
format = "json"

[[watch]]
name = "temca2"
directory = {quoted(watched)}
scan_interval_s = 2
settle_s = 0.5

[watch.z]
rule = "grid"

[watch.stacks]
raw = "{{specimen_id}}_raw"
mipmapped = "{{specimen_id}}_mips"
close_after_s = 2

[watch.mipmaps]
output_dir = {quoted(output / "mipmaps")}
levels = {LEVELS}
"""


@contextlib.asynccontextmanager
async def process(name: str, output: Path, *arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """A Python process whose output goes to `{name}.log`; asked to stop at the end, and waited for."""
    log = output / f"{name}.log"
    with log.open("wb") as file:
        # -P: what lies in the user's directory is not taken for ours.
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


async def first_line(log: Path, wanted: Any, timeout_s: float = 60.0) -> str:
    """What `wanted` makes of the first line of a growing log for which it gives anything."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for line in _lines(log):
            if found := wanted(line):
                return str(found)
        await asyncio.sleep(0.05)
    raise DemoFault(log.stem, f"did not start within {timeout_s:g} s", f"see {log}")


def _lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8", errors="replace").splitlines()


def ready_url(line: str) -> str | None:
    """The daemon's URL, from the log line that says it is ready."""
    with contextlib.suppress(ValueError):
        said = json.loads(line)
        if isinstance(said, dict) and said.get("event") == "daemon.ready":
            return str(said["url"])
    return None


async def fetch_montages(http: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    """All montages of the daemon, in order of acquisition."""
    async with http.get(f"{url}/api/montages", params={"limit": "10000"}) as answer:
        rows: list[dict[str, Any]] = (await answer.json())["montages"]
    return sorted(rows, key=lambda row: row["metafile"])


async def fetch_tiles_made(http: aiohttp.ClientSession, url: str) -> int:
    """How many tiles have their mipmaps."""
    async with http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    values = (line.split()[1] for line in text.splitlines() if line.startswith("temwatch_tiles_mipmapped_total "))
    return int(float(next(values, "0")))


def imaged_tiles(log: Path) -> int:
    """How many images the microscope says it has written."""
    return log.read_text(encoding="utf-8", errors="replace").count('.tif"')


async def verify(client: RenderClient, montages: Iterable[dict[str, Any]]) -> list[Result]:
    """Reads every stack back and looks at each file that it names."""
    sections: dict[str, set[float]] = {}
    raw: set[str] = set()
    expected: dict[str, int] = {}
    for montage in montages:
        if montage["state"] != MontageState.COMPLETE:
            continue
        for name in {montage["raw_stack"], montage["mipmapped_stack"]}:
            sections.setdefault(name, set()).add(montage["z"])
            expected[name] = expected.get(name, 0) + montage["tiles"]
        if montage["raw_stack"] != montage["mipmapped_stack"]:
            raw.add(montage["raw_stack"])
    return [
        await _verify_stack(client, StackId.parse(name), sorted(zs), expected[name], 0 if name in raw else LEVELS)
        for name, zs in sorted(sections.items())
    ]


async def _verify_stack(client: RenderClient, stack: StackId, zs: list[float], expected: int, levels: int) -> Result:
    meta = await client.stack(stack)
    state = str(meta.state) if meta else "missing"
    problems = [] if state == StackState.COMPLETE else [f"{stack} is {state}, not COMPLETE"]
    tiles = files = 0
    for z in zs:
        found = await client.resolved_tiles(stack, z)
        specs = list(found.tile_id_to_spec_map.values()) if found else []
        tiles += len(specs)
        counted, wrong = await asyncio.to_thread(_verify_files, specs, levels)
        files += counted
        problems += wrong
    if tiles != expected:
        problems.append(f"{stack} has {tiles} tiles, not {expected}")
    return Result(stack, state, tiles, files, tuple(problems))


def _verify_files(specs: list[dict[str, Any]], levels: int) -> tuple[int, list[str]]:
    """How many levels above 0 are good, and what is wrong with the others."""
    good, problems = 0, []
    for spec in specs:
        for level in range(1, levels + 1):
            entry = spec["mipmapLevels"].get(str(level))
            problem = "is not in the stack" if entry is None else _file_problem(spec, level, entry["imageUrl"])
            if problem:
                problems.append(f"{spec['tileId']} level {level} {problem}")
            else:
                good += 1
    return good, problems


def _file_problem(spec: dict[str, Any], level: int, url: str) -> str | None:
    try:
        with Image.open(uri_to_path(url)) as image:
            image.load()
            size = image.size
    except OSError as error:
        return f"cannot be read: {error}"
    wanted = level_size(int(spec["width"]), int(spec["height"]), level)
    return None if size == wanted else f"is {size}, not {wanted}"


def _picture(resolved: dict[str, Any], path: Path) -> None:
    save_picture(compose_section(resolved), path)


def montage_table(montages: list[dict[str, Any]]) -> Table:
    """Each montage with its tiles, state, and time from its metafile's being noticed to COMPLETE."""
    table = Table(title="Montages")
    for heading in ("metafile", "z", "tiles", "state", "metafile to COMPLETE"):
        justify: Literal["left", "right"] = "left" if heading in ("metafile", "state") else "right"
        table.add_column(heading, justify=justify, overflow="fold")
    for montage in montages:
        z = "" if montage["z"] is None else f"{montage['z']:g}"
        name = Path(montage["metafile"]).name
        table.add_row(name, z, str(montage["tiles"] or ""), montage["state"], _seconds(montage))
    return table


def _seconds(montage: dict[str, Any]) -> str:
    from datetime import datetime

    if not montage["complete_at"]:
        return ""
    taken = datetime.fromisoformat(montage["complete_at"]) - datetime.fromisoformat(montage["noticed_at"])
    return f"{taken.total_seconds():.1f} s"


def stack_table(results: list[Result]) -> Table:
    """Each stack as it was read back."""
    table = Table(title="Stacks, read back over REST")
    for heading in ("stack", "state", "tiles", "mipmap files", "problems"):
        table.add_column(heading, justify="left" if heading in ("stack", "state") else "right")
    for result in results:
        table.add_row(str(result.stack), result.state, str(result.tiles), str(result.files), str(len(result.problems)))
    return table
