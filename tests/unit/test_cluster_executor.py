"""The executor of a scheduler: what becomes of a job whose scheduler or worker goes away. The scheduler is a list."""

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
from handlers.workers.cluster.executor import MOST_FAILURES, ClusterExecutor, WorkersDied
from handlers.workers.cluster.ground import Proof, Task, prove
from handlers.workers.cluster.on_worker import Answer, Introduction, versions_here
from tests.waiting import wait_for

ADDRESS, ONE, TWO = "tcp://scheduler:8786", "tcp://node1:1", "tcp://node2:2"
KILLED = RuntimeError("killed\nby a job")


class Sent:
    """A task at the scheduler."""

    def __init__(self, workers: frozenset[str]) -> None:
        self.workers = workers
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_released = False

    def answers(self, answer: Any) -> None:
        self.answer.get_loop().call_soon_threadsafe(self.answer.set_result, answer)

    def is_lost(self) -> None:
        self.answer.get_loop().call_soon_threadsafe(self.answer.cancel)


class Scheduler:
    """Stands for the connection, and keeps what it was given."""

    def __init__(self) -> None:
        self.scheduler_versions: dict[str, str] = {}
        self.found = {ONE}
        self.away = ""
        self.is_lost = False
        self.sent: list[Sent] = []
        self.blind: set[str] = set()
        self.wanted: list[SimpleNamespace] = []
        """Tasks that no worker can do."""

    @contextlib.asynccontextmanager
    async def connect(self, _: ClusterAccess) -> AsyncIterator["Scheduler"]:
        if self.away:
            raise SchedulerAway(self.away)
        try:
            yield self
        finally:  # as a client of dask that closes
            for each in self.sent:
                each.answer.cancel()

    def require(self) -> None:
        if self.away:
            raise SchedulerAway(self.away)

    async def workers(self) -> dict[str, dict[str, Any]]:
        return {address: {"nthreads": 1} for address in self.found}

    async def run(self, address: str, _: object, tasks: tuple[Task, ...], paths: object) -> Introduction:
        proofs = [Proof("sees nothing") if address in self.blind else prove(task, "w") for task in tasks]
        return Introduction(address, address, versions_here(), tuple(proofs))

    def submit(self, function: object, payload: bytes, key: str, workers: frozenset[str]) -> Sent | None:
        if self.is_lost:
            return None
        self.sent.append(Sent(workers))
        return self.sent[-1]

    def submit_for_nobody(self, key: str) -> SimpleNamespace | None:
        if self.is_lost:
            return None
        self.wanted.append(SimpleNamespace(status="pending", is_released=False))
        return self.wanted[-1]

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


