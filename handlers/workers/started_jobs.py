"""Started jobs of an executor. Executors do not report the start of a job, from which its time-out counts."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from typing import Any


class StartedJobs:
    """An executor, and its unfinished jobs in the order of submission, which is the order of their start.

    So a job has started when fewer unfinished jobs are before it than there are workers.
    """

    def __init__(self, executor: Executor, workers: int) -> None:
        self.executor = executor
        self.is_retired = False
        self._free = workers
        self._waiting: dict[Future[Any], tuple[asyncio.Timeout, float]] = {}
        """Jobs that have not started, in the order of submission, with their limit and its seconds."""
        self._refused: set[Future[Any]] = set()
        """Jobs that will not start."""
        self._awaited: set[Future[Any]] = set()
        self._is_empty = False
        self._replacements = 0
        self._replaced_at = float("-inf")

    def __len__(self) -> int:
        """Return the number of jobs that are not finished."""
        return len(self._awaited)

    @contextlib.contextmanager
    def replacing_worker(self) -> Iterator[None]:
        """Context in which a worker is replaced: jobs that wait for this worker take longer."""
        self._replacements += 1
        try:
            yield
        finally:
            self._replacements -= 1
            self._replaced_at = time.monotonic()

    def was_replacing_worker(self, since: float) -> bool:
        """Whether a worker was being replaced at any time from `since` (`time.monotonic`) until now."""
        return self._replacements > 0 or self._replaced_at >= since

    def add(self, future: Future[Any], limit: asyncio.Timeout, timeout_s: float) -> None:
        """Add a job. Its limit expires `timeout_s` after its start, or at once when the job will never start."""
        self._awaited.add(future)
        self._waiting[future] = limit, timeout_s
        self._start_next()

    def is_refused(self, future: Future[Any]) -> bool:
        """Whether a job will not start."""
        return future in self._refused

    def retire(self, hanging: Future[Any]) -> None:
        """Retire the executor because of a hanging job: other running jobs may end, waiting jobs will not start."""
        self.is_retired = True
        self._awaited.discard(hanging)
        self._refused |= self._waiting.keys()
        for future, (limit, _) in self._waiting.items():
            self._expire_in(0.0, future, limit)
        self._waiting.clear()

    def remove(self, future: Future[Any]) -> bool:
        """Remove a job that is no longer awaited. Return whether it was the last job of a retired executor."""
        self._awaited.discard(future)
        if future.done():
            self._end(future)
        else:
            self._end_later(future)
        if not self.is_retired or self._awaited or self._is_empty:
            return False
        self._is_empty = True
        return True

    def _end_later(self, future: Future[Any]) -> None:
        """Count a job's worker as free when the job ends: a worker may run it although nobody waits for its result."""
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._end, future)

        future.add_done_callback(ended)

    def _end(self, future: Future[Any]) -> None:
        is_counted = self._waiting.pop(future, None) is None and future not in self._refused
        self._free += is_counted  # otherwise it ended before its start was counted
        self._start_next()

    def _start_next(self) -> None:
        while self._free and self._waiting:
            future = next(iter(self._waiting))
            limit, timeout_s = self._waiting.pop(future)
            self._free -= 1
            self._expire_in(timeout_s, future, limit)

    def _expire_in(self, delay_s: float, future: Future[Any], limit: asyncio.Timeout) -> None:
        if future in self._awaited:  # otherwise its limit has ended
            limit.reschedule(asyncio.get_running_loop().time() + delay_s)
