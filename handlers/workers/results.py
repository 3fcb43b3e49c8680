"""Results of submitted jobs, awaited: with a time limit that counts from the start of the job."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any, TypeVar

from handlers.workers.started_jobs import StartedJobs

T = TypeVar("T")

LEAST_WAIT_S = 0.5
"""Between two questions how long a job has run."""


class JobTimedOut(Exception):  # noqa: N818  not an error yet: the pool decides about the job
    """A worker has had a job for longer than the limit."""


class NotStarted(Exception):  # noqa: N818  handled by submitting the job again
    """A job had not started when its executor was retired, or broke."""


class JobDropped(BrokenExecutor):
    """An executor cancelled a job, and the pool had not asked for it."""


async def result_of(future: Future[T]) -> T:
    """Return the future's result.

    Raises
    ------
    JobDropped
        If the executor cancelled the future. A CancelledError would look like the cancellation of this task.
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
    start = jobs.add(future)
    result: asyncio.Future[T] = asyncio.ensure_future(result_of(future))
    result.add_done_callback(_retrieve)
    both: tuple[asyncio.Future[Any], ...] = (result, start)
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not result.done() and not start.result():
            raise NotStarted
        while not result.done():
            began = time.monotonic()
            await asyncio.wait([result], timeout=timeout_s)
            if not jobs.was_replacing_worker(since=began):
                break
    except BaseException:
        result.cancel()  # this cancels the future, too, unless a worker has it
        raise
    if not result.done():
        raise JobTimedOut  # the job stays in the executor: `replace_worker` finds its worker by it
    return result.result()


async def result_of_running(
    future: Future[T], timeout_s: float, running_s: Callable[[], float | None], is_replacing: Callable[[float], bool]
) -> T:
    """Return the future's result. Raises JobTimedOut when a worker has had the job for `timeout_s`.

    Parameters
    ----------
    running_s : seconds that a worker has had the job; None while it waits for one.
    is_replacing : whether a worker was being replaced at any time from this one on (`time.monotonic`): jobs of the same
        worker take longer.
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
                raise JobTimedOut  # the job stays in the executor: `replace_worker` finds its worker by it
            wait_s = max(LEAST_WAIT_S, timeout_s - ran_s)
    except asyncio.CancelledError:
        result.cancel()
        raise


def _retrieve(result: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a job that was given up: asyncio would log it as never retrieved."""
    if not result.cancelled():
        result.exception()
