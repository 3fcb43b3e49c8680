"""Awaiting the results of submitted jobs, with a time-out that counts from the start of the job."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any, TypeVar

from handlers.workers.started_jobs import StartedJobs

T = TypeVar("T")

MIN_WAIT_S = 0.5
"""Shortest pause between two questions for how long a job has run."""


class JobTimedOut(Exception):  # noqa: N818  not an error yet: the pool decides what to do
    """A worker has had a job for longer than the time-out."""


class NotStarted(Exception):  # noqa: N818  handled by submitting the job again
    """A job had not started when its executor was retired, or broke."""


class JobDropped(BrokenExecutor):
    """An executor cancelled a job without a request of the pool."""


async def result_of(future: Future[T]) -> T:
    """Return the future's result.

    Raises
    ------
    JobDropped
        If the executor cancelled the future. A CancelledError would be taken for the cancellation of this task.
    """
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and (task is None or not task.cancelling()):
            raise JobDropped("the executor dropped the job") from None
        raise


async def result_in_time(jobs: StartedJobs, future: Future[T], timeout_s: float) -> T:
    """Return the future's result. Raises JobTimedOut `timeout_s` after its start, NotStarted if it never starts."""
    try:
        async with asyncio.timeout(None) as limit:
            jobs.add(future, limit, timeout_s)
            return await result_of(future)
    except TimeoutError:
        if not limit.expired():  # the job raised it
            raise
        raise (NotStarted if jobs.is_refused(future) else JobTimedOut) from None


async def result_of_running(
    future: Future[T], timeout_s: float, running_s: Callable[[], float | None], is_replacing: Callable[[float], bool]
) -> T:
    """Return the future's result. Raises JobTimedOut when a worker has had the job for `timeout_s`.

    Parameters
    ----------
    running_s : returns the seconds for which a worker has run the job; None while the job waits for a worker.
    is_replacing : whether a worker was being replaced at any time since the given time (`time.monotonic`), which
        delays other jobs.
    """
    result: asyncio.Future[T] = asyncio.ensure_future(result_of(future))
    result.add_done_callback(_retrieve)
    try:
        wait_s = timeout_s
        while True:
            began = time.monotonic()
            await asyncio.wait([result], timeout=wait_s)
            if result.done():
                return result.result()
            ran_s = running_s() or 0.0
            if ran_s >= timeout_s and not is_replacing(began):
                raise JobTimedOut  # the job stays in the executor, since `replace_worker` finds its worker by the job
            wait_s = max(MIN_WAIT_S, timeout_s - ran_s)
    except asyncio.CancelledError:
        result.cancel()
        raise


def _retrieve(result: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a job that was given up, which asyncio would log as never retrieved."""
    if not result.cancelled():
        result.exception()
