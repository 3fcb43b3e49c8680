"""Shorten the list of actions of a failing scenario by delta debugging."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SCHEDULES = 4
"""Schedules that are tried for each shorter list: with fewer actions a schedule gives another order of tasks."""

Fails = Callable[[list[int], str], bool]
"""Whether a scenario with these actions and this schedule fails like that with all actions."""


@dataclass(slots=True)
class Shrunk:
    """A short failing list."""

    chosen: list[int]
    """Indices of its actions in the whole list."""
    schedule: str
    tries: int = 0


def shrink(count: int, schedule: str, fails: Fails, timeout_s: float = math.inf) -> Shrunk:
    """Return the shortest failing list that is found in time. All `count` actions must fail with this schedule.

    Pieces of the list are removed, first halves, at last single actions, until no piece can be removed.

    >>> shrink(8, "0", lambda chosen, _: {2, 5} <= set(chosen)).chosen
    [2, 5]
    """
    best = Shrunk(list(range(count)), schedule)
    pieces, deadline = 2, time.perf_counter() + timeout_s
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
    """Yield the list without each of its pieces in turn, the last first, since late actions have the least effect."""
    length = -(-len(chosen) // pieces)
    for begin in reversed(range(0, len(chosen), length)):
        yield chosen[:begin] + chosen[begin + length :]


def _failing_schedule(rest: list[int], best: Shrunk, schedule: str, fails: Fails) -> str | None:
    schedules = dict.fromkeys([best.schedule, schedule, *(f"{schedule}.{number}" for number in range(SCHEDULES - 1))])
    for each in schedules:
        best.tries += 1
        if fails(rest, each):
            return each
    return None
