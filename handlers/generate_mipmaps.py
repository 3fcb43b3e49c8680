"""The mipmap step: having the levels of tiles made by an executor.

`generate_mipmaps` is the whole of it for layers of a stack, `generate_mipmaps_sync` the same for scripts and notebooks.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from handlers.errors import Fault, RenderFault
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import MipmapPlan, level0_of
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.render.client import RenderClient, StackId
from handlers.render.failures import Failure
from handlers.render.names import ZRange
from handlers.render.z_values import absent_z_failure, find_z, no_tiles_fault
from handlers.sync import run_sync
from handlers.workers.pool import WorkerPool, open_executor, run_job

LAYERS_AT_ONCE = 2
"""The tiles of the next layer are fetched, and given to idle workers, while those of the last one end."""

MOST_NOTES = 20

Progress = Callable[[int, int], None]
"""Is told how many tiles are done, of how many known so far."""


@dataclass(frozen=True, slots=True)
class MipmapsReport:
    """What became of the tiles of some layers."""

    stack: StackId
    tile_count: int
    """Tiles whose levels are all there and verified."""
    file_count: int
    """Levels of images and masks that were written."""
    kept_count: int
    """Levels that were there and valid, and were left."""
    failures: tuple[Failure, ...]
    notes: tuple[str, ...] = ()
    """What a person may want to know of images whose levels were made; the first few of them."""


async def generate_mipmaps(
    client: RenderClient,
    stack: StackId,
    zs: Collection[float] | ZRange,
    plan: MipmapPlan,
    pool: WorkerPool,
    *,
    in_flight: int,
    progress: Progress = lambda done, known: None,
    clear_image_cache: bool = True,
) -> MipmapsReport:
    """Make the mipmap levels of every tile of some layers of a stack, and of their masks. The stack is only read.

    One bad tile does not stop the others. Tiles that share an image have its levels made once. Where levels took the
    place of others, render-ws is told to forget the images that it has read: it would show the old ones.

    Parameters
    ----------
    zs : layers by their z, each of which has to be there, or a range, of which one has to be there.
    in_flight : images given to the workers at once; a few more than there are workers.
    clear_image_cache : whether render-ws is told so.

    Raises
    ------
    RenderFault
        If the stack cannot be asked for its layers, or has none of those wanted.
    """
    found_z = await find_z(client, stack, zs)
    if not found_z.present:
        raise no_tiles_fault(stack, zs)
    tally, plan = _Tally(progress), plan.served_by(client.address, stack)
    tally.failures += [absent_z_failure(stack, z) for z in found_z.absent]
    slots, at_once = asyncio.Semaphore(in_flight), asyncio.Semaphore(LAYERS_AT_ONCE)

    if clear_image_cache and plan.reduction.method == "render":
        await _empty_image_cache(client, tally)  # the pixels come from there

    async def work(z: float) -> None:
        async with at_once:
            await _make_layer(client, stack, z, plan, pool, slots, tally)

    async with asyncio.TaskGroup() as group:
        for z in found_z.present:
            group.create_task(work(z), name=f"mipmaps z {z}")
    if clear_image_cache and tally.replaced:
        await _empty_image_cache(client, tally)
    failures = sorted(tally.failures, key=lambda failure: (failure.z, failure.tile_id or ""))
    return MipmapsReport(stack, tally.done - tally.failed, tally.files, tally.kept, tuple(failures), tuple(tally.notes))


async def _empty_image_cache(client: RenderClient, tally: "_Tally") -> None:
    """Have render-ws forget the images that it has read. Where it does not, a note says so: the levels are made."""
    try:
        await client.empty_image_cache()
    except RenderFault as fault:
        tally.notes.append(f"render-ws may show rewritten images as they were: {fault}")


def generate_mipmaps_sync(
    render_url: str,
    stack: StackId,
    zs: Collection[float] | ZRange,
    plan: MipmapPlan,
    *,
    workers: int = 1,
    progress: Progress = lambda done, known: None,
) -> MipmapsReport:
    """`generate_mipmaps` for callers that do not await, with worker processes of its own.

    Parameters
    ----------
    render_url : as in `http://render:8080/render-ws/v1`.
    workers : processes.
    """

    async def work() -> MipmapsReport:
        async with RenderClient(render_url) as client:
            return await generate_mipmaps(client, stack, zs, plan, pool, in_flight=2 * workers, progress=progress)

    with open_executor("processes", workers) as pool:
        return run_sync(work)


class _Tally:
    """What has been done so far, over all layers."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.known = self.done = self.failed = self.files = self.kept = self.replaced = 0
        self.failures: list[Failure] = []
        self.notes: list[str] = []

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
) -> None:
    try:
        found = await client.resolved_tiles(stack, z)
    except Fault as fault:
        tally.failures.append(Failure(z, None, fault))
        return
    specs = list(found.tile_id_to_spec_map.values()) if found else []
    tally.expect(len(specs))
    jobs, tiles_of = _jobs(specs, z, plan, tally)
    failed: set[str] = set()

    async def record(reports: list[MipmapReport]) -> None:
        for report in reports:
            tally.files += len(report.made)
            tally.replaced += sum(level.replaced for level in report.made)
            tally.kept += len(report.kept)
            tally.notes += report.notes[: MOST_NOTES - len(tally.notes)]
            if report.fault:
                for tile_id in tiles_of[report.tile_id] - failed:
                    failed.add(tile_id)
                    tally.fail(z, tile_id, report.fault.to_fault())
        tally.finish(sum(len(tiles_of[report.tile_id]) for report in reports if report.tile_id not in masks))

    masks = {job.tile_id for job in jobs if job.is_mask}
    await make_all(pool, jobs, record, slots=slots, stop=asyncio.Event())


