"""The mipmap step: worker processes make the levels of tiles.

`generate_mipmaps` processes layers of a stack, `make_all` a given list of jobs.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handlers.container import Container, Containers
from handlers.errors import AccessRefused, Fault, ImageFault, RenderFault
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan, level0_of
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.place import ObjectPlace, Place
from handlers.progress import Progress
from handlers.render.client import RenderClient
from handlers.render.failures import Failure, failure_lines
from handlers.render.names import StackId, ZRange
from handlers.render.z_values import absent_z_failure, find_z, no_tiles_fault
from handlers.stores.choose import store_of
from handlers.workers.pool import WorkerPool, run_job
from handlers.workers.upcoming import UpcomingImages

LAYERS_AT_ONCE = 2
"""Layers processed at the same time: while the last tiles of a layer are made, idle workers take tiles of the next."""

MAX_NOTES = 20
"""Largest number of notes in a report."""

LayerDone = Callable[[float, int, int], None]
"""Called after each layer with its z, the number of its tiles, and the number of its failures."""


@dataclass(frozen=True, slots=True, repr=False)
class MipmapsReport:
    """Outcome of the mipmaps of some layers."""

    stack: StackId
    tile_count: int
    """Tiles that have all their levels, verified."""
    file_count: int
    """Levels that were written, those of masks included."""
    kept_count: int
    """Valid levels that were kept."""
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    """Warnings about images whose levels were made; at most MAX_NOTES."""

    def __repr__(self) -> str:
        """Return the outcome as a person reads it."""
        counts = f"{self.file_count} files written, {self.kept_count} valid files kept"
        outcome = f"{self.stack}: {self.tile_count} tiles have all their mipmaps ({counts})"
        return "\n".join([outcome, *failure_lines(self.failures), *self.notes])


async def generate_mipmaps(
    client: RenderClient,
    stack: StackId,
    zs: Collection[float] | ZRange,
    plan: MipmapPlan,
    pool: WorkerPool,
    *,
    in_flight: int,
    progress: Progress = lambda done, known: None,
    on_layer: LayerDone = lambda z, tiles, failures: None,
    clear_image_cache: bool = True,
    source_roots: Collection[Path] = (),
) -> MipmapsReport:
    """Make the mipmap levels of every tile of some layers of a stack, and of their masks. The stack is only read.

    A bad tile does not stop the others. A refused login does: every further tile would send the login again, which may
    lock the account. The levels of an image that several tiles share are made once. If levels were replaced, the image
    cache of render-ws is cleared, since it would show the old levels.

    Parameters
    ----------
    zs : z of the layers, or a range. A listed z without tiles is a failure; of a range, the existing layers count.
    in_flight : largest number of images in the pool at once; a few more than there are workers.
    clear_image_cache : whether the image cache is cleared; with method `render` also before the pixels are fetched.
    source_roots : directories that images and masks must lie in, with symbolic links resolved; empty: no limit.

    Raises
    ------
    RenderFault
        If the layers cannot be listed, or none of the wanted layers exists.
    StorageFault
        If the output directory cannot be made, or the object store cannot be listed.
    SettingsFault
        If no connection to the object store can be opened.
    """
    found_z = await find_z(client, stack, zs)
    if not found_z.present:
        raise no_tiles_fault(stack, zs)
    tally, plan = _Tally(progress), plan.served_by(client.address, stack, client.access)
    plan = await asyncio.to_thread(_opened, plan)
    tally.failures += [absent_z_failure(stack, z) for z in found_z.absent]
    roots = await asyncio.to_thread(lambda: [Container(root, root.resolve()) for root in source_roots])
    slots, layer_slots = asyncio.Semaphore(in_flight), asyncio.Semaphore(LAYERS_AT_ONCE)

    if clear_image_cache and plan.reduction.method == "render":
        await _empty_image_cache(client, tally)  # this method takes its pixels from that cache

    async def work(z: float) -> None:
        async with layer_slots:
            tiles = await _make_layer(client, stack, z, plan, pool, slots, tally, roots)
        on_layer(z, tiles, sum(failure.z == z for failure in tally.failures))

    async with asyncio.TaskGroup() as group:
        for z in found_z.present:
            group.create_task(work(z), name=f"mipmaps z {z}")
    if clear_image_cache and tally.replaced:
        await _empty_image_cache(client, tally)
    if left := tally.known - tally.done:
        tally.notes.append(f"{left} tiles were not tried after render-ws refused the login")
    failures = sorted(tally.failures, key=lambda failure: (failure.z, failure.tile_id or ""))
    return MipmapsReport(stack, tally.done - tally.failed, tally.files, tally.kept, tuple(failures), tuple(tally.notes))


def _opened(plan: MipmapPlan) -> MipmapPlan:
    """Return the plan with its output directory made and resolved.

    An object store is listed first: an unreachable store is then one fault, and not one per tile.
    """
    if isinstance(plan.output_dir, ObjectPlace):
        next(iter(store_of(plan.output_dir).list(plan.output_dir)), None)
    return plan.contained(Containers())


async def _empty_image_cache(client: RenderClient, tally: "_Tally") -> None:
    """Clear the image cache of render-ws. A fault becomes a note, since it does not affect the level files."""
    try:
        await client.empty_image_cache()
    except RenderFault as fault:
        tally.notes.append(f"render-ws may show old levels from its image cache: {fault}")


class _Tally:
    """Counts and failures so far, over all layers."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.known = self.done = self.failed = self.files = self.kept = self.replaced = 0
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.stop = asyncio.Event()
        """Set when render-ws refuses the login."""

    def expect(self, tiles: int) -> None:
        self.known += tiles
        self._progress(self.done, self.known)

    def fail(self, z: float, tile_id: str, fault: Fault) -> None:
        self.failures.append(Failure(z, tile_id, fault))
        self.failed += 1

    def finish(self, tiles: int) -> None:
        self.done += tiles
        self._progress(self.done, self.known)


