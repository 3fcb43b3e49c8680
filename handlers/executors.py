"""Where mipmaps are made: worker processes on this machine, the workers of a dask scheduler, or this very process.

Each is a `concurrent.futures.Executor`. `WorkerPool` puts a new one in the place of one that broke, and `run_job` turns
whatever becomes of a job into a report.
"""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from handlers.errors import SettingsFault, WorkerFault
from handlers.images import FaultReport, MipmapJob, MipmapReport, make_mipmaps
from handlers.worker import WorkerContext, begin_work, linger

ExecutorKind = Literal["processes", "inline", "dask"]
T = TypeVar("T")

START_TIMEOUT_S = 60.0
"""For worker processes to answer."""
CONNECT_TIMEOUT_S = 10.0
"""For a dask scheduler to answer."""
UNKNOWN_EXIT = 255
"""What multiprocessing says of a process whose end it could not see."""
END_TIMEOUT_S = 30.0
"""For jobs under way to end at shutdown; then their processes are killed."""


class InlineExecutor(Executor):
    """Does what it is given at once, in the caller's thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """A future that is done already."""
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  an executor hands on whatever its function raises
            future.set_exception(error)
        return future


class ProcessExecutor(ProcessPoolExecutor):
    """A pool of worker processes that take no signals, and end when this process does.

    Parameters
    ----------
    count : processes.
    niceness : added to that of this process.
    """

    def __init__(self, count: int, niceness: int = 0) -> None:
        self._count = count
        self._context = WorkerContext()
        super().__init__(count, mp_context=self._context, initializer=begin_work, initargs=(niceness,))

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """The result to come. Raises BrokenExecutor if the pool broke, or breaks while it starts a worker for this."""
        try:
            return super().submit(fn, *args, **kwargs)
        except (OSError, EOFError) as error:
            raise BrokenProcessPool(f"no worker process could be started: {error}") from error

    def start_all(self, timeout_s: float) -> None:
        """Returns when every worker has started.

        Raises
        ------
        BrokenExecutor or TimeoutError
            If one has not.
        """
        deadline = time.monotonic() + timeout_s
        while len(self._context.started) < self._count:
            # As many jobs as workers, long enough for the first to be busy still when the last comes.
            jobs = [self.submit(linger, 0.02 * self._count) for _ in range(self._count)]
            for job in jobs:
                job.result(deadline - time.monotonic())

    def end(self, timeout_s: float) -> None:
        """Drops jobs that are not begun, and waits for those that are; kills their processes if they take longer.

        With no time at all they are killed at once. A broken pool needs that: a worker that died while it waited for
        work has taken the lock of the queue with it, and a new one would wait for the lock for ever.
        """
        timer = threading.Timer(timeout_s, self._context.kill)
        timer.daemon = True
        timer.start()
        try:
            self.shutdown(wait=True, cancel_futures=True)
        finally:
            timer.cancel()

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [process.pid for process in self._context.started if process.pid and process.is_alive()]

    def how_one_ended(self) -> str:
        """In words, how the first worker ended that was not to; empty if that is not known."""
        code = next((process.exitcode for process in self._context.started if process.exitcode), 0)
        if code in (0, UNKNOWN_EXIT):
            return ""
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of executor."""

    start: Callable[[int], Executor]
    """Starts one with that many workers; takes a while. Raises WorkerFault if it does not come up."""
    end: Callable[[Executor, float], None]
    """Ends one; jobs under way are given so many seconds."""
    lost: tuple[type[BaseException], ...] = ()
    """What a future raises whose worker, or whose way to it, was lost; the executor is replaced then."""
    breaks_jobs: tuple[type[BaseException], ...] = ()
    """What a future raises whose own job has killed workers."""


class WorkerPool:
    """An executor that is replaced when it breaks.

    Parameters
    ----------
    count : workers.
    """

    def __init__(self, backend: Backend, count: int) -> None:
        self._backend = backend
        self._count = count
        self._executor = backend.start(count)
        self._renewing = asyncio.Lock()
        self._one_suspect = asyncio.Lock()
        self._failed: WorkerFault | None = None
        self._failed_at = 0.0
        self._closed = False
        self.rebuilt = 0
        """How often the executor broke and was replaced."""

    @property
    def executor(self) -> Executor:
        """The executor in use."""
        return self._executor

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What a job's future raises when the executor broke under it."""
        return self._backend.lost

    @property
    def breaks_jobs(self) -> tuple[type[BaseException], ...]:
        """What a job's future raises when the job itself killed its worker."""
        return self._backend.breaks_jobs

    def submit(self, job: MipmapJob) -> Future[MipmapReport]:
        """The job's report to come. Raises one of `lost` if the executor is broken."""
        return self._executor.submit(make_mipmaps, job)

    async def renew(self, broken: Executor) -> None:
        """Puts a new executor in the place of a broken one, unless another job has done so.

        Raises
        ------
        WorkerFault
            If no new one can be started now, or the pool is closed.
        """
        asked_at = time.monotonic()
        async with self._renewing:
            if self._executor is not broken:
                return
            if self._closed:
                raise WorkerFault("workers", "have been sent home", "the job is done again after the next start")
            if self._failed and self._failed_at >= asked_at:  # while this job waited, another one tried in vain
                raise self._failed
            try:
                self._executor = await asyncio.to_thread(self._backend.start, self._count)
            except WorkerFault as fault:
                self._failed, self._failed_at = fault, time.monotonic()
                raise
            self.rebuilt += 1
            await asyncio.to_thread(self._backend.end, broken, 0.0)

    async def run_alone(self, job: MipmapJob) -> MipmapReport:
        """The report of a job that was under way when the executor broke, run with no other beside it.

        If a worker dies again, this job is what kills it: the report then says so.
        """
        async with self._one_suspect:
            executor = await asyncio.to_thread(self._backend.start, 1)
            try:
                return await outcome(executor.submit(make_mipmaps, job))
            except self.breaks_jobs as error:
                return lost_report(job, f"killed the workers that had it: {error}")
            except self.lost:
                pass  # told below: how the worker ended is known once the executor has ended
            finally:
                await asyncio.to_thread(self._backend.end, executor, 0.0)
        how = executor.how_one_ended() if isinstance(executor, ProcessExecutor) else ""
        return lost_report(job, "killed its worker process, run alone" + (f": {how}" if how else ""))

    def close(self) -> None:
        """Ends the workers; jobs not begun are dropped."""
        self._closed = True
        self._backend.end(self._executor, END_TIMEOUT_S)


