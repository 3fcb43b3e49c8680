"""An executor that runs jobs on the workers of a dask scheduler, and survives the loss of scheduler and workers.

All its work runs in one thread with its own event loop. A job stays here until it is done: if the scheduler or a worker
loses it, it is submitted again. Meanwhile the future of the job stays pending.
"""

import asyncio
import contextlib
import pickle
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path
from typing import Any, TypeVar

from handlers.errors import WorkersUnavailable
from handlers.workers.cluster.access import ClusterAccess, WorkerPath
from handlers.workers.cluster.connection import Connection, SchedulerAway, opening_delay_s
from handlers.workers.cluster.job import Job
from handlers.workers.cluster.leftovers import Leftovers, directories_of
from handlers.workers.cluster.members import Members
from handlers.workers.cluster.on_worker import Answer, Work, payload_of, this_process
from handlers.workers.cluster.placeholders import Wanted
from handlers.workers.cluster.shared_directories import Ground, ground_of, sharing_of
from handlers.workers.cluster.written_directories import Visited
from handlers.workers.crew import Crew

T = TypeVar("T")

LOOK_S = 1.0
"""Pause between checks of the workers."""
CLOSE_S = 5.0
"""Longest time to close the connection."""
AHEAD = 8
"""Tasks at the scheduler per thread of usable workers. Other jobs wait here, ready for workers that join."""
KEY_PREFIX = "temwatch_tile"
"""Prefix of the names of tasks, as the scheduler's own pages show them."""

MAX_FAILURES = 3
"""Number of failures of a task because of the scheduler, after which its job fails."""


class WorkersDied(Exception):  # noqa: N818  the job then runs alone
    """Several workers died while they had the job. The job may be the cause."""


