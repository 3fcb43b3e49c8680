"""Alerts: the conditions that follow from the facts, and the messages about them."""

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.journal.tables.differences import Differing
from daemon.journal.tables.results import Day as JournalDay
from daemon.journal.tables.rule_breaks import Broken
from daemon.journal.tables.section_times import SectionTimes
from daemon.journal.tables.silences import SilenceRow
from daemon.notify.alerts.conditions import FILLS_S, Observed, Waiting, accessible, conditions
from daemon.notify.alerts.digest import digest_text, last_due
from daemon.notify.alerts.expiry import Expiry, ending
from daemon.notify.alerts.quiet_scopes import quiet_scopes
from daemon.notify.alerts.rules import Alert, AlertKind, Condition, Key, due, mark_reported, observe
from daemon.pipeline.health import Disk, Facts, HookFacts
from daemon.watching.roots import RootStatus

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
REPEAT_S = 12 * HOUR
CHECK_S = 10.0
PAGE = (Path(__file__).resolve().parents[2] / "docs/alerts.md").read_text(encoding="utf-8")
RENDER = Condition(AlertKind.RENDER_UNREACHABLE, "", "render-ws", "cannot connect")


def failed(number: int, watch: str = "a") -> Condition:
    return Condition(AlertKind.MONTAGE_FAILED, watch, f"montages/{number}", f"montage {number}: is truncated")


class Day:
    """A day with conditions that begin and end, observed every ten seconds."""

    def __init__(self, **spans: Iterable[tuple[Condition, float, float]]) -> None:
        self.spans = [span for each in spans.values() for span in each]
        self.alerts: Mapping[Key, Alert] = {}

    def run(self, until: float = 24 * HOUR) -> list[tuple[float, str]]:
        """Return time and title of each message."""
        sent = []
        for step in range(int(until / CHECK_S)):
            now = step * CHECK_S
            present = [condition for condition, begin, end in self.spans if begin <= now < end]
            self.alerts = observe(self.alerts, present, now)
            for message in due(self.alerts, now, REPEAT_S):
                sent.append((now, message.title))
                self.alerts = mark_reported(self.alerts, message, now)
        return sent


def test_the_conditions_of_a_day_give_exactly_the_expected_messages() -> None:
    day = Day(
        render=[(RENDER, 1 * HOUR, 1 * HOUR + 4 * MINUTE), (RENDER, 2 * HOUR, 3 * HOUR)],
        failures=[
            (failed(1), 4 * HOUR, 6 * HOUR),
            (failed(2), 4 * HOUR + 30, 6 * HOUR),
            (failed(3), 4 * HOUR + 50, 5 * HOUR),
            (failed(4), 4 * HOUR + 30, 4 * HOUR + 40),
            (failed(5, "b"), 4 * HOUR, 7 * HOUR),
            (failed(6), 5.5 * HOUR, 8 * HOUR),
        ],
        disk=[(Condition(AlertKind.DISK_LOW, "", "/mips", "/mips is full"), 9 * HOUR, 30 * HOUR)],
    )
    assert day.run() == [
        (2 * HOUR + 5 * MINUTE, "render-ws unreachable"),
        (3 * HOUR, "over: render-ws unreachable"),
        (4 * HOUR + MINUTE, "montage failed (a): 3"),
        (4 * HOUR + MINUTE, "montage failed (b)"),
        (5.5 * HOUR + MINUTE, "montage failed (a)"),
        (7 * HOUR, "over: montage failed (b)"),
        (8 * HOUR, "over: montage failed (a): 4"),
        (9 * HOUR, "disk low"),
        (21 * HOUR, "disk low"),
    ]


def test_a_condition_that_recurs_after_its_reported_end_is_reported_again() -> None:
    day = Day(render=[(RENDER, 0, HOUR), (RENDER, 2 * HOUR, 3 * HOUR)])
    assert [title for _, title in day.run(4 * HOUR)] == ["render-ws unreachable", "over: render-ws unreachable"] * 2


