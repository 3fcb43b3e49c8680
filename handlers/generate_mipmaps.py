"""The mipmap step: having the levels of tiles made by an executor."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from handlers.executors import WorkerPool, run_job
from handlers.images import MipmapJob, MipmapReport


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
    slots : how many jobs may be with the executor at once, shared with whoever else uses it.
    stop : once set no further job is begun; those under way are still reported.
    """
    reports: asyncio.Queue[MipmapReport | None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(_submit(pool, jobs, reports, slots, stop), name="submit mipmaps")
        while (batch := await _batch(reports))[-1] is not None:
            await record([report for report in batch if report])
        if remaining := [report for report in batch if report]:
            await record(remaining)


async def _submit(
    pool: WorkerPool,
    jobs: Sequence[MipmapJob],
    reports: asyncio.Queue[MipmapReport | None],
    slots: asyncio.Semaphore,
    stop: asyncio.Event,
) -> None:
    """Gives the jobs to the executor as slots become free; puts None behind the last report."""

    async def work(job: MipmapJob) -> None:
        try:
            reports.put_nowait(await run_job(pool, job))
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


async def _batch(reports: asyncio.Queue[MipmapReport | None]) -> list[MipmapReport | None]:
    """Everything in the queue, at least one."""
    batch = [await reports.get()]
    while not reports.empty():
        batch.append(reports.get_nowait())
    return batch
