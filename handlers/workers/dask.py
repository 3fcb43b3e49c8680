"""Backend of the pool for the workers of a dask scheduler, on this machine or on others."""

import importlib.util
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from handlers.errors import SettingsFault
from handlers.workers.backend import Backend, Make
from handlers.workers.crew import Crew

if TYPE_CHECKING:  # the other executors need no event loop
    from handlers.workers.cluster.access import ClusterAccess, WorkerPath
    from handlers.workers.cluster.executor import ClusterExecutor

RESTART_TIMEOUT_S = 60.0
"""Longest wait for a nanny to restart its worker."""


def dask_backend(
    access: "ClusterAccess | str | None",
    memory_bytes: int,
    paths: "tuple[WorkerPath, ...]" = (),
    visited: Path | None = None,
) -> Backend:
    """Return the backend for the workers of a dask scheduler, which need not run yet.

    Parameters
    ----------
    access : access to the scheduler, or its address.
    memory_bytes : address space that a job may add to that of its worker.
    paths : paths of this machine's directories on the workers' hosts.
    visited : file that keeps the directories in which workers write.

    Raises
    ------
    SettingsFault
        If dask is not installed.
    """
    if importlib.util.find_spec("distributed") is None:
        raise SettingsFault("workers.executor", "dask is not installed", "pip install 'temwatch[dask]'")
    from handlers.workers.cluster.access import ClusterAccess
    from handlers.workers.cluster.executor import ClusterExecutor, WorkersDied
    from handlers.workers.cluster.separate_process import in_own_process

    reached = access if isinstance(access, ClusterAccess) else ClusterAccess(access or "")

    def start(count: int) -> Executor:
        del count  # the scheduler determines the number of workers
        return ClusterExecutor(reached, memory_bytes, paths, visited)

    def alone(make: Make) -> Make:
        return partial(in_own_process, make)

    return Backend(
        start,
        _end,
        broken=(BrokenExecutor,),
        killed_by_job=(WorkersDied,),
        running_s=_running_s,
        replace_worker=_replace_worker,
        alone=alone,
        crew=_crew,
        watch=_watch,
    )


def _cluster(executor: Executor) -> "ClusterExecutor":
    from handlers.workers.cluster.executor import ClusterExecutor

    assert isinstance(executor, ClusterExecutor)
    return executor


def _end(executor: Executor, timeout_s: float) -> None:
    del timeout_s  # running jobs end on the workers, and this process does not wait for them
    _cluster(executor).shutdown()


def _running_s(executor: Executor, key: str) -> float | None:
    return _cluster(executor).running_s(key)


def _replace_worker(executor: Executor, key: str, forget: Callable[[], object]) -> None:
    _cluster(executor).replace_worker(key, forget, RESTART_TIMEOUT_S)


def _crew(executor: Executor) -> Crew:
    return _cluster(executor).crew


def _watch(executor: Executor, on_change: Callable[[str], object]) -> None:
    _cluster(executor).on_change = on_change