async def _make_layer(
    client: RenderClient,
    stack: StackId,
    z: float,
    plan: MipmapPlan,
    pool: WorkerPool,
    slots: asyncio.Semaphore,
    tally: _Tally,
    roots: Sequence[Container],
) -> int:
    """Make the levels of one layer and return the number of its tiles."""
    try:
        found = await client.resolved_tiles(stack, z)
    except Fault as fault:
        tally.failures.append(Failure(z, None, fault))
        return 0
    specs = list(found.tile_id_to_spec_map.values()) if found else []
    tally.expect(len(specs))
    jobs, tiles_of = await asyncio.to_thread(_jobs, specs, z, plan, tally, roots)
    failed: set[str] = set()

    async def record(reports: list[MipmapReport]) -> None:
        for report in reports:
            tally.files += len(report.made)
            tally.replaced += sum(level.replaced for level in report.made)
            tally.kept += len(report.kept)
            tally.notes += report.notes[: MAX_NOTES - len(tally.notes)]
            if report.fault:
                fault = report.fault.to_fault()
                if isinstance(fault, AccessRefused):
                    tally.stop.set()
                for tile_id in tiles_of[report.tile_id] - failed:
                    failed.add(tile_id)
                    tally.fail(z, tile_id, fault)
        tally.finish(sum(len(tiles_of[report.tile_id]) for report in reports if report.tile_id not in masks))

    masks = {job.tile_id for job in jobs if job.is_mask}
    await make_all(pool, jobs, record, slots=slots, stop=tally.stop)
    return len(specs)


