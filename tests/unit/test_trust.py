"""Events are believed by what they announce, not by the name of a file system."""

from daemon.watching.event_reliability import LIES_TO_FALL, OUTCOMES, EventReliability

GRACE_S = 5.0


def found_in_silence(trust: EventReliability, number: int, *, expected: bool = True) -> None:
    """A scan finds a metafile; its event does not come within the grace, and then comes the next pass."""
    at = 100.0 * number
    trust.find(f"/data/{number}", at, announced=False, events_expected=expected)
    trust.judge(at + GRACE_S)


def test_a_find_that_an_event_had_named_counts_for_events() -> None:
    trust = EventReliability(GRACE_S)
    trust.announce("/data/m", 0.0)
    assert trust.was_announced("/data/m")
    trust.find("/data/m", 0.1, announced=False, events_expected=True)
    assert (trust.found_by_event, trust.found_only_by_scan) == (1, 0)


def test_an_event_that_comes_within_the_grace_still_counts() -> None:
    trust = EventReliability(GRACE_S)
    trust.find("/data/m", 0.0, announced=False, events_expected=True)
    trust.judge(GRACE_S - 1)
    trust.announce("/data/m", GRACE_S - 0.5)
    trust.judge(GRACE_S + 1)
    assert (trust.found_by_event, trust.found_only_by_scan) == (1, 0)


def test_an_event_for_a_new_directory_announces_what_is_in_it() -> None:
    trust = EventReliability(GRACE_S)
    trust.find("/data/a/b/m", 0.0, announced=False, events_expected=True)
    trust.find("/data/ab/m", 0.0, announced=False, events_expected=True)
    trust.announce_trees({"/data/a"})
    trust.judge(GRACE_S)
    assert (trust.found_by_event, trust.found_only_by_scan) == (1, 1)


def test_events_that_keep_silent_are_not_believed() -> None:
    trust = EventReliability(GRACE_S)
    for number in range(LIES_TO_FALL):
        assert not trust.is_lying
        found_in_silence(trust, number)
    assert trust.is_lying
    assert trust.found_only_by_scan == LIES_TO_FALL


def test_one_pass_tells_one_lie_however_many_files_it_found() -> None:
    trust = EventReliability(GRACE_S)
    for number in range(1_000):
        trust.find(f"/data/{number}", 0.0, announced=False, events_expected=True)
    trust.judge(GRACE_S)
    assert trust.found_only_by_scan == 1_000
    assert not trust.is_lying


def test_silence_is_no_lie_where_no_event_was_expected() -> None:
    trust = EventReliability(GRACE_S)
    for number in range(LIES_TO_FALL + 1):
        found_in_silence(trust, number, expected=False)
    assert not trust.is_lying


def test_silence_after_an_overflow_is_explained() -> None:
    trust = EventReliability(GRACE_S)
    trust.excuse(1e9)
    for number in range(LIES_TO_FALL + 1):
        found_in_silence(trust, number)
    assert not trust.is_lying
    assert trust.found_only_by_scan == LIES_TO_FALL + 1


def test_events_that_tell_the_truth_for_long_enough_are_believed_again() -> None:
    trust = EventReliability(GRACE_S)
    for number in range(LIES_TO_FALL):
        found_in_silence(trust, number)
    for number in range(OUTCOMES):
        assert trust.is_lying
        trust.find(f"/data/later{number}", 1e6, announced=True, events_expected=True)
    assert not trust.is_lying


def test_announcements_that_no_find_follows_are_forgotten() -> None:
    trust = EventReliability(GRACE_S)
    trust.announce("/data/m", 0.0)
    trust.judge(GRACE_S + 1)
    assert not trust.was_announced("/data/m")
