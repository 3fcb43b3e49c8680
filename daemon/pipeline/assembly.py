"""Assembly: open journal, client and workers in order, and connect the parts that process montages.

The daemon uses it until it stops, a replay without a daemon until its montages have ended. Watching and HTTP are not
part of it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from daemon.config.settings import Settings
from daemon.config.worker_settings import WorkerSettings
from daemon.journal.file import Examination
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.changes.late_changes import LateChanges
from daemon.pipeline.changes.late_uploads import LateUploads
from daemon.pipeline.gates.output_disks import OutputDisks
from daemon.pipeline.gates.render_gate import PROBE_STACK, RenderGate
from daemon.pipeline.gates.worker_gate import WorkerGate
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.runner import PipelineRunner
from daemon.pipeline.settling.settle import Settler
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.stacks.quality_hold import QualityHold
from daemon.pipeline.stacks.use import CloseRule
from daemon.pipeline.steps.perform import Steps
from daemon.pipeline.steps.section import Section
from daemon.system.threads import DaemonThreads
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool
from handlers.workers.worker import WorkerDeath

log = structlog.get_logger()


@dataclass
class Assembly:
    """The parts that process montages. They call one another through this object."""

    settings: Callable[[], Settings]
    metrics: Metrics
    journal: Journal
    client: RenderClient
    is_observable: Callable[[str], bool]
    """Whether the directory of a watch can be accessed now."""
    rescan: Callable[[Path], object]
    """Reports a metafile to the watcher: it is noticed again if it is present."""
    close_at_end: bool
    """Whether stacks are closed once after the last step of all montages, and not after their quiet time."""
    worker_deaths: int = 0
    """Number of worker processes that died since the start."""
    last_worker_death: str = ""
    """Time, tile and signal of the last death; empty before the first."""

    def assemble(self, pool: WorkerPool, workers: int) -> None:
        """Create and connect the parts.

        Parameters
        ----------
        workers : number of tiles that the pool processes at the same time.
        """
        self.pool = pool
        pool.on_death = self._record_death
        self.workers = WorkerGate(pool, on_open=self._wake)
        render = self.settings().render
        probe = StackId(render.owner, render.project, PROBE_STACK)
        self.gate = RenderGate(self.client, probe, on_open=self._wake)
        self.late_uploads = LateUploads(self.journal, self.client, self._section)
        self.keeper = StackKeeper(
            self.client,
            self.journal,
            close_rule=self._close_rule,
            may_close=self._may_close,
            on_complete=self._completed,
            on_tiles_lost=self._tiles_lost,
            overwritten=self.late_uploads.fault_of,
            before_complete=self._check_images,
            held=QualityHold(self.settings, self.journal).stacks,
            gate=self.gate,
        )
        self.disks = OutputDisks(self.settings, self.journal, on_usable=self._wake)
        self.steps = Steps(
            settings=self.settings,
            journal=self.journal,
            client=self.client,
            keeper=self.keeper,
            disks=self.disks,
            pool=pool,
            metrics=self.metrics,
            in_flight=workers + max(2, workers // 2),
        )
        self.late_changes = LateChanges(
            self.settings,
            self.journal,
            is_observable=self.is_observable,
            on_change=self._images_changed,
            reset_if_overwritten=self._reset_if_overwritten,
            containers=self.steps.containers,
        )
        self.pipeline = PipelineRunner(
            settings=self.settings,
            journal=self.journal,
            settler=Settler(
                metafiles=self.steps.metafiles,
                containers=self.steps.containers,
                largest_image_px=largest_image_px(self.settings().workers),
            ),
            steps=self.steps,
            keeper=self.keeper,
            gate=self.gate,
            disks=self.disks,
            workers=self.workers,
            metrics=self.metrics,
            is_observable=self.is_observable,
            rescan=self.rescan,
            on_complete=self.late_changes.follow,
        )

    def _record_death(self, death: WorkerDeath) -> None:
        # A worker without a tile may be found dead during any step: the line must not name that step's montage.
        context = copy_context() if death.tile_id else Context()
        context.run(log.warning, "worker.died", how=death.how or "unknown", tile=death.tile_id or None)
        self.metrics.worker_deaths.inc()
        self.worker_deaths += 1
        time = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        tile = f"in tile {death.tile_id}" if death.tile_id else "without a tile"
        self.last_worker_death = f"at {time} {tile}" + (f" by {death.how}" if death.how else "")

    def _wake(self) -> None:
        self.pipeline.wake()

    def _may_close(self) -> bool:
        is_idle = not (self.pipeline.under_way or self.pipeline.waiting)
        return is_idle or not self.close_at_end

    def _close_rule(self, watch: str) -> CloseRule | None:
        rule = self.pipeline.close_rule(watch)
        return CloseRule(0.0) if rule and self.close_at_end else rule

    async def _check_images(self, montages: Collection[Montage]) -> None:
        await self.late_changes.check_before_complete(montages)

    async def _section(self, montage: Montage) -> Section | None:
        watch = next((watch for watch in self.settings().watch if watch.name == montage.watch), None)
        return None if watch is None else await self.steps.section_once(montage, watch)

    async def _images_changed(self, montage: Montage) -> None:
        await self.pipeline.images_changed(montage)

    async def _reset_if_overwritten(self, montage: Montage) -> bool:
        following = await self.late_uploads.reset_if_overwritten(montage)
        if following is not None:
            await self._tiles_lost(following)
        return following is not None

    async def _tiles_lost(self, montage: Montage) -> None:
        await self.pipeline.enqueue(montage)

    async def _completed(self, montage_ids: tuple[int, ...]) -> None:
        await self.pipeline.completed(montage_ids)


@contextlib.asynccontextmanager
async def open_assembly(
    settings: Callable[[], Settings],
    *,
    is_observable: Callable[[str], bool],
    rescan: Callable[[Path], object] = lambda _: None,
    metrics: Metrics | None = None,
    close_at_end: bool = False,
    examination: Examination | None = None,
    render_url: str = "",
) -> AsyncIterator[Assembly]:
    """Open the resources in order and yield the assembly. The caller locks the journal and runs the tasks of the parts.

    Parameters
    ----------
    examination : an examination of the journal that is already running.
    render_url : URL of render-ws in place of the configured one, for an embedded stand-in on a free port.

    Raises
    ------
    Fault
        If the journal or the executor cannot be opened.
    """
    now = settings()
    asyncio.get_running_loop().set_default_executor(DaemonThreads("files"))
    async with contextlib.AsyncExitStack() as stack:
        journal = await stack.enter_async_context(Journal(now.journal.path, examination=examination))
        client = await stack.enter_async_context(RenderClient(render_url or now.render.url, access=now.render.access))
        count = now.workers.at_once
        pool = await stack.enter_async_context(_open_pool(now, count))
        assembly = Assembly(settings, metrics or Metrics(), journal, client, is_observable, rescan, close_at_end)
        assembly.assemble(pool, count)
        yield assembly


@contextlib.asynccontextmanager
async def _open_pool(settings: Settings, count: int) -> AsyncIterator[WorkerPool]:
    """Open the workers. They start and end in a thread, so that the event loop handles signals meanwhile."""
    workers, journal = settings.workers, settings.journal.path
    opening = open_executor(
        workers.executor,
        count,
        workers.cluster,
        worker_paths=workers.worker_paths,
        visited=journal.with_name(f"{journal.name}-visited"),
        job_timeout_s=workers.tile_timeout_s,
        largest_image_px=largest_image_px(workers),
    )
    pool = await asyncio.to_thread(opening.__enter__)
    try:
        yield pool
    finally:
        await asyncio.to_thread(opening.__exit__, None, None, None)


def largest_image_px(workers: WorkerSettings) -> int:
    """Return the number of pixels of the largest image. The workers keep the value from the start."""
    return round(workers.largest_image_megapixels * 1e6)