def test_a_condition_that_recurs_before_its_end_is_reported_is_not_reported_again() -> None:
    alerts = mark_reported(observe({}, [RENDER], 0), due(observe({}, [RENDER], 0), 400, REPEAT_S)[0], 400)
    gone = observe(alerts, [], 500)
    assert [message.title for message in due(gone, 500, REPEAT_S)] == ["over: render-ws unreachable"]
    again = observe(gone, [RENDER], 510)  # before its end is reported
    assert due(again, 510, REPEAT_S) == []


def test_a_message_lists_five_conditions_and_counts_the_others() -> None:
    texts = [failed(number).text for number in range(7)]
    for count, rest in ((5, []), (6, ["and 1 more"]), (7, ["and 2 more"])):
        alerts = observe({}, [failed(number) for number in range(count)], 0)
        (message,) = due(alerts, 100, REPEAT_S)
        assert message.body.splitlines() == [*texts[:5], *rest]


def test_an_end_is_reported_within_a_week_or_not_at_all() -> None:
    alerts = observe({}, [failed(1), failed(2)], 0)
    alerts = mark_reported(alerts, due(alerts, 100, REPEAT_S)[0], 100)
    alerts = observe(alerts, [failed(2)], 200)  # the end of the group is reported when all its conditions have ended
    assert failed(1).key in observe(alerts, [failed(2)], 200 + 7 * DAY - 1)
    assert failed(1).key not in observe(alerts, [failed(2)], 200 + 7 * DAY)


def test_events_share_a_message_for_ten_minutes_and_have_no_end() -> None:
    first, second = (
        Condition(AlertKind.QC_BROKEN, "w", f"montages/{number}", f"montage {number}: min_focus") for number in (1, 2)
    )
    at = 5000.0
    alerts = observe({}, [first], at)
    (message,) = due(alerts, at, REPEAT_S)
    assert message.keys == (first.key,)
    alerts = mark_reported(alerts, message, at)
    alerts = observe(alerts, [second], at + 20)
    assert due(alerts, at + 20, REPEAT_S) == []
    assert due(observe(alerts, [], at + 599), at + 599, REPEAT_S) == []
    alerts = observe(alerts, [], at + 600)
    (message,) = due(alerts, at + 600, REPEAT_S)
    assert message.keys == (second.key,)
    alerts = observe(mark_reported(alerts, message, at + 600), [], at + 1200)
    assert (alerts, due(alerts, at + 1200, REPEAT_S)) == ({}, [])


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30))
def test_no_condition_is_reported_twice_and_every_end_follows_a_beginning(observations: list[list[int]]) -> None:
    alerts: Mapping[Key, Alert] = {}
    open_subjects: set[str] = set()
    for step, numbers in enumerate(observations):
        now = step * 61.0
        alerts = observe(alerts, [failed(number) for number in numbers], now)
        for message in due(alerts, now, 1e9):
            subjects = {subject for _, _, subject in message.keys}
            if message.is_over:
                assert subjects <= open_subjects
                open_subjects = set()
            else:
                assert not subjects & open_subjects
                open_subjects |= subjects
            alerts = mark_reported(alerts, message, now)
        assert {key[2] for key, alert in alerts.items() if alert.sent_at is not None} <= open_subjects


NO_PROBLEMS = Facts((), (), None, None, None, 7200.0)
ROOT: Any = SimpleNamespace(
    name="a", directory=Path("/data/a"), status=RootStatus.UNREACHABLE, reasons=("does not answer",)
)
OPENING: Any = SimpleNamespace(name="b", directory=Path("/data/b"), status=RootStatus.OPENING, reasons=())


