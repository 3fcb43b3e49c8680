"""Events are judged by the metafiles that they announce, not by the type of the file system."""

from daemon.watching.event_reliability import MISSES_ALLOWED, OUTCOMES, EventReliability

GRACE_S = 5.0


def find_without_event(reliability: EventReliability, number: int, *, expected: bool = True) -> None:
    """Let a scan find a metafile, and judge it after the grace time without an event."""
    at = 100.0 * number
    reliability.find(f"/data/{number}", at, announced=False, events_expected=expected)
    reliability.judge(at + GRACE_S)


def test_a_metafile_that_an_event_named_before_the_scan_counts_as_announced() -> None:
    reliability = EventReliability(GRACE_S)
    reliability.announce("/data/m", 0.0)
    assert reliability.was_announced("/data/m")
    reliability.find("/data/m", 0.1, announced=False, events_expected=True)
    assert (reliability.found_by_event, reliability.found_only_by_scan) == (1, 0)


def test_an_event_within_the_grace_time_still_counts() -> None:
    reliability = EventReliability(GRACE_S)
    reliability.find("/data/m", 0.0, announced=False, events_expected=True)
    reliability.judge(GRACE_S - 1)
    reliability.announce("/data/m", GRACE_S - 0.5)
    reliability.judge(GRACE_S + 1)
    assert (reliability.found_by_event, reliability.found_only_by_scan) == (1, 0)


def test_an_event_of_a_new_directory_announces_the_metafiles_in_it() -> None:
    reliability = EventReliability(GRACE_S)
    for path in ("/data/a/m", "/data/a/b/m", "/data/ab/m"):
        reliability.find(path, 0.0, announced=False, events_expected=True)
    reliability.announce_trees({"/data/a"})
    reliability.judge(GRACE_S)
    assert (reliability.found_by_event, reliability.found_only_by_scan) == (2, 1)


def test_events_are_unreliable_after_too_many_misses() -> None:
    reliability = EventReliability(GRACE_S)
    for number in range(MISSES_ALLOWED):
        assert not reliability.is_unreliable
        find_without_event(reliability, number)
    assert reliability.is_unreliable
    assert reliability.found_only_by_scan == MISSES_ALLOWED


def test_a_pass_counts_as_one_miss_regardless_of_the_number_of_files() -> None:
    reliability = EventReliability(GRACE_S)
    for number in range(1_000):
        reliability.find(f"/data/{number}", 0.0, announced=False, events_expected=True)
    reliability.judge(GRACE_S)
    assert reliability.found_only_by_scan == 1_000
    assert not reliability.is_unreliable


def test_a_missing_event_does_not_count_where_none_was_expected() -> None:
    reliability = EventReliability(GRACE_S)
    for number in range(MISSES_ALLOWED + 1):
        find_without_event(reliability, number, expected=False)
    assert not reliability.is_unreliable


def test_missing_events_after_an_overflow_do_not_count() -> None:
    reliability = EventReliability(GRACE_S)
    reliability.explain_losses(1e9)
    for number in range(MISSES_ALLOWED + 1):
        find_without_event(reliability, number)
    assert not reliability.is_unreliable
    assert reliability.found_only_by_scan == MISSES_ALLOWED + 1


def test_events_are_reliable_again_after_enough_announced_metafiles() -> None:
    reliability = EventReliability(GRACE_S)
    for number in range(MISSES_ALLOWED):
        find_without_event(reliability, number)
    for number in range(OUTCOMES):
        assert reliability.is_unreliable
        reliability.find(f"/data/later{number}", 1e6, announced=True, events_expected=True)
    assert not reliability.is_unreliable


def test_an_announcement_expires_if_no_scan_finds_its_metafile() -> None:
    reliability = EventReliability(GRACE_S)
    reliability.announce("/data/m", 0.0)
    reliability.judge(GRACE_S - 1)
    assert reliability.was_announced("/data/m")
    reliability.judge(GRACE_S + 1)
    assert not reliability.was_announced("/data/m")
