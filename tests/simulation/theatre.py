"""Where stories are told: each in a process of its own, forked from one that has imported everything."""

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
from tests.simulation.story import Story, make_journal

FAST_DISK = Path("/dev/shm")
LONGEST_S = 120.0
"""Of one story, in real seconds."""
MOST_TEXT = 20_000
"""Characters of what is said of one invariant."""
WARM_UP = Plan(1, {}, (Action(0.5, "land", how="images first"), Action(5.0, "rewrite", version=1, how="in place")))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a story."""

    seed: int
    actions: int
    broken: list[tuple[str, str]]
    """(invariant, what breaks it)."""
    states: dict[str, int] = field(default_factory=dict)
    """How many montages ended in each state."""
    virtual_s: float = 0.0

    @property
    def invariants(self) -> set[str]:
        """Names of those that do not hold."""
        return {invariant for invariant, _ in self.broken}


class Theatre:
    """Tells stories, one after the other.

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
        """Tells a story in this process, so that no child has to fill the caches of libraries anew."""
        Story(self._new_place("warm-up"), WARM_UP, "warm-up").tell()

    def _new_place(self, name: str) -> Path:
        place = self._place / name
        place.mkdir()
        shutil.copy(self._journal, place / "journal.sqlite")
        return place

    def tell(self, seed: int, plan: Plan, schedule: str, *, log: Callable[[str], object] | None = None) -> Result:
        """What comes of a story."""
        reading, writing = os.pipe()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._perform(writing, plan, schedule, log)
        os.close(writing)
        said, why = self._hear(child, reading)
        shutil.rmtree(self._place / "story", ignore_errors=True)
        if said is None:
            return Result(seed, len(plan.actions), [("the simulation works", why)])
        broken = [(invariant, text) for invariant, text in said["broken"]]
        return Result(seed, len(plan.actions), broken, said["states"], said["virtual_s"])

    def _perform(self, writing: int, plan: Plan, schedule: str, log: Callable[[str], object] | None) -> NoReturn:
        """In the child. It ends without any clean-up: a daemon that was killed in the story has none either."""
        gc.disable()
        try:
            outcome = Story(self._new_place("story"), plan, schedule, log=log).tell()
            broken = [(each.invariant, each.text[:MOST_TEXT]) for each in outcome.broken]
            said = {"broken": broken, "states": outcome.states, "virtual_s": outcome.virtual_s}
            with os.fdopen(writing, "w") as pipe:
                json.dump(said, pipe)
            sys.stdout.flush()
        finally:
            os._exit(0)

    def _hear(self, child: int, reading: int) -> tuple[dict[str, Any] | None, str]:
        """What a child says at its end, or why it says nothing."""
        ready, _, _ = select.select([reading], [], [], LONGEST_S)
        if not ready:
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            content = pipe.read()
        os.waitpid(child, 0)
        if content:
            return json.loads(content), ""
        return None, "its process ended" if ready else f"it took over {LONGEST_S:g} real seconds"


@contextmanager
def theatre() -> Iterator[Theatre]:
    """A theatre in a directory of its own, on a tmpfs where there is one."""
    parent = FAST_DISK if os.access(FAST_DISK, os.W_OK) else None
    place = tempfile.mkdtemp(prefix="simulation-", dir=parent)
    try:
        yield Theatre(Path(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)
