"""The workers of a scheduler: which of them get jobs, and when they are asked again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.sharing import AS_MADE
from handlers.workers.cluster import members
from handlers.workers.cluster.access import WorkerPath
from handlers.workers.cluster.members import FRESH_S, RETRY_S, Members
from handlers.workers.cluster.on_worker import METRIC, Introduction, introduce, versions_here
from handlers.workers.cluster.shared_directories import PROOF_PREFIX, Ground, Proof, Task, prove

ONE, TWO = "tcp://node1:1", "tcp://node2:2"
PATHS = (WorkerPath("node*", Path("/data"), Path("/mnt/em")),)
SAME = versions_here()


class Scheduler:
    """Stand-in for the connection to a scheduler."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {ONE: {"nthreads": 2}}
        self.scheduler_versions: dict[str, str] = {}
        self.asked: list[tuple[str, list[Ground]]] = []
        self.versions = dict(SAME)
        self.answer: Callable[[Task], Proof] = lambda task: prove(task, "w")
        self.instead: Any = None
        """Answer of every worker in place of its introduction."""

    async def workers(self) -> dict[str, dict[str, Any]]:
        return self.found

    async def run(self, address: str, function: object, tasks: tuple[Task, ...], paths: object) -> Any:
        assert (function, paths) == (introduce, PATHS)
        self.asked.append((address, [task.ground for task in tasks]))
        if self.instead is not None:
            return self.instead
        host = address.partition("://")[2].partition(":")[0]
        return Introduction(host, f"{host} id", self.versions, tuple(self.answer(task) for task in tasks))


