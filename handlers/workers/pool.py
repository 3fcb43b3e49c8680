"""Where mipmaps are made: worker processes on this machine, the workers of a dask scheduler, or this very process.

Each is a `concurrent.futures.Executor`. `WorkerPool` puts a new one in the place of one that broke, and `run_job` turns
whatever becomes of a job into a report.
"""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, InvalidStateError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from handlers.errors import SettingsFault, WorkerFault, WorkersUnavailable
from handlers.mipmaps.make import FaultReport, MipmapJob, MipmapReport, make_mipmaps
from handlers.workers.worker import WorkerContext, begin_work, linger

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
KILLED_S = 5.0
"""For a process that was killed to be gone. One that waits for a dead mount stays until the mount answers."""


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
            return _tolerant(super().submit(fn, *args, **kwargs))
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

        Returns `KILLED_S` after the kill at the latest: a process that waits for a dead mount cannot be killed.
        """
        options = {"wait": True, "cancel_futures": True}
        ending = threading.Thread(target=self.shutdown, kwargs=options, name="end workers", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            self._context.kill()
            ending.join(KILLED_S)

    def abandon(self) -> None:
        """Kills the processes and waits for none."""
        self._context.kill()
        self.shutdown(wait=False, cancel_futures=True)

    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [process.pid for process in self._context.started if process.pid and process.is_alive()]

    def how_one_ended(self) -> str:
        """In words, how the first worker ended that was not to; empty if that is not known."""
        code = next((process.exitcode for process in self._context.started if process.exitcode), 0)
        if code in (0, UNKNOWN_EXIT):
            return ""
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _tolerant(future: Future[T]) -> Future[T]:
    """The future, which may be told of an exception though it was cancelled.

    Of a pool that breaks, Python 3.11 tells all jobs; at one that was cancelled it stops, and those behind it would
    never hear.
    """

    def set_exception(exception: BaseException | None) -> None:
        with contextlib.suppress(InvalidStateError):
            Future.set_exception(future, exception)

    future.set_exception = set_exception  # type: ignore[method-assign]
    return future


class JobHangs(Exception):  # noqa: N818  not an error yet: what becomes of the job is decided by the pool
    """A worker has had a job for longer than one may take."""


class Displaced(Exception):  # noqa: N818  handled by giving the job to another executor
    """A job was not begun when its executor was given up, or broke."""


class Refused(Displaced):
    """An executor that broke takes no job."""


class Crew:
    """An executor, and which of the jobs given to it are being worked at: the first ones, as many as it has workers.

    Executors do not say when a job begins; they begin them in the order in which they were given.
    """

    def __init__(self, executor: Executor, workers: int) -> None:
        self.executor = executor
        self.is_given_up = False
        self._free = workers
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._under_way: set[Future[Any]] = set()
        self._is_left = False
        self._disturbances = 0
        self._disturbed_at = float("-inf")

    @contextlib.contextmanager
    def disturbed(self) -> Iterator[None]:
        """While a worker is replaced: jobs that wait for it, or that it had to do besides, take longer."""
        self._disturbances += 1
        try:
            yield
        finally:
            self._disturbances -= 1
            self._disturbed_at = time.monotonic()

    def was_disturbed(self, since: float) -> bool:
        """Whether a worker was being replaced at any time from then on; `since` as of `time.monotonic`."""
        return self._disturbances > 0 or self._disturbed_at >= since

    def add(self, future: Future[Any]) -> asyncio.Future[bool]:
        """True once the job's turn has come, False if it never will."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._under_way.add(future)
        self._waiting.append(turn)
        self._begin()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(self._end, future, turn)

        future.add_done_callback(ended)
        return turn

    def give_up(self, hanging: Future[Any]) -> None:
        """Jobs whose turn has not come are displaced; the others may end."""
        self.is_given_up = True
        self._under_way.discard(hanging)
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(False)
        self._waiting.clear()

    def leave(self, future: Future[Any]) -> bool:
        """Takes out a job that is not waited for any more; whether the executor was given up and nobody else is in it.

        True once only.
        """
        self._under_way.discard(future)
        if not self.is_given_up or self._under_way or self._is_left:
            return False
        self._is_left = True
        return True

    def _begin(self) -> None:
        while self._waiting and self._free:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                self._free -= 1

    def _end(self, future: Future[Any], turn: asyncio.Future[bool]) -> None:
        self._under_way.discard(future)
        if not turn.done():
            turn.set_result(True)  # ended before its turn: it never took a worker from the others
        elif turn.result():
            self._free += 1
        self._begin()


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of executor."""

    start: Callable[[int], Executor]
    """Starts one with that many workers; takes a while. Raises WorkersUnavailable if it does not come up."""
    end: Callable[[Executor, float], None]
    """Ends one; jobs under way are given so many seconds."""
    lost: tuple[type[BaseException], ...] = ()
    """What a future raises whose worker, or whose way to it, was lost; the executor is replaced then."""
    breaks_jobs: tuple[type[BaseException], ...] = ()
    """What a future raises whose own job has killed workers."""
    abandon: Callable[[Executor], None] | None = None
    """Leaves an executor with a worker that hangs, which the end of all others has made useless. None: it is kept."""
    replace_worker: Callable[[Executor, str, Callable[[], object]], None] | None = None
    """Puts a new worker in the place of the one that hangs in the job of this key, having called what forgets the job.
    None: jobs have no keys."""


class WorkerPool:
    """An executor that is replaced when it breaks, or when a worker hangs in a job.

    Parameters
    ----------
    count : workers.
    job_timeout_s : how long a worker may take for one job; None: for ever.
    """

    def __init__(self, backend: Backend, count: int, job_timeout_s: float | None = None) -> None:
        self._backend = backend
        self._count = count
        self._job_timeout_s = job_timeout_s
        self._crew = Crew(backend.start(count), count)
        self._renewing = asyncio.Lock()
        self._one_suspect = asyncio.Lock()
        self._gone: tuple[type[BaseException], ...] = (Refused, *backend.lost)
        self._failed: WorkerFault | None = None
        self._failed_at = 0.0
        self._closed = False
        self.rebuilt = 0
        """How often the executor broke and was replaced."""
        self.hung = 0
        """How many jobs were given up because their workers hung."""
        self.patience_s = END_TIMEOUT_S
        """How long jobs under way may take at the end."""

    @property
    def executor(self) -> Executor:
        """The executor in use."""
        return self._crew.executor

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What a job's future raises when the executor broke under it."""
        return self._backend.lost

    @property
    def breaks_jobs(self) -> tuple[type[BaseException], ...]:
        """What a job's future raises when the job itself killed its worker."""
        return self._backend.breaks_jobs

    def submit(self, job: MipmapJob) -> Future[MipmapReport]:
        """The job's report to come, with no limit of time. Raises one of `lost` if the executor is broken."""
        return self.executor.submit(make_mipmaps, job)

    async def run(self, job: MipmapJob) -> MipmapReport:
        """The job's report.

        Raises
        ------
        Displaced
            If the job was not begun, and has to be given again.
        One of `lost`, or of `breaks_jobs`
            If the executor broke with the job in it, or the job killed its workers.
        WorkerFault
            If its worker hangs in it, or no worker can be started.
        """
        crew = self._crew
        try:
            return await self._run_in(crew, job)
        except self._gone:
            await self.renew(crew.executor)
            raise

    async def _run_in(self, crew: Crew, job: MipmapJob) -> MipmapReport:
        key = f"make_mipmaps-{uuid.uuid4().hex}"
        options = {"key": key} if self._backend.replace_worker else {}
        try:
            future = crew.executor.submit(make_mipmaps, job, **options)
        except self._backend.lost as error:
            raise Refused from error
        if self._job_timeout_s is None:
            return await outcome(future)
        try:
            return await _in_time(crew, future, self._job_timeout_s)
        except JobHangs:
            try:
                await self._give_up(crew, future, key)
            finally:
                future.cancel()
            raise self._hanging(job) from None
        finally:
            if crew.leave(future) and self._backend.abandon:
                self._backend.abandon(crew.executor)

    def _hanging(self, job: MipmapJob) -> WorkerFault:
        self.hung += 1
        return WorkerFault(
            str(job.level0),
            f"its worker has not answered for {self._job_timeout_s:g} s and was given up",
            "see that the disks of the image and of the mipmaps answer; workers.tile_timeout_s is the limit",
        )

    async def _give_up(self, crew: Crew, future: Future[Any], key: str) -> None:
        """Goes on without the worker that hangs. What others in the same executor are at, they may end."""
        if self._backend.replace_worker:
            with crew.disturbed():
                await asyncio.to_thread(self._backend.replace_worker, crew.executor, key, future.cancel)
            return
        if self._backend.abandon is None:
            return
        if crew is self._crew:
            with contextlib.suppress(WorkerFault):  # the next job tries again, and tells
                await self._replace(crew.executor)
        crew.give_up(future)

    async def renew(self, broken: Executor) -> None:
        """Puts a new executor in the place of a broken one, unless another job has done so.

        Raises
        ------
        WorkerFault
            If no new one can be started now, or the pool is closed.
        """
        if await self._replace(broken):
            self.rebuilt += 1
            await asyncio.to_thread(self._backend.end, broken, 0.0)

    async def _replace(self, former: Executor) -> bool:
        """Whether a new executor was put in the place of this one; False if another job has done so."""
        asked_at = time.monotonic()
        async with self._renewing:
            if self.executor is not former:
                return False
            if self._closed:
                raise WorkersUnavailable("workers", "have been sent home", "the job is done again after the next start")
            if self._failed and self._failed_at >= asked_at:  # while this job waited, another one tried in vain
                raise self._failed
            try:
                started = await asyncio.to_thread(self._backend.start, self._count)
            except WorkerFault as fault:
                self._failed, self._failed_at = fault, time.monotonic()
                raise
            self._crew = Crew(started, self._count)
            return True

    async def run_alone(self, job: MipmapJob) -> MipmapReport:
        """The report of a job that was under way when the executor broke, run with no other beside it.

        If a worker dies again, this job is what kills it: the report then says so.

        Raises
        ------
        WorkerFault
            If its worker hangs in it.
        """
        async with self._one_suspect:
            executor = await asyncio.to_thread(self._backend.start, 1)
            try:
                return await self._run_in(Crew(executor, 1), job)
            except self.breaks_jobs as error:
                return lost_report(job, f"killed the workers that had it: {error}")
            except self._gone:
                pass  # told below: how the worker ended is known once the executor has ended
            finally:
                await asyncio.to_thread(self._backend.end, executor, 0.0)
        how = executor.how_one_ended() if isinstance(executor, ProcessExecutor) else ""
        return lost_report(job, "killed its worker process, run alone" + (f": {how}" if how else ""))

    def close(self) -> None:
        """Ends the workers; jobs not begun are dropped."""
        self._closed = True
        self._backend.end(self.executor, self.patience_s)