def test_conditions_follow_from_facts_and_montages() -> None:
    assert conditions(Observed(NO_PROBLEMS)) == []
    facts = replace(
        NO_PROBLEMS,
        roots=(ROOT, OPENING),
        disks=(Disk("/m", 0, 1, "is full"), Disk("/n", 9, 1, full_in_s=FILLS_S - 1), Disk("/o", 9, 1)),
        render_fault="cannot connect",
        journal_fault="disk full",
        oldest_unfinished_s=7201.0,
        hooks=(HookFacts("h", 0, 2, None, ""), HookFacts("i", 5, 0, 100.0, "")),
    )
    late = [Waiting(8, "a", None, "1 of 2 images missing or incomplete: x.tif")]
    broken = [Broken(9, "a", "t2", 4.0, ("min_focus",), 1)]
    differing = [Differing(6, "a", 2.0, 1, "apply")]
    observed = Observed(facts, [Waiting(7, "a", 3.0, "x: is bad")], late, broken, differing, 3)
    assert [(str(each.kind), each.watch, each.subject) for each in conditions(observed)] == [
        ("montage failed", "a", "montages/7"),
        ("images late", "a", "montages/8"),
        ("QC rule broken", "a", "montages/9"),
        ("verify differences", "a", "montages/6"),
        ("render-ws unreachable", "", "render-ws"),
        ("journal not writable", "", "journal"),
        ("watch unreachable", "a", "/data/a"),
        ("disk low", "", "/m"),
        ("disk fills", "", "/n"),
        ("backlog", "", "backlog"),
        ("hook given up", "", "h"),
        ("workers lost", "", "workers"),
    ]
    (refused,) = conditions(Observed(replace(NO_PROBLEMS, render_fault="asks for a login", render_needs_person=True)))
    assert refused.kind is AlertKind.LOGIN_REFUSED


def test_the_page_of_alerts_lists_every_kind() -> None:
    (table,) = re.findall(r"## Which alerts are there\?\n(.*?)\n## ", PAGE, re.DOTALL)
    rows = re.findall(r"^\| ([\w -]+) \|", table, re.MULTILINE)
    assert sorted(rows[2:]) == sorted(map(str, AlertKind))


def roots(status: RootStatus) -> frozenset[str]:
    return accessible([SimpleNamespace(name="w", status=status, last_scan_at=1.0)])  # type: ignore[list-item]


def quiet(times: list[float], now: float, unread: float = 0.0) -> list[str]:
    sections = SectionTimes({("w", "t2"): times}, {"w": unread} if unread else {})
    return [condition.text for condition in quiet_scopes(sections, now, roots(RootStatus.WATCHING))]


@pytest.mark.parametrize(("every_s", "limit_s"), [(300.0, 1800.0), (660.0, 1980.0), (18_000.0, 54_000.0)])
def test_a_microscope_is_quiet_after_three_intervals_and_at_least_half_an_hour(every_s: float, limit_s: float) -> None:
    times = [every_s * number for number in range(30)]
    assert quiet(times, times[-1] + limit_s - 1) == []
    assert len(quiet(times, times[-1] + limit_s)) == 1
    end_s = max(12 * HOUR, 2 * limit_s)
    assert len(quiet(times, times[-1] + end_s - 1)) == 1
    assert quiet(times, times[-1] + end_s) == []  # the session is over


def test_only_the_last_twenty_sections_count() -> None:
    times = [5000.0 * number for number in range(40)] + [200_000.0 + 60 * number for number in range(20)]
    assert len(quiet(times, times[-1] + 1800)) == 1


def test_the_median_of_twenty_sections_is_the_usual_interval() -> None:
    intervals = [60.0] * 20 + [5000.0] * 10  # the last 20 sections have 9 of the short intervals and 10 of the long
    times = [sum(intervals[:number]) for number in range(len(intervals) + 1)]
    assert quiet(times, times[-1] + 3 * 5000 - 1) == []
    assert len(quiet(times, times[-1] + 3 * 5000)) == 1


def test_five_sections_ten_seconds_apart_open_a_session() -> None:
    times = [10.0 * number for number in range(5)]
    assert len(quiet(times, times[-1] + 1800)) == 1


def test_the_condition_names_the_microscope_or_the_watch_with_the_last_section_and_the_usual_interval() -> None:
    times = [3600.0 + 630 * number for number in range(10)]
    found = quiet_scopes(SectionTimes({("w", "t2"): times, ("w", ""): times}, {}), 12_000, roots(RootStatus.WATCHING))
    assert [(each.subject, each.text) for each in found] == [
        (name, f"{name} has sent no section since 02:34 UTC; its usual interval is 10.5 min") for name in ("w", "t2")
    ]