@contextlib.contextmanager
def open_executor(
    kind: ExecutorKind, count: int, scheduler: str | None = None, *, niceness: int = 0
) -> Iterator[WorkerPool]:
    """A pool of workers, up and answering.

    Parameters
    ----------
    kind : "processes" on this machine, "dask" for the workers of a scheduler, "inline" for this very thread.
    count : worker processes; dask brings its own number.
    scheduler : address of the dask scheduler.
    niceness : of worker processes, added to that of this one.

    Raises
    ------
    SettingsFault
        If there is no such kind, no worker, or dask is not installed.
    WorkerFault
        If no worker answers.
    """
    if count < 1:
        raise SettingsFault("workers.count", f"{count} workers can do nothing", "give one or more")
    pool = WorkerPool(_backend(kind, scheduler, niceness), count)
    try:
        yield pool
    finally:
        pool.close()


async def run_job(pool: WorkerPool, job: MipmapJob) -> MipmapReport:
    """The report of a job, whatever becomes of it and of its worker.

    When a worker process dies every job in the pool ends with it, and nothing says whose it was. All of them are then
    run again, one at a time, while others go on in a new pool: the one that kills its worker alone, too, is reported.
    """
    try:
        while True:
            executor = pool.executor
            try:
                future = pool.submit(job)
            except pool.lost:
                await pool.renew(executor)
            else:
                break
        try:
            return await outcome(future)
        except pool.breaks_jobs as error:
            return lost_report(job, f"killed the workers that had it: {error}")
        except pool.lost:
            await pool.renew(executor)
            return await pool.run_alone(job)
    except WorkerFault as fault:
        return MipmapReport(job.tile_id, fault=FaultReport.of(fault))


async def outcome(future: Future[T]) -> T:
    """The future's result.

    Raises
    ------
    JobDropped
        If the executor cancelled it. As a CancelledError it would look as if this task had been cancelled.
    """
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and (task is None or not task.cancelling()):
            raise JobDropped("the executor dropped the job") from None
        raise


class JobDropped(BrokenExecutor):
    """An executor cancelled a job that nobody asked it to cancel."""


def lost_report(job: MipmapJob, problem: str) -> MipmapReport:
    """The report of a job that took its worker with it."""
    fault = WorkerFault(
        str(job.level0),
        problem,
        "see the kernel's log for memory that ran out; else the image, or its disk, is to blame",
    )
    return MipmapReport(job.tile_id, fault=FaultReport.of(fault))


def _backend(kind: str, scheduler: str | None, niceness: int) -> Backend:
    if kind == "inline":
        return Backend(lambda count: InlineExecutor(), lambda executor, timeout_s: executor.shutdown())
    if kind == "processes":
        return Backend(lambda count: _start_processes(count, niceness), _end_processes, lost=(BrokenExecutor,))
    if kind == "dask":
        return _dask_backend(scheduler)
    raise SettingsFault("workers.executor", f"{kind!r} is not one of processes, inline, dask")


def _start_processes(count: int, niceness: int) -> ProcessExecutor:
    """A pool whose processes all run.

    Started as jobs come, one might be under way just when the pool breaks; `concurrent.futures` then stumbles.
    """
    executor = ProcessExecutor(count, niceness)
    try:
        executor.start_all(START_TIMEOUT_S)
    except (BrokenExecutor, TimeoutError) as error:
        executor.end(0.0)
        raise WorkerFault(
            "worker processes",
            f"did not start: {error or type(error).__name__}",
            "see the limits of processes and memory",
        ) from error
    return executor


def _end_processes(executor: Executor, timeout_s: float) -> None:
    assert isinstance(executor, ProcessExecutor)
    executor.end(timeout_s)


def _dask_backend(scheduler: str | None) -> Backend:
    """Workers of a dask scheduler; jobs are not pure: the same one may have to be done twice."""
    try:
        from distributed import Client, KilledWorker
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise SettingsFault("workers.executor", "dask is not installed", "pip install 'temwatch[dask]'") from error
    clients: dict[Executor, Any] = {}

    def start(count: int) -> Executor:
        try:
            client: Any = Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise WorkerFault(f"dask scheduler {scheduler}", f"does not answer: {error}", "start it") from error
        executor: Executor = client.get_executor(pure=False)
        clients[executor] = client
        return executor

    def end(executor: Executor, timeout_s: float) -> None:
        executor.shutdown(wait=False)  # which, with dask, cancels what is left
        clients.pop(executor).close()

    return Backend(start, end, lost=(BrokenExecutor, ClosedClientError, CommClosedError), breaks_jobs=(KilledWorker,))