async def _in_time(crew: Crew, future: Future[T], timeout_s: float) -> T:
    """The future's result. Raises JobHangs `timeout_s` after its turn came, Displaced if that never will."""
    turn = crew.add(future)
    answer: asyncio.Future[T] = asyncio.ensure_future(outcome(future))
    answer.add_done_callback(_retrieved)
    both: tuple[asyncio.Future[Any], ...] = (answer, turn)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done() and not turn.result():
            raise Displaced
        while not answer.done():
            began = time.monotonic()
            await asyncio.wait([answer], timeout=timeout_s)
            if not crew.was_disturbed(since=began):
                break
    except BaseException:
        answer.cancel()  # and with it the future, unless it is being worked at
        raise
    if not answer.done():
        raise JobHangs  # with the job still in the executor: who finds its worker needs it there
    return answer.result()


def _retrieved(answer: asyncio.Future[Any]) -> None:
    """Of a job that is given up nobody hears any more what becomes of it."""
    if not answer.cancelled():
        answer.exception()


def leave_if_workers_hang(exit_code: int) -> None:
    """Ends this process at once if workers are left that could not be killed; else returns.

    The interpreter would wait for them at its end, for as long as the mount is dead that they wait for.
    """
    if multiprocessing.active_children():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


@contextlib.contextmanager
def open_executor(
    kind: ExecutorKind,
    count: int,
    scheduler: str | None = None,
    *,
    niceness: int = 0,
    job_timeout_s: float | None = None,
) -> Iterator[WorkerPool]:
    """A pool of workers, up and answering.

    Parameters
    ----------
    kind : "processes" on this machine, "dask" for the workers of a scheduler, "inline" for this very thread.
    count : worker processes; dask brings its own number.
    scheduler : address of the dask scheduler.
    niceness : of worker processes, added to that of this one.
    job_timeout_s : how long a worker may take for one job before it is given up; None: for ever. Of no effect in-line.

    Raises
    ------
    SettingsFault
        If there is no such kind, no worker, or dask is not installed.
    WorkerFault
        If no worker answers.
    """
    if count < 1:
        raise SettingsFault("workers.count", f"{count} workers can do nothing", "give one or more")
    pool = WorkerPool(_backend(kind, scheduler, niceness), count, None if kind == "inline" else job_timeout_s)
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
            try:
                return await pool.run(job)
            except Displaced:
                continue
            except pool.breaks_jobs as error:
                return lost_report(job, f"killed the workers that had it: {error}")
            except pool.lost:
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
        return Backend(
            lambda count: _start_processes(count, niceness),
            _end_processes,
            lost=(BrokenExecutor,),
            abandon=_abandon_processes,
        )
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
        raise WorkersUnavailable(
            "worker processes",
            f"did not start: {error or type(error).__name__}",
            "see the limits of processes and memory",
        ) from error
    return executor


