"""The executor of a dask scheduler: jobs whose scheduler or worker is lost. A stand-in records what is submitted."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.errors import WorkersUnavailable
from handlers.mipmaps.job import MipmapJob
from handlers.workers.cluster import executor as cluster
from handlers.workers.cluster import members
from handlers.workers.cluster.access import ClusterAccess
from handlers.workers.cluster.connection import SchedulerAway
from handlers.workers.cluster.executor import MAX_FAILURES, ClusterExecutor, WorkersDied
from handlers.workers.cluster.on_worker import Answer, Introduction, versions_here
from handlers.workers.cluster.shared_directories import Proof, Task, prove
from tests.waiting import wait_for

ADDRESS, ONE, TWO = "tcp://scheduler:8786", "tcp://node1:1", "tcp://node2:2"
KILLED = RuntimeError("killed\nby a job")


class Sent:
    """A task that was submitted to the scheduler."""

    def __init__(self, workers: frozenset[str]) -> None:
        self.workers = workers
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_released = False

    def finish(self, answer: Any) -> None:
        self.answer.get_loop().call_soon_threadsafe(self.answer.set_result, answer)

    def lose(self) -> None:
        self.answer.get_loop().call_soon_threadsafe(self.answer.cancel)


class Scheduler:
    """Stand-in for `Connection` that keeps the submitted tasks."""

    def __init__(self) -> None:
        self.scheduler_versions: dict[str, str] = {}
        self.addresses = {ONE}
        """Of the workers."""
        self.checks = 0
        """Number of requests for the list of workers."""
        self.fault = ""
        self.refuses_tasks = False
        self.sent: list[Sent] = []
        self.without_files: set[str] = set()
        """Addresses of the workers that cannot access the files of tiles."""
        self.for_nobody: list[SimpleNamespace] = []
        """Tasks that no worker can do."""

    @contextlib.asynccontextmanager
    async def connect(self, _: ClusterAccess) -> AsyncIterator["Scheduler"]:
        if self.fault:
            raise SchedulerAway(self.fault)
        try:
            yield self
        finally:  # a client of dask does so when it closes
            for each in self.sent:
                each.answer.cancel()

    def require(self) -> None:
        if self.fault:
            raise SchedulerAway(self.fault)

    async def workers(self) -> dict[str, dict[str, Any]]:
        self.checks += 1
        return {address: {"nthreads": 1} for address in self.addresses}

    async def run(self, address: str, _: object, tasks: tuple[Task, ...], paths: object) -> Introduction:
        proofs = [
            Proof("cannot access the files") if address in self.without_files else prove(task, "w") for task in tasks
        ]
        return Introduction(address, address, versions_here(), tuple(proofs))

    def submit(self, function: object, payload: bytes, key: str, workers: frozenset[str]) -> Sent | None:
        if self.refuses_tasks:
            return None
        self.sent.append(Sent(workers))
        return self.sent[-1]

    def submit_for_nobody(self, key: str) -> SimpleNamespace | None:
        if self.refuses_tasks:
            return None
        self.for_nobody.append(SimpleNamespace(status="pending", is_released=False))
        return self.for_nobody[-1]

    async def result(self, remote: Sent) -> Any:
        return await remote.answer

    def release(self, remote: Sent | SimpleNamespace) -> None:
        remote.is_released = True

    def is_killed_worker(self, answer: object) -> bool:
        return answer is KILLED

    def task(self, number: int) -> Sent:
        """Wait for the task of this number, and return it."""
        wait_for(lambda: len(self.sent) >= number, f"task {number} is submitted")
        return self.sent[number - 1]


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    made = Scheduler()
    monkeypatch.setattr(cluster, "Connection", made)
    monkeypatch.setattr(cluster, "LOOK_S", 0.01)
    monkeypatch.setattr(cluster, "opening_delay_s", lambda _: 0.01)
    monkeypatch.setattr(members, "FRESH_S", -1.0)
    return made


@pytest.fixture
def executor(scheduler: Scheduler) -> Iterator[ClusterExecutor]:
    made = ClusterExecutor(ClusterAccess(ADDRESS), 1 << 30)
    yield made
    made.shutdown()
    assert not made._thread.is_alive()


def job(executor: ClusterExecutor) -> "Future[int]":
    return executor.submit(len, "abc")


def test_a_job_returns_the_result_or_the_exception_of_its_worker(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    good, bad = job(executor), job(executor)
    scheduler.task(1).finish(Answer(3))
    scheduler.task(2).finish(Answer(error=ValueError("no")))
    assert good.result(60) == 3
    with pytest.raises(ValueError, match="no"):
        bad.result(60)
    wait_for(lambda: all(each.is_released for each in scheduler.sent), "both tasks are released")
    wait_for(lambda: executor.crew.tiles == 0, "no job is left")


def test_a_job_waits_for_a_worker(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    scheduler.addresses.clear()
    wait_for(lambda: not executor.crew.members and not executor.crew.fault, "no worker is left")
    waiting = job(executor)
    wait_for(lambda: executor.crew.without_worker_s > 0, "the executor knows that there is no worker")
    assert scheduler.sent == []
    wait_for(lambda: len(scheduler.for_nobody) == 1, "the scheduler has a task that shows the waiting job")
    scheduler.addresses.add(TWO)
    sent = scheduler.task(1)
    assert sent.workers == {TWO}
    sent.finish(Answer(3))
    assert waiting.result(60) == 3


def test_a_job_whose_workers_are_all_gone_is_submitted_again(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    done = job(executor)
    assert scheduler.task(1).workers == {ONE}
    scheduler.addresses = {TWO}
    second = scheduler.task(2)
    assert second.workers == {TWO}
    assert scheduler.sent[0].is_released
    second.finish(Answer(3))
    assert done.result(60) == 3


def test_a_job_is_not_submitted_again_while_one_of_its_workers_remains(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    scheduler.addresses = {ONE, TWO}
    wait_for(lambda: len(executor.crew.members) == 2, "both workers are known")
    wait_for(lambda: executor._members.usable(None) == {ONE, TWO}, "both workers can be used")
    done = job(executor)
    assert scheduler.task(1).workers == {ONE, TWO}
    scheduler.addresses = {TWO}
    wait_for(lambda: len(executor.crew.members) == 1, "the lost worker is removed")
    scheduler.task(1).finish(Answer(3))
    assert done.result(60) == 3
    assert len(scheduler.sent) == 1


def test_a_task_that_the_scheduler_lost_is_submitted_again(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    done = job(executor)
    scheduler.task(1).lose()
    scheduler.task(2).finish(Answer(3))
    assert done.result(60) == 3


def test_a_lost_scheduler_is_reported_once_and_its_jobs_are_done_after_it_returns(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    wait_for(lambda: scheduler.checks > 1, "the first connection was reported")
    news: list[str] = []
    executor.on_change = news.append
    done = job(executor)
    scheduler.task(1)
    scheduler.fault = "does not answer"
    wait_for(lambda: executor.crew.fault == "does not answer", "the lost scheduler is reported")
    assert (executor.crew.tiles, executor.crew.members) == (1, ())
    scheduler.fault = ""
    scheduler.task(2).finish(Answer(3))
    assert done.result(60) == 3
    assert news == ["does not answer", ""]


def test_a_job_that_could_not_be_submitted_is_submitted_later(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    wait_for(lambda: executor._members.usable(None), "the worker can be used")
    scheduler.refuses_tasks = True
    done = job(executor)
    wait_for(lambda: executor.crew.tiles == 1, "the job is accepted")
    scheduler.refuses_tasks = False
    scheduler.task(1).finish(Answer(3))
    assert done.result(60) == 3


def test_a_task_that_fails_repeatedly_at_the_scheduler_is_a_fault_of_the_scheduler(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    failed = job(executor)
    for number in range(1, MAX_FAILURES + 1):
        assert not failed.done()
        scheduler.task(number).finish(RuntimeError("cannot read\nthe task"))
    with pytest.raises(WorkersUnavailable) as fault:
        failed.result(60)
    assert fault.value.subject == ADDRESS
    assert fault.value.problem == f"failed a task {MAX_FAILURES} times: RuntimeError: cannot read"
    assert len(scheduler.sent) == MAX_FAILURES


def test_a_job_whose_workers_died_several_times_raises_workers_died(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    dead = job(executor)
    scheduler.task(1).finish(KILLED)
    with pytest.raises(WorkersDied, match=r"^killed$"):
        dead.result(60)


def test_a_cancelled_job_is_released_at_once_and_not_submitted_again(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    cancelled = job(executor)
    sent = scheduler.task(1)
    assert cancelled.cancel()
    wait_for(lambda: sent.is_released, "its task is released")
    wait_for(lambda: executor.crew.tiles == 0, "the job is removed")
    assert len(scheduler.sent) == 1


def test_a_tile_that_fails_on_a_worker_without_its_files_is_made_by_another_worker(
    scheduler: Scheduler, executor: ClusterExecutor, tmp_path: Path
) -> None:
    image = tmp_path / "a.tif"
    image.write_bytes(b"image")
    tile = MipmapJob("t", image, ((1, tmp_path / "m/a.tif"),), 8, 8)
    made = executor.submit(id, tile)
    sent = scheduler.task(1)
    scheduler.without_files, scheduler.addresses = {ONE}, {ONE, TWO}
    failed = SimpleNamespace(fault="is not there")
    sent.finish(Answer(failed, worker=ONE))
    second = scheduler.task(2)
    assert second.workers == {TWO}
    second.finish(Answer(failed, worker=TWO))  # this worker has access to the files, so the fault is returned
    assert made.result(60) is failed


def test_shutdown_cancels_all_jobs_and_refuses_new_jobs(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    waiting = job(executor)
    sent = scheduler.task(1)
    executor.shutdown()
    assert waiting.cancelled()
    assert sent.is_released
    with pytest.raises(CancelledError):
        waiting.result(0)
    with pytest.raises(BrokenExecutor):
        job(executor)
