"""The demonstration: a simulated microscope, the daemon and a stand-in for render-ws, each in its own process.

It shows the progress, reads the stacks back over REST, verifies every mipmap file in them, composes a picture of each
section, and reports whether everything is correct.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from daemon.montages.states import UNFINISHED, MontageState
from daemon.simulator.demonstration.pages import photograph_pages
from daemon.simulator.demonstration.processes import (
    OWNER,
    DemoFault,
    config_text,
    fetch_montages,
    fetch_tiles_made,
    first_line,
    free_port,
    imaged_tiles,
    prepare,
    process,
    ready_url,
)
from daemon.simulator.demonstration.quality import (
    fetch_verdicts,
    planted_faults,
    quality_lines,
    quality_problem,
    save_heatmaps,
)
from daemon.simulator.demonstration.results import Result, montage_table, stack_table, verify
from daemon.simulator.demonstration.store import ServedLevels, demo_store, require_packages
from daemon.simulator.demonstration.text import bad_tiles, next_steps, purpose, while_it_runs
from daemon.simulator.tile_faults import MIN_SIDE_PX, MIN_TILES, OVERLAP
from handlers.acquisition.formats.readers import READERS
from handlers.picture import compose_section, save_picture
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.text import printable, z_text

POLL_S = 0.3
STALLED_AFTER_S = 240.0
NOTHING_FOUND_AFTER_S = 15.0
GOOD_STATES = frozenset({MontageState.COMPLETE, MontageState.IGNORED, MontageState.SUPERSEDED})


def parse_size(text: str) -> tuple[int, int]:
    """Return (width, height) in pixels of a text such as 1024x1024. Raises ValueError.

    >>> parse_size("1024x768")
    (1024, 768)
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and 64 <= int(width) <= 8192 and 64 <= int(height) <= 8192):
        raise ValueError(f"{text!r} is not a size from 64x64 to 8192x8192, such as 1024x1024")
    return int(width), int(height)


