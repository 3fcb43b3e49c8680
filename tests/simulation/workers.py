"""Simulated worker processes: jobs run in this thread, each at its own virtual time."""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, TypeVar

from handlers.workers.worker import WorkerDeath
from tests.simulation.loop import SimulatedLoop, daemon_run

T = TypeVar("T")


class SimulatedWorkers(Executor):
    """Replaces `handlers.workers.processes.ProcessExecutor`; runs as many jobs at once as there are workers."""

    loop: SimulatedLoop
    """Set before the first pool is created."""
    max_job_s = 0.2
    """Largest duration of a job."""
    _is_busy = False
    """Whether a job is running or interrupted. Other jobs wait, since real workers do not share memory."""

    def __init__(self, count: int, memory_bytes: int = 0) -> None:
        self._free_at = [0.0] * count
        self._is_ended = self._is_broken = False
        self._jobs: list[Future[Any]] = []

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Return the future of a job."""
        if self._is_ended:
            raise BrokenExecutor("the pool has ended")
        future: Future[T] = Future()
        loop, owner = self.loop, daemon_run.get()
        worker = min(range(len(self._free_at)), key=self._free_at.__getitem__)
        begins = max(loop.now, self._free_at[worker])
        self._free_at[worker] = ends = begins + loop._rng.random() * self.max_job_s

        def begin() -> None:
            if not self._is_ended:
                future.set_running_or_notify_cancel()

        def end() -> None:
            if self._is_ended or not future.running() or loop.is_killed(owner):
                return
            if SimulatedWorkers._is_busy:
                loop.call_later(0.01, end)
                return
            SimulatedWorkers._is_busy = True
            resolve: Callable[[Any], None]
            try:
                resolve, outcome = future.set_result, loop.run_interruptibly(lambda: fn(*args, **kwargs))
            except Exception as error:  # noqa: BLE001  an executor passes on every exception of its function
                resolve, outcome = future.set_exception, error
            finally:
                SimulatedWorkers._is_busy = False
            if not future.done():  # the pool may have broken during an interruption
                resolve(outcome)

        loop.call_at(begins, begin)
        loop.call_at(ends + 1e-6, end)
        self._jobs.append(future)
        return future

    def break_down(self) -> None:
        """Kill a worker: the pool breaks, and every job in it is lost."""
        self._is_ended = self._is_broken = True
        for job in self._jobs:
            if not job.done():
                job.set_exception(BrokenExecutor("a worker process was killed"))

    def start_all(self, timeout_s: float) -> None:
        """Start at once."""

    def end(self, timeout_s: float) -> None:
        """Drop all jobs."""
        self._is_ended = True
        for job in self._jobs:
            job.cancel()

    def abandon(self) -> None:
        """Drop all jobs."""
        self.end(0.0)

    def deaths(self) -> list[WorkerDeath]:
        """Return the death of the killed worker."""
        return [WorkerDeath("", "signal SIGKILL")] if self._is_broken else []
