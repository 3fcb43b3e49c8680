"""Throughput of the storage alone: workers read images, and write and sync as many bytes as the levels have.

They do not compute, compare or rename: apart from noise, no program that makes the levels is faster with as many
workers.
"""

import asyncio
import functools
import mmap
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from handlers.images.read_ahead import announce, read_ahead
from handlers.mipmaps.job import MipmapJob
from handlers.workers.pool import WorkerPool
from handlers.workers.upcoming import UpcomingImages

PIECE_BYTES = 1 << 20
TIFF_HEADER_BYTES = 8


async def run_moves(pool: WorkerPool, jobs: Sequence[MipmapJob], at_once: int, *, writes: bool) -> list[float]:
    """Move the bytes of all jobs; return the time at which each was done. Images are announced as by the daemon."""
    slots, upcoming = asyncio.Semaphore(at_once), UpcomingImages(jobs, pool.read_ahead)
    done_at: list[float] = []

    async def work(number: int) -> None:
        try:
            await asyncio.wrap_future(pool.executor.submit(partial(move_bytes, writes=writes), upcoming.before(number)))
            upcoming.done(number)
            done_at.append(time.perf_counter())
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        for number in range(len(jobs)):
            await slots.acquire()
            group.create_task(work(number))
    return done_at


def move_bytes(job: MipmapJob, *, writes: bool) -> None:
    """Read the image of a job, and write and sync files of the sizes of its levels, one after the other."""
    read_ahead(job.upcoming)
    assert isinstance(job.level0, Path)
    with job.level0.open("rb", buffering=0) as file:
        announce(file.fileno(), 2 * job.width * job.height)
        while file.readinto(_buffer()):
            pass
    for level, path in job.outputs if writes else ():
        assert isinstance(path, Path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            file.write(_content((job.width >> level) * (job.height >> level) + TIFF_HEADER_BYTES))
            os.fsync(file.fileno())


@functools.cache
def _buffer() -> mmap.mmap:
    """Return page-aligned memory that stays in the processor's cache."""
    return mmap.mmap(-1, PIECE_BYTES)


@functools.cache
def _content(size: int) -> bytes:
    return os.urandom(size)