def test_a_job_has_the_result_or_the_exception_of_its_worker(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    good, bad = job(executor), job(executor)
    scheduler.task(1).answers(Answer(3))
    scheduler.task(2).answers(Answer(error=ValueError("no")))
    assert good.result(60) == 3
    with pytest.raises(ValueError, match="no"):
        bad.result(60)
    wait_for(lambda: all(each.is_released for each in scheduler.sent), "both tasks are released")
    wait_for(lambda: executor.crew.tiles == 0, "no job is left")


def test_a_job_waits_for_a_worker(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    scheduler.found.clear()
    wait_for(lambda: not executor.crew.members and not executor.crew.fault, "no worker is left")
    waiting = job(executor)
    wait_for(lambda: executor.crew.without_worker_s > 0, "it is known that no worker is there")
    assert scheduler.sent == []
    wait_for(lambda: len(scheduler.wanted) == 1, "the scheduler sees that a job waits")
    scheduler.found.add(TWO)
    sent = scheduler.task(1)
    assert sent.workers == {TWO}
    sent.answers(Answer(3))
    assert waiting.result(60) == 3


def test_a_job_whose_workers_are_all_gone_is_submitted_again(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    done = job(executor)
    assert scheduler.task(1).workers == {ONE}
    scheduler.found = {TWO}
    second = scheduler.task(2)
    assert second.workers == {TWO}
    assert scheduler.sent[0].is_released
    second.answers(Answer(3))
    assert done.result(60) == 3


def test_a_job_one_of_whose_workers_is_left_stays_with_the_scheduler(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    scheduler.found = {ONE, TWO}
    wait_for(lambda: len(executor.crew.members) == 2, "both workers are known")
    wait_for(lambda: executor._members.usable(None) == {ONE, TWO}, "both have answered")
    done = job(executor)
    assert scheduler.task(1).workers == {ONE, TWO}
    scheduler.found = {TWO}
    wait_for(lambda: len(executor.crew.members) == 1, "the other one is gone")
    scheduler.task(1).answers(Answer(3))
    assert done.result(60) == 3
    assert len(scheduler.sent) == 1


def test_a_task_that_the_scheduler_lost_is_submitted_again(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    done = job(executor)
    scheduler.task(1).is_lost()
    scheduler.task(2).answers(Answer(3))
    assert done.result(60) == 3


def test_a_lost_scheduler_is_news_once_and_its_jobs_are_done_when_it_is_back(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    wait_for(lambda: not executor.crew.fault, "connected")
    news: list[str] = []
    executor.on_change = news.append
    done = job(executor)
    scheduler.task(1)
    scheduler.away = "does not answer"
    wait_for(lambda: executor.crew.fault == "does not answer", "it is known to be away")
    assert (executor.crew.tiles, executor.crew.members) == (1, ())
    scheduler.away = ""
    scheduler.task(2).answers(Answer(3))
    assert done.result(60) == 3
    assert news == ["does not answer", ""]


def test_a_job_that_could_not_be_submitted_is_submitted_later(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    wait_for(lambda: executor._members.usable(None), "the worker has answered")
    scheduler.is_lost = True
    done = job(executor)
    wait_for(lambda: executor.crew.tiles == 1, "the job is known")
    scheduler.is_lost = False
    scheduler.task(1).answers(Answer(3))
    assert done.result(60) == 3


def test_a_task_that_the_scheduler_fails_again_and_again_is_a_fault_of_the_scheduler(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    failed = job(executor)
    for number in range(1, MOST_FAILURES + 1):
        assert not failed.done()
        scheduler.task(number).answers(RuntimeError("cannot read\nthe task"))
    with pytest.raises(WorkersUnavailable) as fault:
        failed.result(60)
    assert fault.value.subject == ADDRESS
    assert fault.value.problem == f"failed a task {MOST_FAILURES} times: RuntimeError: cannot read"
    assert len(scheduler.sent) == MOST_FAILURES


def test_a_job_whose_workers_died_several_times_says_so(scheduler: Scheduler, executor: ClusterExecutor) -> None:
    dead = job(executor)
    scheduler.task(1).answers(KILLED)
    with pytest.raises(WorkersDied, match=r"^killed$"):
        dead.result(60)


def test_a_cancelled_job_is_released_at_once_and_not_submitted_again(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    cancelled = job(executor)
    sent = scheduler.task(1)
    assert cancelled.cancel()
    wait_for(lambda: sent.is_released, "its task is released")
    wait_for(lambda: executor.crew.tiles == 0, "it is forgotten")
    assert len(scheduler.sent) == 1


def test_a_tile_that_fails_because_its_worker_is_blind_is_made_by_another(
    scheduler: Scheduler, executor: ClusterExecutor, tmp_path: Path
) -> None:
    image = tmp_path / "a.tif"
    image.write_bytes(b"image")
    tile = MipmapJob("t", image, ((1, tmp_path / "m/a.tif"),), 8, 8)
    made = executor.submit(id, tile)
    sent = scheduler.task(1)
    scheduler.blind, scheduler.found = {ONE}, {ONE, TWO}
    failed = SimpleNamespace(fault="is not there")
    sent.answers(Answer(failed, worker=ONE))
    second = scheduler.task(2)
    assert second.workers == {TWO}
    second.answers(Answer(failed, worker=TWO))  # it sees the files: the fault is the image's
    assert made.result(60) is failed


def test_jobs_are_cancelled_when_the_executor_ends_and_none_is_taken_any_more(
    scheduler: Scheduler, executor: ClusterExecutor
) -> None:
    waiting = job(executor)
    sent = scheduler.task(1)
    executor.shutdown()
    assert waiting.cancelled()
    assert sent.is_released
    with pytest.raises(CancelledError):
        waiting.result(0)
    with pytest.raises(BrokenExecutor):
        job(executor)
