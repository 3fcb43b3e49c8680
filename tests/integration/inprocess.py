"""The parts of the daemon in this process, with a real journal, real files and the stand-in. Tiles are made in-line."""

import asyncio
import contextlib
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import rows
from daemon.montages.records import Montage
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState
from daemon.pipeline.assembly import Assembly
from daemon.pipeline.changes.recheck import Recheck
from daemon.pipeline.metrics import Metrics
from daemon.simulator.section import plan_section
from daemon.simulator.standin.server import serve_standin
from daemon.simulator.temca import write_section
from handlers.acquisition.presence import find_metafile
from handlers.errors import Fault
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.uris import path_to_uri
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool

RAW, MIPS = StackId("em", "test", "s_raw"), StackId("em", "test", "s_mips")


def settings_for(
    root: Path,
    url: str,
    qc: dict[str, Any] | None = None,
    of_format: dict[str, Any] | None = None,
    mipmaps: dict[str, Any] | None = None,
    **stacks: Any,
) -> Settings:
    """Return settings of one watch that settles at once and closes stacks when they are quiet.

    Parameters
    ----------
    of_format : settings of a watch of another format.
    """
    watch = {
        "name": "w",
        "directory": str(root / "acquisition"),
        "settle_s": 0.0,
        "scan_interval_s": 1.0,
        "z": {"rule": "grid"},
        "stacks": {"raw": "s_raw", "mipmapped": "s_mips", "close_after_s": 0.0, **stacks},
        "mipmaps": {"output_dir": str(root / "mipmaps"), "levels": 1, **(mipmaps or {})},
        "qc": qc or {},
        **(of_format or {}),
    }
    top = {"render": {"url": url, "owner": "em", "project": "test"}, "pictures": {"directory": str(root / "pictures")}}
    return Settings.model_validate({**top, "watch": [watch]})


@dataclass
class Bench:
    """Running parts of the daemon, and the directories that they work on."""

    root: Path
    assembly: Assembly
    recheck: Recheck
    tasks: dict[str, asyncio.Task[None]]
    log_lines: list[MutableMapping[str, Any]]
    """Lines that were logged."""

    def write(self, grid: int = 1050, *, tiles: int = 2, size: tuple[int, int] = (64, 64), **plan_of: Any) -> Path:
        """Write a small section; return its metafile."""
        plan = plan_section(tiles=tiles, size=size, grid=grid, specimen_id="s", **plan_of)
        return write_section(plan, self.root / "acquisition", pixels="noise").metafile

    async def notice(self, metafile: Path) -> None:
        """Report a file, or a section in one, as the watcher does: repeatedly, until the pipeline accepts it."""
        present = find_metafile(metafile)
        assert present is not None
        sighting = Sighting("w", metafile, present.identity, FoundBy.SCAN)
        for _ in range(50):
            with contextlib.suppress(Fault):
                await self.assembly.pipeline.notice(sighting)
                return
        raise AssertionError(f"the pipeline did not accept {metafile}")

    async def montage(self, metafile: Path) -> Montage | None:
        """Return the latest montage of a metafile."""
        with closing(sqlite3.connect(self.assembly.journal.path)) as connection:
            return rows.find(connection, rows.LATEST_OF_PATH, (path_to_uri(metafile),))

    async def reaches(self, metafile: Path, *states: MontageState, timeout_s: float = 60.0) -> Montage:
        """Wait until the montage has one of the states; fail if a part of the daemon ends before."""
        montage = None
        try:
            async with asyncio.timeout(timeout_s):
                while (montage := await self.montage(metafile)) is None or montage.state not in states:
                    self.check()
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"expected one of {states} within {timeout_s:g} s, found {montage}") from None
        return montage

    async def until(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Wait for a condition; fail if a part of the daemon ends before."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self.check()
                await asyncio.sleep(0.01)

    def check(self) -> None:
        """Assert that no part of the daemon has ended."""
        for name, task in self.tasks.items():
            assert not task.done(), (name, task)

    async def stop(self) -> None:
        """Stop in order, as the daemon does."""
        self.assembly.pipeline.stop()
        self.assembly.keeper.stop()
        await asyncio.wait([self.tasks["pipeline"]], timeout=60)
        await self.end()

    async def end(self) -> None:
        """Cancel all parts at once."""
        for task in self.tasks.values():
            task.cancel()
        await asyncio.wait(self.tasks.values())
        self.tasks.clear()


@contextlib.asynccontextmanager
async def bench(
    root: Path, client: RenderClient | None = None, pool: WorkerPool | None = None, **stacks: Any
) -> AsyncIterator[Bench]:
    """Run the parts on `root`. See `settings_for` for the keyword arguments.

    Parameters
    ----------
    pool : makes the tiles; None: an in-line executor makes each tile at once.
    """
    (root / "acquisition").mkdir(exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        log_lines = stack.enter_context(structlog.testing.capture_logs())
        journal = await stack.enter_async_context(Journal(root / "journal.sqlite"))
        if client is None:
            url = await stack.enter_async_context(serve_standin())
            client = await stack.enter_async_context(RenderClient(url))
        settings = settings_for(root, client.base_url, **stacks)
        if pool is None:
            pool = stack.enter_context(open_executor("inline", 1))
        assembly = Assembly(
            lambda: settings, Metrics(), journal, client, lambda _: True, lambda _: None, close_at_end=False
        )
        assembly.assemble(pool, 1)
        await journal.count_crashes()
        await assembly.pipeline.resume()
        recheck = Recheck(lambda: settings, journal, is_observable=lambda _: True, enqueue=assembly.pipeline.enqueue)
        parts = {
            "pipeline": assembly.pipeline.run(),
            "stack keeper": assembly.keeper.run(),
            "render gate": assembly.gate.run(),
            "mipmap disks": assembly.disks.run(),
            "recheck": recheck.run(),
            "late changes": assembly.late_changes.run(),
        }
        tasks = {name: asyncio.create_task(part, name=name) for name, part in parts.items()}
        bench = Bench(root, assembly, recheck, tasks, log_lines)
        try:
            yield bench
            bench.check()
        finally:
            if tasks:
                await bench.end()


def retry_fast(monkeypatch: Any) -> None:
    """Shorten the pauses between attempts in every module of the pipeline that imports them."""
    for name, module in list(sys.modules.items()):
        if name.startswith("daemon.pipeline."):
            for delay, seconds in (("FIRST_DELAY_S", 0.01), ("MAX_DELAY_S", 0.05)):
                if hasattr(module, delay):
                    monkeypatch.setattr(module, delay, seconds)