def test_no_session_is_open_after_few_sections_or_a_copy_of_an_old_session() -> None:
    assert quiet([600.0 * number for number in range(4)], 10_000) == []
    assert quiet([0.5 * number for number in range(30)], 10_000) == []


def test_a_microscope_with_an_unread_metafile_is_not_quiet() -> None:
    times = [600.0 * number for number in range(10)]
    assert quiet(times, times[-1] + 3000, unread=times[-1] + 2000) == []


def test_an_inaccessible_directory_neither_raises_nor_ends_a_quiet_alert() -> None:
    times = SectionTimes({("w", "t2"): [600.0 * number for number in range(10)]}, {})
    (condition,) = quiet_scopes(times, 10_000, roots(RootStatus.POLLING))
    assert not list(quiet_scopes(times, 10_000, roots(RootStatus.UNREACHABLE)))
    reported = mark_reported(observe({}, [condition], 0), due(observe({}, [condition], 0), 0, REPEAT_S)[0], 0)
    assert observe(reported, [], 10, {(AlertKind.SCOPE_QUIET, "w")}) == reported
    assert [message.is_over for message in due(observe(reported, [], 10), 10, REPEAT_S)] == [True]


def test_an_expiry_within_two_weeks_is_reported_once_a_day() -> None:
    found = [
        Expiry("render.client_certificate_file", 15 * DAY),
        Expiry("render.ca_file, old", -DAY, is_authority=True),
        Expiry("render.token_file", -DAY),
    ]
    assert [each.subject for each in ending(found, 0)] == ["render.token_file"]
    assert [each.subject for each in ending(found, DAY + 1)] == ["render.client_certificate_file", "render.token_file"]
    (condition, *_) = ending(found, DAY + 1)
    day = Day(token=[(condition, 0, 3 * DAY)])
    assert [at for at, _ in day.run(3 * DAY)] == [0, DAY, 2 * DAY]


def test_the_digest_is_due_once_a_day_at_its_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for month, utc_hour in ((1, 6), (7, 5)):
            at = datetime(2026, month, 15, utc_hour, tzinfo=UTC).timestamp()
            assert [last_due(at + later, "07:00") for later in (-1, 0, 3600)] == [at - DAY, at, at]
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_digest_lists_montages_alerts_disks_and_silences() -> None:
    alerts = mark_reported(observe({}, [failed(1)], 0), due(observe({}, [failed(1)], 0), 60, REPEAT_S)[0], 60)
    facts = replace(NO_PROBLEMS, disks=(Disk("/mips", 2 * 10**12, 1, full_in_s=30 * HOUR),))
    days = [JournalDay("w", "t2", 212, 42_400, 3, 0, {"pass": 200, "fail": 12})]
    silences = [SilenceRow("disk low", "", "", 7200.0, 0.0, "anna", "")]
    assert digest_text(0, days, facts, alerts, silences).splitlines() == [
        "Since 1970-01-01 00:00 UTC:",
        "w, t2: 212 montages COMPLETE (42400 tiles), 3 failed now, quality fail: 12, quality pass: 200",
        "ready",
        "since 1970-01-01 00:00 UTC: montage failed: montage 1: is truncated",
        "/mips: 2.00 TB free, full in 30 h at the present rate",
        "silent   disk low, until 1970-01-01T02:00:00.000Z, by anna",
    ]


def test_the_digest_lists_twenty_reported_alerts_that_last_and_counts_the_others() -> None:
    alerts = observe({}, [failed(number) for number in range(24)], 0)
    alerts = mark_reported(alerts, due(alerts, 60, REPEAT_S)[0], 60)
    alerts = observe(alerts, [failed(number) for number in range(1, 25)], 70)  # one ended, one is not reported
    lines = digest_text(0, [], NO_PROBLEMS, alerts, []).splitlines()
    assert [line.startswith("since ") for line in lines].count(True) == 20
    assert lines[-1] == "and 3 more"
    assert not any("montage 0:" in line or "montage 24:" in line for line in lines)