class ClusterExecutor(Executor):
    """Executor of a dask scheduler, which need not run yet.

    Parameters
    ----------
    memory_bytes : address space that a job may add to that of its worker.
    paths : paths of this machine's directories on the workers' hosts.
    visited : file that keeps the directories in which workers write; None: they are lost at a restart.
    """

    def __init__(
        self,
        access: ClusterAccess,
        memory_bytes: int,
        paths: tuple[WorkerPath, ...] = (),
        visited: Path | None = None,
    ) -> None:
        self._access = access
        self._memory_bytes = memory_bytes
        self._paths = paths
        self._jobs: dict[str, Job] = {}
        self._sent: set[str] = set()
        """Keys of the jobs that are at the scheduler."""
        self._wanted = Wanted(KEY_PREFIX)
        self._wake = asyncio.Event()
        self._members = Members(paths, self._wake.set)
        self._leftovers = Leftovers(self._members, Visited(visited))
        self._connection: Connection | None = None
        self._fault = f"{access.scheduler} has not answered yet"
        self._without_worker_since: float | None = None
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._crew = Crew(scheduler=access.scheduler, fault=self._fault)
        self.on_change: Callable[[str], object] = lambda fault: None
        """Called in this thread with the fault when the scheduler is lost, and with "" when it answers again."""
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._thread.start()

    # --- called by other threads

    def submit(self, fn: Callable[..., T], /, *args: Any, key: str | None = None, **kwargs: Any) -> Future[T]:  # type: ignore[override]
        """Submit a job and return its future. Its workers may come later.

        Raises
        ------
        BrokenExecutor
            If the executor was shut down.
        """
        assert not kwargs, "jobs take positional arguments"
        if self._closing:
            raise BrokenExecutor("the workers are stopped")
        key = f"{KEY_PREFIX}-{key or uuid.uuid4().hex}"
        work = Work(key, self._memory_bytes, this_process(), self._paths)
        argument = args[0] if args else None
        job = Job(key, payload_of(work, fn, args), ground_of(argument), Future(), directories_of(argument))
        level0 = argument.level0 if argument is not None and job.ground else None
        self._loop.call_soon_threadsafe(self._accept, job, level0, argument)
        return job.outcome

    @property
    def crew(self) -> Crew:
        """The workers at the time of the last check."""
        return self._crew

    def running_s(self, key: str) -> float | None:
        """Return the seconds for which a worker has run a job, by its last heartbeat; None if no worker runs it."""
        return self._members.running_s(f"{KEY_PREFIX}-{key}")

    def replace_worker(self, key: str, forget: Callable[[], object], timeout_s: float) -> None:
        """Restart the worker that runs a job, after `forget`, which cancels the job. Blocking."""
        holder = self._members.holder(f"{KEY_PREFIX}-{key}")
        forget()  # before the restart: otherwise the scheduler would give the job to the next worker
        if holder is None or self._connection is None:
            return
        restart = self._connection.restart(holder, timeout_s)
        with contextlib.suppress(Exception):  # the scheduler is lost, or the worker has no nanny
            asyncio.run_coroutine_threadsafe(restart, self._loop).result(timeout_s + CLOSE_S)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel all jobs and end the connection."""
        del cancel_futures
        self._closing = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._wake.set)
        if wait and threading.current_thread() is not self._thread:
            self._thread.join(2 * CLOSE_S)

    # --- the thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            with contextlib.suppress(Exception):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
                self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        attempt = 0
        try:
            while not self._closing:
                try:
                    async with contextlib.AsyncExitStack() as stack:
                        connection = await stack.enter_async_context(Connection.connect(self._access))
                        attempt = 0
                        await self._use(connection)
                except SchedulerAway as away:
                    fault = str(away)
                except Exception as error:  # noqa: BLE001  the thread would end, and with it every job
                    fault = f"{self._access.scheduler}: {type(error).__name__}: {_first_line(error)}"
                else:
                    continue
                attempt += 1
                self._lose(fault)
                await self._pause(opening_delay_s(attempt))
        finally:
            await self._cancel_all()

    async def _use(self, connection: Connection) -> None:
        self._connection = connection
        self._members.begin(connection)
        try:
            while not self._closing:
                connection.require()
                await self._members.look()
                self._resend_stranded()
                self._dispatch_waiting()
                self._wanted.show(connection, sum(job.is_waiting for job in self._jobs.values()))
                self._leftovers.look(connection)
                self._found()
                await self._pause(LOOK_S)
        finally:
            self._connection = None
            self._wanted.forget()
            self._leftovers.stop()
            self._sent.clear()
            for job in self._jobs.values():
                job.remote, job.sent_to = None, frozenset()
            await self._members.end()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _found(self) -> None:
        is_news, self._fault = bool(self._fault), ""
        self._describe()  # before the callback, which reads `crew`
        if is_news:
            self.on_change("")

    def _lose(self, fault: str) -> None:
        is_news, self._fault = self._fault != fault, fault
        self._describe()
        if is_news:
            self.on_change(fault)

    def _describe(self) -> None:
        members = self._members.described() if self._connection else ()
        usable = any(member.is_usable for member in members)
        if not self._jobs or usable or self._fault:
            self._without_worker_since = None
        elif self._without_worker_since is None:
            self._without_worker_since = time.monotonic()
        since = self._without_worker_since
        self._crew = Crew(
            members,
            len(self._jobs),
            self._access.scheduler,
            self._fault,
            time.monotonic() - since if since is not None else 0.0,
            self._members.notes(),
        )

    async def _cancel_all(self) -> None:
        tasks = [job.task for job in self._jobs.values() if job.task]
        for job in list(self._jobs.values()):
            job.outcome.cancel()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        self._jobs.clear()

    # --- jobs

    def _accept(self, job: Job, level0: Any, argument: Any) -> None:
        if self._closing:
            job.outcome.cancel()
            return
        self._jobs[job.key] = job
        self._leftovers.begin(job.directories)
        job.outcome.add_done_callback(lambda _: self._soon(self._drop, job))
        if job.ground:
            self._members.learn(job.ground, level0, sharing_of(argument))
        self._dispatch(job)

    def _soon(self, call: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _drop(self, job: Job) -> None:
        """Forget a job that is done or cancelled, and release its task at the scheduler immediately."""
        if self._jobs.pop(job.key, None):
            self._leftovers.end(job.directories)
        if job.task and job.outcome.cancelled():
            job.task.cancel()

    def _dispatch_waiting(self) -> None:
        full: set[Ground | None] = set()
        for job in [job for job in self._jobs.values() if job.is_waiting]:
            if job.ground not in full and not self._dispatch(job):
                full.add(job.ground)

    def _dispatch(self, job: Job) -> bool:
        """Submit a job to the workers that are proved to see its files. Return False if all have enough tasks."""
        usable = self._members.usable(job.ground)
        if not (connection := self._connection) or len(self._sent) >= AHEAD * self._members.threads(usable):
            return False
        job.remote = remote = connection.submit(pickle.loads, job.payload, f"{KEY_PREFIX}-{uuid.uuid4().hex}", usable)
        if remote is None:
            return False
        job.sent_to = usable
        self._sent.add(job.key)
        job.task = self._loop.create_task(self._follow(job, remote, connection), name=job.key)
        return True

    def _resend_stranded(self) -> None:
        """Take back the jobs whose workers have all left: the scheduler would keep these jobs for ever."""
        present = self._members.addresses
        for job in self._jobs.values():
            if job.remote is not None and job.sent_to and not job.sent_to & present:
                job.sent_to = frozenset()
                if job.task:
                    job.task.cancel()

    async def _follow(self, job: Job, remote: Any, connection: Connection) -> None:
        """Wait for the answer of a worker, and set the outcome of the job; if the task is lost, submit it again."""
        outcome: Callable[[], object] | None = None
        try:
            answer = await connection.result(remote)
            if not (isinstance(answer, Answer) and await self._is_fault_of_worker(job, answer)):
                outcome = self._outcome_of(job, answer)
        except asyncio.CancelledError:
            if self._closing or job.outcome.cancelled():
                raise
        finally:
            connection.release(remote)
            if job.remote is remote:
                job.remote = job.task = None
                self._sent.discard(job.key)
            if outcome and not job.outcome.done():
                with contextlib.suppress(Exception):  # the future was cancelled at this moment
                    outcome()
            if job.outcome.done():
                self._dispatch_waiting()
            else:
                self._wake.set()

    def _outcome_of(self, job: Job, answer: Any) -> Callable[[], object] | None:
        """Return a function that sets the outcome of a job; None if the job must be submitted again."""
        if isinstance(answer, Answer) and answer.error is None:
            return lambda: job.outcome.set_result(answer.result)
        if isinstance(answer, Answer):
            return lambda: job.outcome.set_exception(answer.error)
        if Connection.is_killed_worker(answer):
            return lambda: job.outcome.set_exception(WorkersDied(_first_line(answer)))
        job.failures += 1
        if job.failures < MAX_FAILURES:
            return None
        problem = f"failed a task {MAX_FAILURES} times: {type(answer).__name__}: {_first_line(answer)}"
        return lambda: job.outcome.set_exception(WorkersUnavailable(self._access.scheduler, problem))

    async def _is_fault_of_worker(self, job: Job, answer: Answer) -> bool:
        """Whether a job failed because its worker no longer sees the files, so that another worker can run it."""
        if job.ground is None or getattr(answer.result, "fault", None) is None:
            return False
        return await self._members.fails_now(answer.worker, job.ground)


def _first_line(error: object) -> str:
    return str(error).partition("\n")[0]
