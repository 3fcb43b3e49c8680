"""Opening the pool for mipmap jobs with one kind of workers: processes, dask or in-line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from handlers.errors import SettingsFault
from handlers.images.largest_image import LARGEST_IMAGE_PX
from handlers.workers.backend import Backend
from handlers.workers.dask import dask_backend
from handlers.workers.inline import inline_backend
from handlers.workers.memory import worker_bytes
from handlers.workers.pool import WorkerPool
from handlers.workers.processes import processes_backend

if TYPE_CHECKING:
    from handlers.workers.cluster.access import ClusterAccess, WorkerPath

ExecutorKind = Literal["processes", "inline", "dask"]


@contextlib.contextmanager
def open_executor(
    kind: ExecutorKind,
    count: int,
    scheduler: "ClusterAccess | str | None" = None,
    *,
    worker_paths: "tuple[WorkerPath, ...]" = (),
    visited: Path | None = None,
    job_timeout_s: float | None = None,
    largest_image_px: int = LARGEST_IMAGE_PX,
) -> Iterator[WorkerPool]:
    """Open a pool whose workers have answered; those of a dask scheduler may come later.

    Parameters
    ----------
    kind : "processes" on this machine, "dask" for the workers of a scheduler, "inline" for the calling thread.
    count : number of worker processes; ignored by dask.
    scheduler : access to the dask scheduler, or its address.
    worker_paths : paths of this machine's directories on the hosts of dask's workers.
    visited : file that keeps the directories in which dask's workers write. They are searched for temporary files of
        dead workers, also by the next daemon.
    job_timeout_s : longest time that a worker may take for a job; None: no limit. Ignored for inline jobs.
    largest_image_px : jobs with larger images are refused; worker processes get memory for an image of this size.

    Raises
    ------
    SettingsFault
        If the kind is unknown, count is below 1, or dask is not installed.
    WorkerFault
        If the workers do not answer.
    """
    if count < 1:
        raise SettingsFault("workers.count", f"expected 1 or more workers, found {count}")
    backend = _backend(kind, scheduler, worker_paths, visited, worker_bytes(largest_image_px))
    pool = WorkerPool(backend, count, None if kind == "inline" else job_timeout_s, largest_image_px)
    try:
        yield pool
    finally:
        pool.close()


def _backend(
    kind: str,
    scheduler: "ClusterAccess | str | None",
    paths: "tuple[WorkerPath, ...]",
    visited: Path | None,
    memory_bytes: int,
) -> Backend:
    match kind:
        case "processes":
            return processes_backend(memory_bytes)
        case "inline":
            return inline_backend()
        case "dask":
            return dask_backend(scheduler, memory_bytes, paths, visited)
    raise SettingsFault("workers.executor", f"{kind!r} is not one of processes, inline, dask")