class Bench:
    """The members of a stand-in for a scheduler, at a time that the test sets."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.now = root, 1000.0
        self.changes = 0
        self.scheduler = Scheduler()
        self.members = Members(PATHS, self._changed)
        self.members.begin(self.scheduler)  # type: ignore[arg-type]
        monkeypatch.setattr(members, "time", SimpleNamespace(monotonic=lambda: self.now))

    def _changed(self) -> None:
        self.changes += 1

    def ground(self, name: str = "a") -> Ground:
        """Return a ground with one image."""
        (self.root / name).mkdir(exist_ok=True)
        (self.root / name / "image.tif").write_bytes(b"image")
        return Ground(self.root / name, self.root / f"{name} levels")

    def learn(self, name: str = "a") -> Ground:
        """Make a ground known to the members."""
        ground = self.ground(name)
        self.members.learn(ground, self.root / name / "image.tif", AS_MADE)
        return ground

    async def settled(self) -> None:
        """Wait until all workers that were asked have answered."""
        while checks := [each.check for each in self.members._workers.values() if each.check and not each.check.done()]:
            await asyncio.gather(*checks)

    async def look(self) -> None:
        """Ask the scheduler and the workers, and wait for all answers."""
        await self.members.look()
        await self.settled()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


async def test_a_worker_gets_jobs_after_its_introduction_and_its_proof_of_file_access(bench: Bench) -> None:
    await bench.members.look()
    assert bench.members.usable(None) == frozenset()
    await bench.settled()
    assert bench.members.usable(None) == {ONE}
    ground = bench.learn()
    assert bench.members.usable(ground) == frozenset()
    await bench.settled()
    assert bench.members.usable(ground) == {ONE}
    assert bench.scheduler.asked == [(ONE, []), (ONE, [ground])]
    assert bench.changes == 2
    assert not list(bench.root.rglob(f"{PROOF_PREFIX}*"))
    (member,) = bench.members.described()
    assert (member.host, member.threads, member.problem, member.is_usable) == ("node1", 2, "", True)
    assert bench.members.notes() == ()


async def test_a_worker_that_has_not_answered_is_shown_with_the_host_of_its_address(bench: Bench) -> None:
    bench.scheduler.found = {"tls://[fe80::1]:4711": {"nthreads": 1}}
    await bench.members.look()
    assert bench.members.described()[0].host == "[fe80::1]"


async def test_a_worker_that_hangs_does_not_delay_the_check_of_another(bench: Bench) -> None:
    released = asyncio.Event()
    answer = bench.scheduler.run

    async def run(address: str, *rest: Any) -> Any:
        if address == ONE:
            await released.wait()
        return await answer(address, *rest)

    bench.scheduler.run = run  # type: ignore[method-assign]
    await bench.members.look()
    bench.scheduler.found[TWO] = {"nthreads": 1}
    await bench.members.look()
    check = bench.members._workers[TWO].check
    assert check is not None
    await check
    assert bench.members.usable(None) == {TWO}
    released.set()
    await bench.settled()
    assert bench.members.usable(None) == {ONE, TWO}


async def test_a_worker_with_successful_proofs_is_not_asked_again(bench: Bench) -> None:
    bench.learn()
    await bench.look()
    asked = len(bench.scheduler.asked)
    for _ in range(3):
        bench.now += RETRY_S + 1
        await bench.look()
    assert len(bench.scheduler.asked) == asked


async def test_a_worker_with_a_failed_proof_gets_no_jobs_on_that_ground_and_is_asked_again_after_a_pause(
    bench: Bench,
) -> None:
    unseen = bench.learn("a")
    bench.scheduler.answer = lambda task: Proof("does not see it") if task.ground == unseen else prove(task, "w")
    seen = bench.learn("b")
    await bench.look()
    assert (bench.members.usable(unseen), bench.members.usable(seen)) == (frozenset(), {ONE})
    (member,) = bench.members.described()
    assert (member.problem, member.is_usable) == ("does not see it", True)
    bench.scheduler.answer = lambda task: prove(task, "w")
    bench.now += RETRY_S - 1
    await bench.look()
    assert bench.members.usable(unseen) == frozenset()
    bench.now += 2
    await bench.look()
    assert bench.members.usable(unseen) == {ONE}
    assert bench.scheduler.asked[-1] == (ONE, [unseen])


async def test_a_worker_without_a_successful_proof_is_not_usable(bench: Bench) -> None:
    bench.scheduler.answer = lambda _: Proof("does not see it")
    bench.learn()
    await bench.look()
    (member,) = bench.members.described()
    assert (member.problem, member.is_usable) == ("does not see it", False)


async def test_a_worker_whose_written_file_the_daemon_does_not_find_gets_no_jobs(bench: Bench) -> None:
    bench.scheduler.answer = lambda _: Proof("", bench.root / "elsewhere")
    ground = bench.learn()
    await bench.look()
    assert bench.members.usable(ground) == frozenset()
    assert "another file system is mounted" in bench.members.described()[0].problem


async def test_a_worker_with_another_version_of_temwatch_gets_no_jobs_until_it_is_replaced(bench: Bench) -> None:
    ground = bench.learn()
    bench.scheduler.versions = {**SAME, "temwatch": "0.0.1"}
    await bench.look()
    assert (bench.members.usable(ground), bench.members.usable(None)) == (frozenset(), frozenset())
    (member,) = bench.members.described()
    assert member.problem.startswith("has temwatch 0.0.1")
    assert not member.is_usable
    bench.scheduler.versions = dict(SAME)
    bench.now += RETRY_S - 1
    await bench.look()
    assert bench.members.usable(None) == frozenset()
    bench.now += 2
    await bench.look()
    assert bench.members.usable(ground) == bench.members.usable(None) == {ONE}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ModuleNotFoundError("No module named 'handlers'"), "has no temwatch, or another "),
        (AttributeError("introduce"), "has no temwatch, or another "),
        (ValueError("a\n b"), ": a b"),
        (TimeoutError(), ": TimeoutError"),
    ],
)
async def test_the_reason_why_a_worker_could_not_be_checked_is_shown(bench: Bench, answer: Any, text: str) -> None:
    bench.scheduler.instead = answer
    await bench.look()
    (member,) = bench.members.described()
    assert text in member.problem
    assert bench.members.usable(None) == frozenset()
    bench.scheduler.instead = None
    bench.now += RETRY_S + 1
    await bench.look()
    assert bench.members.usable(None) == {ONE}


async def test_the_check_of_a_worker_that_does_not_answer_times_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(members, "CHECK_S", 0.01)
    monkeypatch.setattr(bench.scheduler, "run", hang)
    await bench.look()
    assert bench.members.described()[0].problem.endswith(": has not answered for 0.01 s")


async def test_a_ground_on_which_the_daemon_cannot_write_is_proved_later(bench: Bench) -> None:
    ground = bench.ground()
    ground.output.write_text("a file in the place of the directory")
    bench.members.learn(ground, bench.root / "a/image.tif", AS_MADE)
    await bench.look()
    assert bench.scheduler.asked == [(ONE, [])]
    assert (bench.members.usable(None), bench.members.usable(ground)) == ({ONE}, frozenset())
    ground.output.unlink()
    await bench.look()
    assert bench.members.usable(ground) == {ONE}


async def test_new_workers_are_used_and_lost_ones_are_forgotten(bench: Bench) -> None:
    ground = bench.learn()
    await bench.look()
    bench.scheduler.found = {TWO: {"nthreads": 1, "host": "10.0.0.2"}}
    await bench.members.look()
    assert bench.members.addresses == {TWO}
    assert bench.members.described()[0].host == "10.0.0.2"
    await bench.settled()
    assert bench.members.usable(ground) == {TWO}
    await bench.members.end()
    assert (bench.members.addresses, bench.members.notes()) == (frozenset(), ())


async def test_the_check_of_a_lost_worker_is_cancelled(bench: Bench) -> None:
    await bench.members.look()
    check = bench.members._workers[ONE].check
    bench.scheduler.found = {}
    await bench.members.look()
    assert check is not None
    await asyncio.wait([check])
    assert check.cancelled()


async def test_running_jobs_are_known_from_the_heartbeats_of_their_workers(bench: Bench) -> None:
    bench.scheduler.found[ONE]["metrics"] = {METRIC: {"t-1": 2.5}}
    await bench.look()
    assert (bench.members.running_s("t-1"), bench.members.holder("t-1")) == (2.5, ONE)
    assert (bench.members.running_s("t-2"), bench.members.holder("t-2")) == (None, None)
    assert bench.members.described()[0].tiles == 1
    bench.scheduler.found[ONE]["metrics"] = {METRIC: "no mapping"}
    await bench.look()
    assert bench.members.running_s("t-1") is None


async def test_the_worker_of_a_failed_job_is_asked_unless_its_last_proof_is_recent(bench: Bench) -> None:
    ground = bench.learn()
    await bench.look()
    bench.scheduler.answer = lambda _: Proof("does not see it any more")
    bench.now += FRESH_S
    assert not await bench.members.fails_now(ONE, ground)
    assert len(bench.scheduler.asked) == 1
    bench.now += 1
    assert await bench.members.fails_now(ONE, ground)
    assert bench.scheduler.asked[-1] == (ONE, [ground])
    assert bench.members.usable(ground) == frozenset()


async def test_a_failure_on_an_unknown_worker_or_ground_is_not_due_to_the_worker(bench: Bench) -> None:
    ground = bench.learn()
    await bench.look()
    assert not await bench.members.fails_now(TWO, ground)
    assert not await bench.members.fails_now(ONE, bench.ground("b"))


async def test_only_the_grounds_of_the_latest_jobs_are_remembered(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "MAX_GROUNDS", 2)
    first, second = bench.learn("a"), bench.learn("b")
    await bench.look()
    bench.learn("a")  # used again: "b" is the oldest now
    bench.scheduler.found[TWO] = {"nthreads": 1}
    await bench.members.look()  # the new worker has proved nothing yet
    third = bench.learn("c")
    await bench.settled()
    await bench.look()
    assert [bench.members.usable(each) for each in (first, second, third)] == [
        {ONE, TWO},
        frozenset(),
        {ONE, TWO},
    ]


async def test_different_versions_are_reported_in_one_note(bench: Bench) -> None:
    bench.scheduler.scheduler_versions = {"python": "2.7.0"}
    await bench.look()
    (note,) = bench.members.notes()
    assert note.startswith("versions differ in the cluster: python is ")
    assert "2.7.0 on the scheduler" in note
