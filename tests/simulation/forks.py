"""Run each scenario in its own process, forked from a process that has imported everything."""

import ctypes
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tests.simulation.actions import Action, Plan
from tests.simulation.scenario import Scenario, make_journal

FAST_DISK = Path("/dev/shm")
TIMEOUT_S = 120.0
"""Time-out of one scenario, in real seconds."""
PR_SET_PDEATHSIG = 1
"""Option of prctl(2)."""
MAX_CHARACTERS = 20_000
"""Characters that are kept of the text about one violated invariant."""
WARM_UP = Plan(1, {}, (Action(0.5, "arrive", how="images first"), Action(5.0, "rewrite", version=1, how="in place")))


@dataclass(frozen=True, slots=True)
class Result:
    """Result of a scenario."""

    seed: int
    actions: int
    broken: list[tuple[str, str]]
    """Violated invariants, each with a text about the violation."""
    states: dict[str, int] = field(default_factory=dict)
    """Number of montages by final state."""
    virtual_s: float = 0.0

    @property
    def invariants(self) -> set[str]:
        """Names of the violated invariants."""
        return {invariant for invariant, _ in self.broken}


class ScenarioForks:
    """Runs scenarios one after the other.

    Parameters
    ----------
    place : an empty directory.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._journal = place / "empty.sqlite"
        make_journal(self._journal)
        self._warm_up()
        gc.collect()
        gc.freeze()

    def _warm_up(self) -> None:
        """Run a scenario in this process, so that the children find filled caches."""
        Scenario(self._new_place("warm-up"), WARM_UP, "warm-up").run()

    def _new_place(self, name: str) -> Path:
        place = self._place / name
        place.mkdir()
        shutil.copy(self._journal, place / "journal.sqlite")
        return place

    def run(self, seed: int, plan: Plan, schedule: str, *, log: Callable[[str], object] | None = None) -> Result:
        """Run a scenario in a child process; return its result."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            _end_with(parent)
            os.close(reading)
            self._run_child(writing, plan, schedule, log)
        os.close(writing)
        report, why = self._receive(child, reading)
        shutil.rmtree(self._place / "scenario", ignore_errors=True)
        if report is None:
            return Result(seed, len(plan.actions), [("the simulation works", why)])
        broken = [(invariant, text) for invariant, text in report["broken"]]
        return Result(seed, len(plan.actions), broken, report["states"], report["virtual_s"])

    def _run_child(self, writing: int, plan: Plan, schedule: str, log: Callable[[str], object] | None) -> NoReturn:
        """Run the scenario in the child, which exits without clean-up: code of a killed daemon must not run."""
        gc.disable()
        try:
            outcome = Scenario(self._new_place("scenario"), plan, schedule, log=log).run()
            broken = [(each.invariant, each.text[:MAX_CHARACTERS]) for each in outcome.broken]
            report = {"broken": broken, "states": outcome.states, "virtual_s": outcome.virtual_s}
            with os.fdopen(writing, "w") as pipe:
                json.dump(report, pipe)
            sys.stdout.flush()
        finally:
            os._exit(0)

    def _receive(self, child: int, reading: int) -> tuple[dict[str, Any] | None, str]:
        """Return the report of a child, or why there is none."""
        ready, _, _ = select.select([reading], [], [], TIMEOUT_S)
        if not ready:
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
        os.waitpid(child, 0)
        if content:
            return json.loads(content), ""
        return None, "its process ended" if ready else f"it took over {TIMEOUT_S:g} real seconds"


def _end_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends or is killed: a scenario may never end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def open_forks() -> Iterator[ScenarioForks]:
    """Open a directory for scenarios, on a tmpfs if possible."""
    parent = FAST_DISK if os.access(FAST_DISK, os.W_OK) else None
    place = tempfile.mkdtemp(prefix="simulation-", dir=parent)
    try:
        yield ScenarioForks(Path(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)
