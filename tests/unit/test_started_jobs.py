"""The time-out of a job counts from its start; jobs of a retired executor that have not started are refused."""

import asyncio
from concurrent.futures import Executor, Future

import pytest

from handlers.workers.results import JobTimedOut, NotStarted, result_in_time
from handlers.workers.started_jobs import StartedJobs

LONG_S = 600.0


class Jobs(StartedJobs):
    """Jobs of an executor with one worker; a test decides when each of them ends."""

    def __init__(self) -> None:
        super().__init__(Executor(), 1)

    def is_waiting(self, future: Future[str]) -> bool:
        """Whether a job has not started."""
        return future in self._waiting

    async def begin(self, timeout_s: float = LONG_S) -> tuple[Future[str], asyncio.Task[str]]:
        """Return a new job and the task that waits for its result."""
        future: Future[str] = Future()
        task = asyncio.create_task(self._awaited_result(future, timeout_s))
        await asyncio.sleep(0)
        return future, task

    async def _awaited_result(self, future: Future[str], timeout_s: float) -> str:
        try:
            return await result_in_time(self, future, timeout_s)
        finally:
            self.remove(future)


def run(future: Future[str]) -> None:
    """Let a worker run a job, which then cannot be cancelled."""
    assert future.set_running_or_notify_cancel()


async def cancel(task: asyncio.Task[str]) -> None:
    """Stop waiting for a job."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def turns_until(jobs: Jobs, future: Future[str]) -> None:
    """Wait until a job has started."""
    async with asyncio.timeout(30):
        while jobs.is_waiting(future):  # noqa: ASYNC110  the start sets no event
            await asyncio.sleep(0)


async def test_a_job_starts_when_the_job_before_it_ends() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    second, second_task = await jobs.begin()
    assert not jobs.is_waiting(first)
    assert jobs.is_waiting(second)
    first.set_result("first")
    assert await first_task == "first"
    await turns_until(jobs, second)
    second.set_result("second")
    assert await second_task == "second"
    assert len(jobs) == 0


async def test_a_job_that_waits_for_a_worker_does_not_time_out() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    second, second_task = await jobs.begin(timeout_s=0.0)
    for _ in range(10):
        await asyncio.sleep(0)  # an expired limit takes effect in the next turns of the loop
    assert not second_task.done()
    first.set_result("first")
    await first_task
    with pytest.raises(JobTimedOut):
        await second_task
    assert second.cancelled()


async def test_a_running_job_keeps_its_worker_until_it_ends_although_nobody_waits_for_it() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    run(first)
    second, second_task = await jobs.begin()
    await cancel(first_task)
    await asyncio.sleep(0)
    assert jobs.is_waiting(second)
    first.set_result("too late")
    await turns_until(jobs, second)
    await cancel(second_task)


async def test_a_job_that_a_worker_takes_although_nobody_waits_for_it_delays_the_next_one() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    second, second_task = await jobs.begin()
    run(second)  # a pool takes one job more than it has workers
    third, third_task = await jobs.begin()
    await cancel(second_task)
    first.set_result("first")
    await first_task
    await turns_until(jobs, second)
    assert jobs.is_waiting(third)
    second.set_result("too late")
    await turns_until(jobs, third)
    await cancel(third_task)


async def test_a_waiting_job_of_a_retired_executor_is_not_started() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    second, second_task = await jobs.begin()
    jobs.retire(first)
    with pytest.raises(NotStarted):
        await second_task
    assert second.cancelled()
    first.set_result("first")
    assert await first_task == "first"


async def test_a_job_of_a_retired_executor_that_could_not_be_replaced_starts_when_a_worker_is_free() -> None:
    jobs = Jobs()
    first, first_task = await jobs.begin()
    jobs.retire(first)
    second, second_task = await jobs.begin()
    jobs.retire(first)
    with pytest.raises(NotStarted):
        await second_task
    third, third_task = await jobs.begin()
    assert jobs.is_waiting(third)
    first.set_result("first")
    await first_task
    await turns_until(jobs, third)
    third.set_result("third")
    assert await third_task == "third"
    assert second.cancelled()


async def test_a_job_that_ends_before_the_one_before_it_frees_no_worker() -> None:
    jobs = Jobs()
    _, first_task = await jobs.begin()
    second, second_task = await jobs.begin()
    second.set_result("second")
    assert await second_task == "second"
    third, third_task = await jobs.begin()
    assert jobs.is_waiting(third)
    await cancel(third_task)
    await cancel(first_task)


async def test_a_time_out_that_the_job_raises_is_not_taken_for_its_limit() -> None:
    future, task = await Jobs().begin()
    future.set_exception(TimeoutError("of the job"))
    with pytest.raises(TimeoutError, match="of the job"):
        await task
