"""Worker processes on this machine: a pool that starts them, ends them, and kills them if a worker hangs."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from handlers.errors import WorkersUnavailable
from handlers.workers.backend import Backend
from handlers.workers.fork_server import start_server
from handlers.workers.worker import WorkerContext, WorkerDeath, begin_work, occupy_worker, run_with_tile_note

T = TypeVar("T")

START_TIMEOUT_S = 60.0
"""Longest wait for all worker processes to answer."""
KILLED_S = 5.0
"""Longest wait for killed processes to end. A process that reads a dead mount ends only when the mount answers."""


class ProcessExecutor(ProcessPoolExecutor):
    """A pool of worker processes that ignore the daemon's signals and end when this process ends.

    Parameters
    ----------
    count : number of processes.
    memory_bytes : address space that the jobs of a process may take.
    """

    def __init__(self, count: int, memory_bytes: int) -> None:
        self._count = count
        start_server()  # first: otherwise the locks of the pool start the resource tracker without our environment
        self._context = WorkerContext()
        # A semaphore would be freed after the resource tracker has ended, which then reports it as leaked.
        self._seen_by_workers, self._open_until_submitted = self._context.Pipe(duplex=False)
        given = (memory_bytes, self._seen_by_workers)
        super().__init__(count, mp_context=self._context, initializer=begin_work, initargs=given)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return the future of a job.

        Raises
        ------
        BrokenExecutor
            If the pool is broken, or cannot start a worker for the job.
        """
        try:
            future = _tolerate_cancelled(super().submit(run_with_tile_note, fn, *args, **kwargs))
        except (OSError, EOFError) as error:
            raise BrokenProcessPool(f"no worker process could be started: {error}") from error
        # Python 3.11 sets the flag, and then fails the pending futures without the lock that `submit` holds. A future
        # that is added in between never resolves.
        if broken := self._broken:
            raise BrokenProcessPool(str(broken))
        return future

    def start_all(self, timeout_s: float) -> None:
        """Return when every worker has started.

        Raises
        ------
        BrokenExecutor, TimeoutError
            If a worker has not started.
        """
        deadline = time.monotonic() + timeout_s
        with self._seen_by_workers, self._open_until_submitted as end:
            jobs = [self.submit(occupy_worker, timeout_s) for _ in range(self._count)]
            end.close()
            for job in jobs:
                job.result(deadline - time.monotonic())

    def end(self, timeout_s: float) -> None:
        """Cancel waiting jobs, wait for running jobs, and kill the processes after the time-out.

        A time-out of 0 kills immediately. A broken pool needs that: a worker that died while it waited for work still
        holds the lock of the queue, and another worker would wait for this lock for ever.

        Returns at the latest `KILLED_S` after the kill, since a process that reads a dead mount cannot be killed.
        """
        options = {"wait": True, "cancel_futures": True}
        ending = threading.Thread(target=self.shutdown, kwargs=options, name="end workers", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            self._context.kill()
            ending.join(KILLED_S)

    def abandon(self) -> None:
        """Kill the processes without waiting for their end."""
        self._context.kill()
        self.shutdown(wait=False, cancel_futures=True)

    def deaths(self) -> list[WorkerDeath]:
        """Return the workers that died, except those that the pool itself killed. Call it after the pool has ended."""
        return [death for process in self._context.started if (death := process.death())]


def _tolerate_cancelled(future: Future[T]) -> Future[T]:
    """Make a future ignore an exception that is set after its cancellation, and return it.

    When a pool breaks, Python 3.11 calls `set_exception` on every future. A cancelled future raises InvalidStateError,
    and the remaining futures never resolve.
    """

    def set_exception(exception: BaseException | None) -> None:
        with contextlib.suppress(InvalidStateError):
            Future.set_exception(future, exception)

    future.set_exception = set_exception  # type: ignore[method-assign]
    return future


def processes_backend(memory_bytes: int) -> Backend:
    """Return the backend for worker processes on this machine."""
    return Backend(
        lambda count: _start(count, memory_bytes),
        _end,
        is_local=True,
        broken=(BrokenExecutor,),
        deaths=_deaths,
        abandon=_abandon,
    )


def exit_if_workers_hang(exit_code: int) -> None:
    """End this process immediately if there are worker processes that could not be killed; otherwise return.

    At exit the interpreter joins its child processes, which would block until their mount answers.
    """
    if multiprocessing.active_children():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _start(count: int, memory_bytes: int) -> ProcessExecutor:
    """Return a pool after all its processes have started.

    A pool that starts its processes on demand may break while a process starts, which `concurrent.futures` does not
    handle.
    """
    executor = ProcessExecutor(count, memory_bytes)
    try:
        executor.start_all(START_TIMEOUT_S)
    except (BrokenExecutor, TimeoutError) as error:
        executor.end(0.0)
        raise WorkersUnavailable(
            "worker processes",
            f"did not start: {error or type(error).__name__}",
            "check the limits of processes and memory",
        ) from error
    except BaseException:  # Ctrl-C while the workers start: a person waits
        executor.abandon()
        raise
    return executor


def _end(executor: Executor, timeout_s: float) -> None:
    assert isinstance(executor, ProcessExecutor)
    executor.end(timeout_s)


def _deaths(executor: Executor) -> list[WorkerDeath]:
    assert isinstance(executor, ProcessExecutor)
    return executor.deaths()


def _abandon(executor: Executor) -> None:
    assert isinstance(executor, ProcessExecutor)
    executor.abandon()