def _jobs(
    specs: Sequence[Mapping[str, Any]], z: float, plan: MipmapPlan, tally: _Tally, roots: Sequence[Container]
) -> tuple[list[MipmapJob], dict[str, set[str]]]:
    """Return one job for each image and mask, and for each job's tile id the ids of the tiles that use its image."""
    jobs: dict[object, MipmapJob] = {}
    tiles_of: dict[str, set[str]] = defaultdict(set)
    for spec in specs:
        try:
            tile = level0_of(spec, plan.path_map)
            wanted = _jobs_of(tile, plan, roots)
        except Fault as fault:
            tally.fail(z, str(spec.get("tileId")), fault)
            tally.finish(1)
            continue
        for path, job in wanted.items():
            tiles_of[jobs.setdefault(path, job).tile_id].add(tile.tile_id)
    return list(jobs.values()), dict(tiles_of)


def _jobs_of(tile: Level0, plan: MipmapPlan, roots: Sequence[Container]) -> dict[Place, MipmapJob]:
    """Return the jobs of a tile's image and mask by their paths. Raises ImageFault if one lies outside the roots.

    The worker checks the root again, with the open file.
    """
    jobs: dict[Place, MipmapJob] = {tile.image: tile_job(tile, plan)} | (
        {tile.mask: mask_job(tile, plan)} if tile.mask else {}
    )
    if not roots:
        return jobs
    return {place: replace(job, root=_root_of(tile, place, roots)) for place, job in jobs.items()}


def _root_of(tile: Level0, path: Place, roots: Sequence[Container]) -> Container:
    real = path.resolve() if isinstance(path, Path) else None  # an object is in no directory
    root = next((root for root in roots if real and real.is_relative_to(root.real)), None)
    if root is None:
        problem = f"its image {path} lies outside of the source roots"
        raise ImageFault(f"tile '{tile.tile_id}'", problem, "check who put this tile, or add its directory")
    return root


async def make_all(
    pool: WorkerPool,
    jobs: Sequence[MipmapJob],
    record: Callable[[list[MipmapReport]], Awaitable[None]],
    *,
    slots: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Run the jobs in the pool, and await `record` with their reports as they end. A bad tile does not stop the others.

    Parameters
    ----------
    record : called with all reports that arrived since its last call.
    slots : limits the jobs that are in the pool, or done but not recorded; shared by all users of the pool.
    stop : once it is set, no further job starts; running jobs are still recorded.
    """
    reports: asyncio.Queue[_Report | None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(_submit(pool, jobs, reports, slots, stop), name="submit mipmaps")
        while None not in (batch := await _batch(reports)):
            done = [each for each in batch if each]
            await record([each.report for each in done])
            for each in done:
                each.is_recorded.set()


@dataclass(frozen=True, slots=True)
class _Report:
    """A report that waits to be recorded."""

    report: MipmapReport
    is_recorded: asyncio.Event


async def _submit(
    pool: WorkerPool,
    jobs: Sequence[MipmapJob],
    reports: asyncio.Queue[_Report | None],
    slots: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Submit the jobs as slots become free; put None into the queue when the last report is recorded."""

    upcoming = UpcomingImages(jobs, pool.read_ahead)

    async def work(number: int) -> None:
        try:
            done = _Report(await run_job(pool, upcoming.before(number)), asyncio.Event())
            upcoming.done(number)
            reports.put_nowait(done)
            # If the slot were released earlier, unrecorded reports would pile up behind a slow journal, and a crash
            # would lose them.
            await done.is_recorded.wait()
        finally:
            slots.release()

    try:
        async with asyncio.TaskGroup() as group:
            for number, job in enumerate(jobs):
                await slots.acquire()
                if stop.is_set():
                    slots.release()
                    break
                group.create_task(work(number), name=f"mipmaps {job.tile_id}")
    finally:
        upcoming.end()
    reports.put_nowait(None)


async def _batch(reports: asyncio.Queue[_Report | None]) -> list[_Report | None]:
    """Wait for the queue to hold an entry, and take all its entries."""
    batch = [await reports.get()]
    while not reports.empty():
        batch.append(reports.get_nowait())
    return batch
