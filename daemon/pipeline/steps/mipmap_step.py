"""Mipmap step: make the levels of every tile of a montage in the workers, and record each verified tile."""

import asyncio
from collections.abc import Collection, Iterable, Mapping

import structlog

from daemon.journal.journal import Journal
from daemon.pipeline.gates.output_disks import OutputDisks, directory_identity, replaced_fault
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.steps.changing_images import ChangingImages
from daemon.pipeline.steps.render_image_cache import RenderImageCache
from daemon.pipeline.steps.section import Section
from daemon.pipeline.steps.tile_faults import add_evidence, image_evidence, merge_faults
from daemon.pipeline.watch_root import watch_root
from daemon.system.threads import access_timeout
from handlers.container import Containers
from handlers.errors import Evidence, Fault, LoginRefused, StoreFault
from handlers.generate_mipmaps import make_all
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import MipmapPlan
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.place import ObjectPlace, Place
from handlers.render.client import RenderClient
from handlers.stores.choose import store_of
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()


class Stopped(Exception):  # noqa: N818  not an error: the daemon stops
    """The step ended between two tiles. Finished tiles are recorded."""


class MipmapStep:
    """Makes mipmaps of several montages concurrently.

    Parameters
    ----------
    containers : containers of watched and mipmap directories.
    in_flight : largest number of tiles submitted to the workers, over all montages; slightly more than workers.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        client: RenderClient,
        keeper: StackKeeper,
        disks: OutputDisks,
        pool: WorkerPool,
        metrics: Metrics,
        image_cache: RenderImageCache,
        containers: Containers,
        in_flight: int,
    ) -> None:
        self._journal = journal
        self._client = client
        self._keeper = keeper
        self._disks = disks
        self._pool = pool
        self._metrics = metrics
        self._image_cache = image_cache
        self._containers = containers
        self._slots = asyncio.Semaphore(in_flight)
        self.changing_images = ChangingImages()

    async def make(self, section: Section) -> None:
        """Make the levels of every tile that is not recorded as made.

        Raises
        ------
        Stopped
            If the daemon stops; finished tiles are recorded.
        StorageFault
            If the disk of the mipmaps is full or gone; finished tiles are recorded.
        Fault
            If levels of some tiles could not be made. All tiles were attempted; the fault lists the failed ones.
        """
        plan = section.watch.mipmap_plan().served_by(self._client.address, section.raw, self._client.access)
        if section.raw == section.mipmapped:
            async with self._keeper.holding(section.raw):
                await self._make_levels(section, plan)
        else:
            await self._make_levels(section, plan)

    async def _make_levels(self, section: Section, plan: MipmapPlan) -> None:
        await self._disks.require(section.watch.mipmaps)
        made = await self._journal.tiles_made(section.montage.id)
        jobs = await asyncio.to_thread(_jobs, section, plan, made, self._containers)
        self._image_cache.begin(section.montage.id, is_resumed=bool(made))
        if plan.reduction.method == "render" and await asyncio.to_thread(_is_any_level_present, jobs):
            await self._image_cache.empty(section.raw)  # the pixels are read through this cache
        output_dir = section.watch.mipmaps.output_dir
        directory = await _identity_of(output_dir)
        async with access_timeout(section.image_directory, accesses=len(jobs)):
            before = await asyncio.to_thread(image_evidence, jobs)
        faults: list[Fault] = []
        notes: list[str] = []

        async def record(reports: list[MipmapReport]) -> None:
            if await _identity_of(output_dir) != directory:
                # These levels may be below a mount that ended. The mount may hold levels of a former content.
                halt.fault = halt.fault or replaced_fault(output_dir)
                halt.set()
                return
            notes.extend(note for report in reports for note in report.notes)
            await self._record(section, reports, faults, before)
            if any(isinstance(fault, LoginRefused) for fault in faults):
                halt.set()  # every further tile would send the refused login again
            if away := next((fault for fault in faults if isinstance(fault, StoreFault)), None):
                self._disks.suspect(output_dir, away)

        with self._disks.halt_of(output_dir) as halt:
            await make_all(self._pool, jobs, record, slots=self._slots, stop=halt)
        if notes:
            log.warning("images.odd", images=len(notes), first=notes[0])
        if faults:
            raise merge_faults(section.montage, faults, len(section.specs))
        if halt.is_set() and len(await self._journal.tiles_made(section.montage.id)) < len(made) + len(jobs):
            raise halt.fault or Stopped
        await self._image_cache.finish(section.montage.id, section.raw)
        self.changing_images.forget(section.montage.id)

    async def _record(
        self, section: Section, reports: list[MipmapReport], faults: list[Fault], before: Mapping[str, Evidence]
    ) -> None:
        found = [await add_evidence(report.fault.to_fault(), before) for report in reports if report.fault]
        faults += [self.changing_images.fault_or_changing(section.montage.id, section.watch, fault) for fault in found]
        done = [report for report in reports if not report.fault]
        if done:
            contents = {report.tile_id: report.level0 for report in done}
            measured = {report.tile_id: report.measured.to_bytes() for report in done if report.measured}
            await self._journal.record_tiles(section.montage.id, contents, measured)
        if any(level.replaced for report in reports for level in report.made):
            self._image_cache.mark_rewritten(section.montage.id)
        self._metrics.tiles.inc(len(done))
        self._metrics.files.inc(sum(len(report.made) for report in done))
        self._metrics.bytes.inc(sum(level.bytes for report in done for level in report.made))


async def _identity_of(output_dir: Place) -> tuple[int, int] | None:
    """Return the identity of a local directory. An object store needs none: its bucket is part of each address."""
    return None if isinstance(output_dir, ObjectPlace) else await asyncio.to_thread(directory_identity, output_dir)


def _jobs(section: Section, plan: MipmapPlan, made: Collection[str], containers: Containers) -> list[MipmapJob]:
    """Return a job for each tile, and one for the shared mask, except those recorded as made."""
    tiles = section.level0()
    plan, root = plan.contained(containers), watch_root(section.watch.directory, containers)
    around = section.neighbours(plan) if section.watch.qc.measure_stage_error else {}
    jobs = [
        tile_job(tile, plan, root, measure=True, neighbours=around.get(tile.tile_id, ()))
        for tile in tiles
        if tile.tile_id not in made
    ]
    if tiles[0].mask is not None and str(tiles[0].mask) not in made:
        jobs.append(mask_job(tiles[0], plan))
    return jobs


def _is_any_level_present(jobs: Iterable[MipmapJob]) -> bool:
    """Whether the first level of any job exists."""
    return any(store_of(place).stat(place) for job in jobs for _, place in job.outputs[:1])
