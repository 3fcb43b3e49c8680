"""The smallest list of actions that still fails, by delta debugging."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SCHEDULES = 4
"""Orders of tasks that each shorter list is tried with: with fewer actions, the same draws give another order."""

Fails = Callable[[list[int], str], bool]
"""Whether a scenario with these actions and this order of tasks fails as the whole one does."""


@dataclass(slots=True)
class Shrunk:
    """A short failing list."""

    chosen: list[int]
    """Indices of its actions in the whole list."""
    schedule: str
    tries: int = 0


def shrink(count: int, schedule: str, fails: Fails, longest_s: float = math.inf) -> Shrunk:
    """Return the shortest failing list that is found in time; all `count` actions fail with this schedule.

    Pieces are left out, halves at first, single actions at last, until none can be spared.

    >>> shrink(8, "0", lambda chosen, _: {2, 5} <= set(chosen)).chosen
    [2, 5]
    """
    best = Shrunk(list(range(count)), schedule)
    pieces, deadline = 2, time.perf_counter() + longest_s
    while best.chosen and time.perf_counter() < deadline:
        for rest in _without_a_piece(best.chosen, pieces):
            if time.perf_counter() > deadline:
                return best
            found = _failing_schedule(rest, best, schedule, fails)
            if found is not None:
                best.chosen, best.schedule = rest, found
                pieces = max(2, pieces - 1)
                break
        else:
            if pieces >= len(best.chosen):
                break
            pieces = min(len(best.chosen), 2 * pieces)
    return best


def _without_a_piece(chosen: list[int], pieces: int) -> Iterator[list[int]]:
    """Yield the list without each of its pieces in turn, last ones first: late actions matter least."""
    length = -(-len(chosen) // pieces)
    for begin in reversed(range(0, len(chosen), length)):
        yield chosen[:begin] + chosen[begin + length :]


def _failing_schedule(rest: list[int], best: Shrunk, schedule: str, fails: Fails) -> str | None:
    tried = dict.fromkeys([best.schedule, schedule, *(f"{schedule}.{number}" for number in range(SCHEDULES - 1))])
    for each in tried:
        best.tries += 1
        if fails(rest, each):
            return each
    return None
