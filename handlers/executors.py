"""Where mipmap jobs are done: worker processes of this machine, dask, or in line; one face for all three."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Literal

from handlers.errors import SettingsFault, WorkerFault
from handlers.images import FaultReport, MipmapJob, MipmapReport, make_mipmaps

Kind = Literal["processes", "inline", "dask"]
_PRELOADED = ["handlers.images"]


class InlineExecutor(Executor):
    """Does each job at once, in the caller's thread: for tests, debuggers and one-shot commands."""

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]  # the base class's own, generic signature
        """A future that is done already."""
        future: Future[object] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  a future carries whatever its function raised
            future.set_exception(error)
        return future


class WorkerPool:
    """An executor that survives the death of its workers.

    A worker that is killed breaks a process pool: every job then under way is lost at once. This pool starts a new one
    for the jobs that follow, and reports those lost as WorkerFault.

    Parameters
    ----------
    open_one : makes an executor; called again after a break.
    """

    def __init__(self, open_one: Callable[[], Executor]) -> None:
        self._open_one = open_one
        self._executor = open_one()
        self._lock = threading.Lock()
        self.breaks = 0
        """How often workers died and were replaced."""

    def submit(self, job: MipmapJob) -> Future[MipmapReport]:
        """The report to come."""
        with self._lock:
            try:
                return self._executor.submit(make_mipmaps, job)
            except BrokenProcessPool:
                self._renew()
                return self._executor.submit(make_mipmaps, job)

    def broke(self, executor: Executor) -> None:
        """Replaces the executor, if it is still the one that broke."""
        with self._lock:
            if self._executor is executor:
                self._renew()

    @property
    def executor(self) -> Executor:
        """The executor that takes jobs now."""
        return self._executor

    def _renew(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor = self._open_one()
        self.breaks += 1

    def close(self) -> None:
        """Ends the workers; jobs that have not begun are given up."""
        with self._lock:
            self._executor.shutdown(wait=True, cancel_futures=True)


async def run_job(pool: WorkerPool, job: MipmapJob) -> MipmapReport:
    """The report of a job done by the pool. The death of a worker is a report like any other."""
    executor = pool.executor
    try:
        return await asyncio.wrap_future(pool.submit(job))
    except BrokenProcessPool:
        pool.broke(executor)
        fault = WorkerFault(
            str(job.level0),
            "a worker process died while this or another tile was in its hands",
            "see the system log: the kernel may have killed it for memory",
        )
        return MipmapReport(job.tile_id, (), 0.0, FaultReport.of(fault))


@contextlib.contextmanager
def open_executor(kind: Kind, count: int, scheduler: str | None = None) -> Iterator[WorkerPool]:
    """A pool of the given kind, closed at the end.

    Parameters
    ----------
    count : worker processes; no meaning in line, and for dask, whose scheduler has workers of its own.
    scheduler : address of the dask scheduler.

    Raises
    ------
    SettingsFault
        If dask is asked for and is not installed, or its scheduler does not answer.
    """
    if kind == "dask":
        with _dask_executor(scheduler or "") as executor:
            pool = WorkerPool(lambda: executor)
            yield pool
        return
    pool = WorkerPool(InlineExecutor if kind == "inline" else lambda: process_pool(count))
    try:
        yield pool
    finally:
        pool.close()


def process_pool(count: int) -> ProcessPoolExecutor:
    """Worker processes started by a fork server: no threads, locks or sockets of the daemon are copied into them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return ProcessPoolExecutor(count, mp_context=context, initializer=_begin_worker)


def _begin_worker() -> None:
    """Leaves signals to the daemon, which drains its workers, and ends when the daemon is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="end with parent", daemon=True).start()


def _end_with(sentinel: int) -> None:
    # A worker waits on a pipe whose writing end its siblings hold too, so the daemon's death does not end the wait.
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _dask_executor(scheduler: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise SettingsFault(
            "workers.executor", "dask is not installed", "install temwatch with its extra: temwatch[dask]"
        ) from None
    try:
        client = Client(scheduler, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise SettingsFault("workers.dask_scheduler", f"{scheduler} does not answer: {error}") from error
    with client:
        # A pure function's result would be remembered for its arguments; a job is to be done each time it is asked for.
        yield client.get_executor(pure=False)  # type: ignore[no-untyped-call]
