"""The workers of a scheduler: identity, proofs of the files that they see, running jobs."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from handlers.errors import StorageFault
from handlers.place import Place
from handlers.sharing import Sharing
from handlers.workers.cluster.access import WorkerPath
from handlers.workers.cluster.connection import Connection
from handlers.workers.cluster.on_worker import METRIC, Introduction, introduce, versions_here
from handlers.workers.cluster.shared_directories import Ground, Task, begin_proof, conclude_proof, end_proof
from handlers.workers.cluster.spare_thread import in_spare_thread
from handlers.workers.cluster.versions import differences, refusal
from handlers.workers.crew import Member

RETRY_S = 15.0
"""Pause before a worker that failed a proof is asked again."""
FRESH_S = 5.0
"""Age up to which a proof is not repeated when a job fails."""
CHECK_S = 45.0
"""Longest time for all proofs of a worker."""
END_S = 2.0
"""Longest time for checks to end. A mount that does not answer must not delay a stop."""
MAX_GROUNDS = 256


@dataclass(slots=True)
class _Proved:
    problem: str
    at: float


@dataclass(slots=True)
class _Worker:
    """A worker of the scheduler."""

    address: str
    host: str
    threads: int
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    is_introduced: bool = False
    problem: str = ""
    """Why the worker gets no jobs at all; empty if it may get jobs."""
    asked_at: float = float("-inf")
    proofs: dict[Ground, _Proved] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    check: "asyncio.Task[None] | None" = None

    def is_usable(self, ground: Ground | None) -> bool:
        if self.problem or not self.is_introduced:
            return False
        return ground is None or ((proved := self.proofs.get(ground)) is not None and not proved.problem)

    def described(self) -> Member:
        failed = [proved.problem for proved in self.proofs.values() if proved.problem]
        is_useless = bool(self.problem) or (bool(failed) and len(failed) == len(self.proofs))
        problem = self.problem or (failed[0] if failed else "")
        return Member(self.host, self.threads, len(self.running), problem, is_usable=not is_useless)


class Members:
    """The workers of the scheduler. All methods run in the executor's event loop.

    Parameters
    ----------
    paths : paths of this machine's directories on the workers' hosts.
    on_change : called after a worker was asked.
    """

    def __init__(self, paths: tuple[WorkerPath, ...], on_change: Callable[[], object]) -> None:
        self.paths = paths
        self._on_change = on_change
        self._workers: dict[str, _Worker] = {}
        self._grounds: dict[Ground, tuple[Place, Sharing]] = {}
        self._connection: Connection | None = None
        self._here = versions_here()

    def begin(self, connection: Connection) -> None:
        """Use a new connection."""
        self._connection = connection

    async def end(self) -> None:
        """Forget the workers, which may differ later. Waits until the proofs have removed their files."""
        checks = [worker.check for worker in self._workers.values() if worker.check and not worker.check.done()]
        self._workers.clear()
        self._connection = None
        for check in checks:
            check.cancel()
        if checks:
            await asyncio.wait(checks, timeout=END_S)

    # --- known workers

    @property
    def addresses(self) -> frozenset[str]:
        """Addresses of all workers."""
        return frozenset(self._workers)

    def usable(self, ground: Ground | None) -> frozenset[str]:
        """Return the addresses of the workers that may run jobs on a ground; None: jobs without files."""
        return frozenset(worker.address for worker in self._workers.values() if worker.is_usable(ground))

    def threads(self, addresses: Iterable[str]) -> int:
        """Return the number of jobs that workers can run at once."""
        return sum(self._workers[address].threads for address in addresses)

    def running_s(self, key: str) -> float | None:
        """Return the seconds for which a job has run, by the last heartbeat of its worker; None if none runs it."""
        return next((worker.running[key] for worker in list(self._workers.values()) if key in worker.running), None)

    def holder(self, key: str) -> str | None:
        """Return the address of the worker that runs a job; None if none does."""
        return next((worker.address for worker in list(self._workers.values()) if key in worker.running), None)

    def on_machine(self, machine: str) -> str | None:
        """Return the address of a worker on a machine, which temporary files name; None if there is none."""
        of_it = (worker for worker in self._workers.values() if worker.machine == machine and not worker.problem)
        return next((worker.address for worker in of_it), None)

    def described(self) -> tuple[Member, ...]:
        """Return the workers as shown to people."""
        return tuple(worker.described() for worker in self._workers.values())

    def notes(self) -> tuple[str, ...]:
        """Return a line about versions that differ, if any do."""
        if self._connection is None:
            return ()
        introduced = {worker.host: worker.versions for worker in self._workers.values() if worker.versions}
        line = differences(self._here, self._connection.scheduler_versions, introduced)
        return (f"versions differ in the cluster: {line}",) if line else ()

    # --- checks

    async def look(self) -> None:
        """Ask the scheduler for its workers, and new workers for their proofs. Raises SchedulerAway."""
        assert self._connection is not None
        found = await self._connection.workers()
        for address in self._workers.keys() - found.keys():
            if (check := self._workers.pop(address).check) is not None:
                check.cancel()
        for address, facts in found.items():
            worker = self._workers.get(address)
            if worker is None:
                worker = self._workers[address] = _Worker(address, _host_of(address, facts), facts["nthreads"])
            metric = facts.get("metrics", {}).get(METRIC)
            worker.running = dict(metric) if isinstance(metric, dict) else {}
        self._ask_all()

    def learn(self, ground: Ground, level0: Place, sharing: Sharing) -> None:
        """Remember a ground and an image on it. Workers are asked about a new ground immediately."""
        is_new = ground not in self._grounds
        if is_new and len(self._grounds) >= MAX_GROUNDS:
            oldest = next(iter(self._grounds))
            del self._grounds[oldest]
            for worker in self._workers.values():
                worker.proofs.pop(oldest, None)
        self._grounds.pop(ground, None)  # moved to the end: the grounds of the latest jobs are kept
        self._grounds[ground] = (level0, sharing)
        if is_new:
            self._ask_all()

    def _ask_all(self) -> None:
        now = time.monotonic()
        for worker in self._workers.values():
            if worker.check and not worker.check.done():
                continue
            unproved = [ground for ground in self._grounds if _is_due(worker.proofs.get(ground), now)]
            is_due = not worker.is_introduced or worker.problem
            if (is_due and now - worker.asked_at > RETRY_S) or (unproved and not is_due):
                worker.check = asyncio.get_running_loop().create_task(self._ask(worker, unproved), name="ask worker")

    async def asked(self) -> None:
        """Wait until all workers that are being asked have answered or timed out."""
        await asyncio.gather(*(worker.check for worker in self._workers.values() if worker.check))

    def problems(self, ground: Ground) -> dict[str, str]:
        """Return for each host why its workers get no jobs on a ground; an empty text if they get some."""
        found: dict[str, str] = {}
        for worker in self._workers.values():
            proved = worker.proofs.get(ground)
            if problem := worker.problem or (proved.problem if proved else ""):
                found[worker.host] = problem
            elif proved:
                found.setdefault(worker.host, "")
        return dict(sorted(found.items()))

    async def fails_now(self, address: str, ground: Ground) -> bool:
        """Whether a worker no longer sees a ground. The worker is asked unless its last proof is recent."""
        worker = self._workers.get(address)
        proved = worker.proofs.get(ground) if worker else None
        if worker is None or proved is None:
            return False
        if time.monotonic() - proved.at > FRESH_S:
            await self._ask(worker, [ground])
        proved = worker.proofs.get(ground)
        return bool(worker.problem or (proved and proved.problem))

    # --- one worker

    async def _ask(self, worker: _Worker, grounds: Sequence[Ground]) -> None:
        """Ask a worker for its identity and proofs, and note the outcome."""
        worker.asked_at = time.monotonic()
        tasks: list[Task] = []
        found: object = None
        try:
            for ground in self._grounds.keys() & set(grounds):
                # If the daemon itself cannot write there, nothing can be proved; the next check tries again.
                with contextlib.suppress(StorageFault):
                    level0, sharing = self._grounds[ground]
                    tasks.append(await in_spare_thread(begin_proof, ground, level0, uuid.uuid4().hex, sharing))
            found = await self._introduction(worker, tuple(tasks))
            await self._note(worker, tasks, found)
        finally:
            proofs = found.proofs if isinstance(found, Introduction) else (None,) * len(tasks)
            for task, proof in zip(tasks, proofs, strict=True):
                await asyncio.shield(in_spare_thread(end_proof, task, proof))
            self._on_change()

    async def _introduction(self, worker: _Worker, tasks: tuple[Task, ...]) -> object:
        if self._connection is None:
            return None
        try:
            async with asyncio.timeout(CHECK_S):
                return await self._connection.run(worker.address, introduce, tasks, self.paths)
        except TimeoutError:
            return TimeoutError(f"has not answered for {CHECK_S:g} s")

    async def _note(self, worker: _Worker, tasks: Sequence[Task], found: object) -> None:
        if not isinstance(found, Introduction):
            if found is not None:
                worker.problem = _in_words(found)
            return
        worker.is_introduced, worker.versions = True, found.versions
        worker.host, worker.machine = found.host, found.machine
        worker.problem = refusal(self._here, found.versions)
        for task, proof in zip(tasks, found.proofs, strict=True):
            problem = await in_spare_thread(conclude_proof, task, proof)
            worker.proofs[task.ground] = _Proved(problem, time.monotonic())


def _is_due(proved: _Proved | None, now: float) -> bool:
    return proved is None or (bool(proved.problem) and now - proved.at > RETRY_S)


def _host_of(address: str, facts: dict[str, Any]) -> str:
    return str(facts.get("host") or address.partition("://")[2].rpartition(":")[0])


def _in_words(error: object) -> str:
    if isinstance(error, ModuleNotFoundError | AttributeError):
        return f"has no temwatch, or another version than the daemon: {error}"
    return f"cannot be checked: {' '.join(str(error).split()) or type(error).__name__}"