def _end_processes(executor: Executor, timeout_s: float) -> None:
    assert isinstance(executor, ProcessExecutor)
    executor.end(timeout_s)


def _abandon_processes(executor: Executor) -> None:
    assert isinstance(executor, ProcessExecutor)
    executor.abandon()


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
            problem = f"does not answer: {error}"
            raise WorkersUnavailable(f"dask scheduler {scheduler}", problem, "start it") from error
        executor: Executor = client.get_executor(pure=False)
        clients[executor] = client
        return executor

    def end(executor: Executor, timeout_s: float) -> None:
        executor.shutdown(wait=False)  # which, with dask, cancels what is left
        clients.pop(executor).close()

    def replace_worker(executor: Executor, key: str, forget: Callable[[], object]) -> None:
        client = clients[executor]

        def holders() -> list[str]:
            return [address for address, keys in client.processing().items() if key in keys]

        hanging = holders()
        forget()  # before the restart: the job would be given to the next worker
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while holders() and time.monotonic() < deadline:
            time.sleep(0.05)
        # Without a nanny nobody can start the worker anew; a thread of it stays with the job.
        with contextlib.suppress(ValueError, OSError):
            client.restart_workers(hanging, timeout=START_TIMEOUT_S, raise_for_error=False)

    return Backend(
        start,
        end,
        lost=(BrokenExecutor, ClosedClientError, CommClosedError),
        breaks_jobs=(KilledWorker,),
        replace_worker=replace_worker,
    )
