"""The longest tests begin first, one in each process of pytest-xdist."""

from hypothesis import given
from hypothesis import strategies as st

from tests.order import begin_with_longest

Test = tuple[int, float]
"""Number and minutes of a test."""


def minutes_of(test: Test) -> float:
    return test[1]


def blocks(tests: list[Test], processes: int) -> list[list[Test]]:
    """Return the tests that pytest-xdist gives to each process at first."""
    rest, found = list(tests), []
    for process in range(processes):
        size = len(rest) // (processes - process)
        found.append(rest[:size])
        del rest[:size]
    return found


def test_each_process_begins_with_one_of_the_longest_tests_and_the_longest_has_only_short_ones_behind_it() -> None:
    tests = [(number, float(minutes)) for number, minutes in enumerate([0] * 40 + [2, 9, 4, 3, 5] + [0] * 15)]
    ordered = begin_with_longest(tests, minutes_of, 4)
    begun = [[minutes for _, minutes in block if minutes] for block in blocks(ordered, 4)]
    assert begun == [[9], [5], [4], [3, 2]]
    assert all(block[0][1] for block in blocks(ordered, 4))
    short = [number for number, minutes in ordered if not minutes]
    assert short == sorted(short)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.0, 2.0, 10.0])),
    st.integers(min_value=1, max_value=9),
)
def test_no_test_is_left_out_or_repeated(minutes: list[float], processes: int) -> None:
    tests = list(enumerate(minutes))
    ordered = begin_with_longest(tests, minutes_of, processes)
    assert sorted(ordered) == tests
    assert ordered == begin_with_longest(tests, minutes_of, processes)  # each process computes the same order