def _jobs(
    specs: Sequence[Mapping[str, Any]], z: float, plan: MipmapPlan, tally: _Tally
) -> tuple[list[MipmapJob], dict[str, set[str]]]:
    """One job for each image and mask, and the tiles that wait for each, by the job's tile id."""
    jobs: dict[object, MipmapJob] = {}
    tiles_of: dict[str, set[str]] = defaultdict(set)
    for spec in specs:
        try:
            tile = level0_of(spec)
            wanted = {tile.image: tile_job(tile, plan)} | ({tile.mask: mask_job(tile, plan)} if tile.mask else {})
        except Fault as fault:
            tally.fail(z, str(spec.get("tileId")), fault)
            tally.finish(1)
            continue
        for path, job in wanted.items():
            tiles_of[jobs.setdefault(path, job).tile_id].add(tile.tile_id)
    return list(jobs.values()), dict(tiles_of)


async def make_all(
    pool: WorkerPool,
    jobs: Sequence[MipmapJob],
    record: Callable[[list[MipmapReport]], Awaitable[None]],
    *,
    slots: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Has the jobs done, and awaits `record` with their reports as they end. One bad tile does not stop the others.

    Parameters
    ----------
    record : is given the reports that came in while it was busy with the former ones.
    slots : how many jobs may be with the executor, or done and not recorded; shared with whoever else uses it.
    stop : once set no further job is begun; those under way are still reported.
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
    """A report on its way to be recorded."""

    report: MipmapReport
    is_recorded: asyncio.Event


async def _submit(
    pool: WorkerPool,
    jobs: Sequence[MipmapJob],
    reports: asyncio.Queue[_Report | None],
    slots: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Gives the jobs to the executor as slots become free; puts None when the last report is recorded."""

    async def work(job: MipmapJob) -> None:
        try:
            done = _Report(await run_job(pool, job), asyncio.Event())
            reports.put_nowait(done)
            # Were the slot free sooner, a slow journal would let pile up what a crash makes do again.
            await done.is_recorded.wait()
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for job in jobs:
            await slots.acquire()
            if stop.is_set():
                slots.release()
                break
            group.create_task(work(job), name=f"mipmaps {job.tile_id}")
    reports.put_nowait(None)


async def _batch(reports: asyncio.Queue[_Report | None]) -> list[_Report | None]:
    """Everything in the queue, at least one."""
    batch = [await reports.get()]
    while not reports.empty():
        batch.append(reports.get_nowait())
    return batch