@dataclass(slots=True)
class Show:
    """One demonstration.

    Parameters
    ----------
    sections : number of sections to image.
    tiles : number of tiles of a section.
    width, height : size of a tile, pixels.
    directory : the user's own acquisitions; None: a simulated microscope writes some.
    keep : whether everything keeps running at the end.
    output : directory of all files.
    """

    sections: int
    tiles: int
    width: int
    height: int
    directory: Path | None
    keep: bool
    output: Path
    format: str = "pytemca"
    """Format that the microscope writes."""
    store: str = "directory"
    """Store of the mipmaps: "directory" is in the output directory, "s3" is an object store of the demonstration."""
    console: Console = field(default_factory=Console)

    async def run(self) -> bool:
        """Run the demonstration; return whether everything was done and verified. SIGTERM ends it as Ctrl-C does."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
        self.output = self.output.absolute()
        if self.store == "s3":
            require_packages()
        prepare(self.output)
        watched = (self.directory or self.output / "acquisition").absolute()
        watched.mkdir(exist_ok=True)
        async with contextlib.AsyncExitStack() as stack:
            render_url = await stack.enter_async_context(self._standin())
            config = self.output / "config.toml"
            mipmaps = await stack.enter_async_context(demo_store(self.output)) if self.store == "s3" else None
            text = config_text(render_url, watched, self.output, free_port(), self.format, mipmaps)
            config.write_text(text, encoding="utf-8")
            url = await stack.enter_async_context(self._daemon(config))
            http = await stack.enter_async_context(aiohttp.ClientSession())
            self.console.print(
                f"render-ws stand-in  {render_url}\ntemwatch daemon     {url}\nwatching            {watched}"
            )
            if self.directory is None:
                self.console.print(purpose(self._metafile_first), highlight=False)
            if self._has_bad_tiles:
                self.console.print(bad_tiles(self.sections), highlight=False)
            montages = await self._watch(http, url, watched)
            client = await stack.enter_async_context(RenderClient(render_url))
            results = await verify(client, montages)
            served = ServedLevels(render_url, OWNER, self.output / "served")
            pictures = await self._pictures(client, montages, served)
            screenshots = await photograph_pages(http, url, montages, self.output / "screenshots")
            good = self._report(montages, results, pictures)
            good = await self._show_quality(http, url, montages) and good
            self.console.print("[green]all verified[/green]" if good else "[red]verification failed[/red]")
            for each in screenshots:
                self.console.print(f"page      {each}", highlight=False)
            if self.keep:
                await self._stay(url, render_url, config, montages)
            else:
                self._print_commands(next_steps(config, self.output, self.console.width, store=self.store))
            return good

    @property
    def _metafile_first(self) -> int:
        """Number of the section whose metafile is written before its images."""
        return min(2, self.sections)

    @property
    def _has_bad_tiles(self) -> bool:
        """Whether the last section has bad tiles, for which pyTEMCA's metafile has quality numbers."""
        is_large = self.tiles >= MIN_TILES and min(self.width, self.height) >= MIN_SIDE_PX
        return self.directory is None and self.format == "pytemca" and is_large

    def _print_commands(self, text: str) -> None:
        """Print text without wrapping its lines, so that they can be pasted."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

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
            *("--metafile-first", str(self._metafile_first)),
            *("--format", self.format),
            *(("--bad-tiles", str(self.sections), "--overlap", str(OVERLAP)) if self._has_bad_tiles else ()),
        ]
        async with process("microscope", self.output, "-m", "daemon.simulator.microscope", *arguments) as started:
            yield started

    # --- the run

    async def _watch(self, http: aiohttp.ClientSession, url: str, watched: Path) -> list[dict[str, Any]]:
        """Show the progress until all montages have ended; return them."""
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
        printed: dict[int, str] = {}
        moved_at, last = time.monotonic(), ""
        while True:
            montages = await fetch_montages(http, url)
            made = await fetch_tiles_made(http, url)
            imaged = imaged_tiles(microscope[1]) if microscope else sum(m["tiles"] or 0 for m in montages)
            self._advance(progress, bars, montages, made, imaged)
            self._print_outcomes(montages, printed)
            now_at = f"{imaged} {made} {[m['state'] for m in montages]}"
            if now_at != last:
                moved_at, last = time.monotonic(), now_at
            if microscope and microscope[0].returncode not in (None, 0):
                raise DemoFault("microscope", "ended with an error", f"see {self.output / 'microscope.log'}")
            if self._is_over(montages, microscope, time.monotonic() - moved_at):
                return montages
            await asyncio.sleep(POLL_S)

    def _is_over(self, montages: list[dict[str, Any]], microscope: object, still_s: float) -> bool:
        unfinished = [m for m in montages if m["state"] in UNFINISHED]
        if self.directory is not None and not montages and still_s > NOTHING_FOUND_AFTER_S:
            raise DemoFault(str(self.directory), f"contains no metafile ({READERS[self.format].pattern})")
        if still_s > STALLED_AFTER_S:
            raise DemoFault("demo", f"no progress for {STALLED_AFTER_S:g} s", f"see {self.output / 'daemon.log'}")
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

    def _print_outcomes(self, montages: list[dict[str, Any]], printed: dict[int, str]) -> None:
        """Print a line for each outcome."""
        for montage in montages:
            if montage["state"] not in UNFINISHED and printed.get(montage["id"]) != montage["state"]:
                printed[montage["id"]] = montage["state"]
                fault = f": {montage['fault']['problem']}" if montage["fault"] else ""
                line = f"{montage['state']:<9} {Path(montage['metafile']).name}{fault}"
                self.console.print(escape(printable(line)), highlight=False)

    # --- results

    async def _pictures(self, client: RenderClient, montages: list[dict[str, Any]], served: ServedLevels) -> list[Path]:
        wanted = {(m["mipmapped_stack"], m["z"]) for m in montages if m["state"] == MontageState.COMPLETE}
        pictures = []
        for stack, z in sorted(wanted):
            found = await client.resolved_tiles(StackId.parse(stack), z)
            if found is None:
                continue
            picture = self.output / "pictures" / f"{StackId.parse(stack).stack}_z{z_text(z)}.png"
            picture.parent.mkdir(exist_ok=True)
            await asyncio.to_thread(_picture, found.to_json(), picture, served)
            pictures.append(picture)
        return pictures

    def _report(self, montages: list[dict[str, Any]], results: list[Result], pictures: list[Path]) -> bool:
        self.console.print(montage_table(montages), stack_table(results))
        for problem in (problem for result in results for problem in result.problems):
            self.console.print(f"[red]{escape(printable(problem))}[/red]")
        for picture in pictures:
            self.console.print(f"picture   {picture}", highlight=False)
        good = bool(results) and all(not result.problems for result in results)
        return good and all(m["state"] in GOOD_STATES for m in montages) and bool(pictures)

    async def _show_quality(self, http: aiohttp.ClientSession, url: str, montages: list[dict[str, Any]]) -> bool:
        """Print the verdicts and save heatmaps; return whether the verdicts list exactly the planted faults."""
        verdicts = await fetch_verdicts(http, url, montages)
        for line in quality_lines(montages, verdicts):
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        for montage in montages:
            if montage["id"] in verdicts and verdicts[montage["id"]]["verdict"] != "pass":
                for file in await save_heatmaps(http, url, montage, self.output / "pictures"):
                    self.console.print(f"picture   {file}", highlight=False, soft_wrap=True)
        if not self._has_bad_tiles:
            return True
        problem = quality_problem(verdicts, planted_faults(self.output / "microscope.log"))
        if problem:
            self.console.print(f"[red]{escape(printable(problem))}[/red]", soft_wrap=True)
        return not problem

    async def _stay(self, url: str, render_url: str, config: Path, montages: list[dict[str, Any]]) -> None:
        drawn = [(m["mipmapped_stack"], m["z"]) for m in montages if m["state"] == MontageState.COMPLETE]
        self._print_commands(while_it_runs(url, render_url, config, drawn[0] if drawn else None, self.console.width))
        ended = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, ended.set)
        await ended.wait()


def _picture(resolved: dict[str, Any], path: Path, served: ServedLevels) -> None:
    served.add_sizes(resolved)
    save_picture(compose_section(resolved, path_map=served), path)
