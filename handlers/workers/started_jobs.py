"""Started jobs of an executor. Executors do not report the start of a job, from which its time-out counts."""

import asyncio
import contextlib
import time
from collections import deque
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
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._unfinished: set[Future[Any]] = set()
        self._is_empty = False
        self._replacements = 0
        self._replaced_at = float("-inf")

    def __len__(self) -> int:
        """Return the number of jobs that are not finished."""
        return len(self._unfinished)

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

    def add(self, future: Future[Any]) -> asyncio.Future[bool]:
        """Add a job. Return a future that becomes True when the job starts, and False if it never will."""
        loop = asyncio.get_running_loop()
        start: asyncio.Future[bool] = loop.create_future()
        self._unfinished.add(future)
        self._waiting.append(start)
        self._start_next()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._end, future, start)

        future.add_done_callback(ended)
        return start

    def retire(self, hanging: Future[Any]) -> None:
        """Retire the executor because of a hanging job: other running jobs may end, waiting jobs will not start."""
        self.is_retired = True
        self._unfinished.discard(hanging)
        for start in self._waiting:
            if not start.done():
                start.set_result(False)
        self._waiting.clear()

    def remove(self, future: Future[Any]) -> bool:
        """Remove a job that is no longer awaited. Return whether it was the last job of a retired executor."""
        self._unfinished.discard(future)
        if not self.is_retired or self._unfinished or self._is_empty:
            return False
        self._is_empty = True
        return True

    def _start_next(self) -> None:
        while self._waiting and self._free:
            start = self._waiting.popleft()
            if not start.done():
                start.set_result(True)
                self._free -= 1

    def _end(self, future: Future[Any], start: asyncio.Future[bool]) -> None:
        self._unfinished.discard(future)
        if not start.done():
            start.set_result(True)  # it ended before its start was counted, so no worker becomes free
        elif start.result():
            self._free += 1
        self._start_next()
