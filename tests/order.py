"""The order of the tests for pytest-xdist: the longest ones begin first, so that none of them ends alone."""

from collections.abc import Callable, Sequence
from typing import TypeVar

Test = TypeVar("Test")


def begin_with_longest(tests: Sequence[Test], minutes: Callable[[Test], float], processes: int) -> list[Test]:
    """Return the tests so that each process begins with one of the longest, and the longest has short ones behind it.

    pytest-xdist gives each process a block of the tests. Idle processes later take tests from the end of the longest
    block, but not the next two of its process.

    Parameters
    ----------
    minutes : time of a long test; 0 for all others, which keep their order.

    Examples
    --------
    >>> begin_with_longest(["a", "b", "C9", "d", "E3", "F5", "g"], lambda test: float(test[1:] or 0), 2)
    ['C9', 'a', 'b', 'F5', 'E3', 'd', 'g']
    """
    longest = sorted(filter(minutes, tests), key=minutes, reverse=True)
    rows = [longest[start : start + processes] for start in range(0, len(longest), processes)]
    others = [test for test in tests if not minutes(test)]
    ordered: list[Test] = []
    for process in range(processes):
        size = (len(tests) - len(ordered)) // (processes - process)
        places = [processes - 1 - process if number % 2 else process for number in range(len(rows))]
        block = [test for row, at in zip(rows, places, strict=True) for test in row[at : at + 1]]
        ordered += [*block, *others[: max(0, size - len(block))]]
        del others[: max(0, size - len(block))]
    return ordered + others
