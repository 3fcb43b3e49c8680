"""Alerts: a day of conditions gives exactly these messages, and the conditions follow from the facts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from daemon.notify.alerting import Alert, AlertKind, Condition, Key, due, observe, written
from daemon.notify.conditions import FILLS_S, Observed, Waiting, conditions
from daemon.pipeline.health import Disk, Facts, HookFacts
from daemon.watching.roots import RootStatus

MINUTE, HOUR = 60.0, 3600.0
REPEAT_S = 12 * HOUR
LOOK_S = 10.0
PAGE = (Path(__file__).resolve().parents[2] / "docs/alerts.md").read_text(encoding="utf-8")
RENDER = Condition(AlertKind.RENDER_AWAY, "", "render-ws", "cannot connect")


def failed(number: int, watch: str = "a") -> Condition:
    return Condition(AlertKind.MONTAGE_FAILED, watch, f"montages/{number}", f"montage {number}: is cut short")


class Day:
    """A day in which conditions come and go, looked at every ten seconds."""

    def __init__(self, **spans: Iterable[tuple[Condition, float, float]]) -> None:
        self.spans = [span for each in spans.values() for span in each]
        self.alerts: Mapping[Key, Alert] = {}

    def run(self, until: float = 24 * HOUR) -> list[tuple[float, str]]:
        """Return time and title of each message."""
        told = []
        for step in range(int(until / LOOK_S)):
            now = step * LOOK_S
            present = [condition for condition, begin, end in self.spans if begin <= now < end]
            self.alerts = observe(self.alerts, present, now)
            for message in due(self.alerts, now, REPEAT_S):
                told.append((now, message.title))
                self.alerts = written(self.alerts, message, now)
        return told


def test_a_day_gives_exactly_these_messages() -> None:
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
        (2 * HOUR + 5 * MINUTE, "render-ws away"),
        (3 * HOUR, "over: render-ws away"),
        (4 * HOUR + MINUTE, "montage failed (a): 3"),
        (4 * HOUR + MINUTE, "montage failed (b)"),
        (5.5 * HOUR + MINUTE, "montage failed (a)"),
        (7 * HOUR, "over: montage failed (b)"),
        (8 * HOUR, "over: montage failed (a): 4"),
        (9 * HOUR, "disk low"),
        (21 * HOUR, "disk low"),
    ]


def test_what_recurs_after_its_end_was_told_is_told_again() -> None:
    day = Day(render=[(RENDER, 0, HOUR), (RENDER, 2 * HOUR, 3 * HOUR)])
    assert [title for _, title in day.run(4 * HOUR)] == ["render-ws away", "over: render-ws away"] * 2


def test_what_recurs_before_its_end_could_be_told_is_still_the_same() -> None:
    alerts = written(observe({}, [RENDER], 0), due(observe({}, [RENDER], 0), 400, REPEAT_S)[0], 400)
    gone = observe(alerts, [], 500)
    assert [message.title for message in due(gone, 500, REPEAT_S)] == ["over: render-ws away"]
    back = observe(gone, [RENDER], 510)  # people have not looked yet
    assert due(back, 510, REPEAT_S) == []


def test_a_message_lists_a_few_and_counts_the_others() -> None:
    alerts = observe({}, [failed(number) for number in range(20)], 0)
    (message,) = due(alerts, 100, REPEAT_S)
    assert message.body.count("\n") == 5
    assert message.body.endswith("\nand 15 more")


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=30))
def test_nothing_is_told_twice_and_every_end_follows_a_beginning(looks: list[list[int]]) -> None:
    alerts: Mapping[Key, Alert] = {}
    open_subjects: set[str] = set()
    for step, numbers in enumerate(looks):
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
            alerts = written(alerts, message, now)
        assert {key[2] for key, alert in alerts.items() if alert.sent_at is not None} <= open_subjects


FINE = Facts((), (), None, None, None, 7200.0)
ROOT: Any = SimpleNamespace(
    name="a", directory=Path("/data/a"), status=RootStatus.UNREACHABLE, reasons=("does not answer",)
)
OPENING: Any = SimpleNamespace(name="b", directory=Path("/data/b"), status=RootStatus.OPENING, reasons=())


def test_conditions_follow_from_facts_and_montages() -> None:
    assert conditions(Observed(FINE)) == []
    facts = replace(
        FINE,
        roots=(ROOT, OPENING),
        disks=(Disk("/m", 0, 1, "is full"), Disk("/n", 9, 1, full_in_s=FILLS_S - 1), Disk("/o", 9, 1)),
        render_fault="cannot connect",
        journal_fault="disk full",
        oldest_unfinished_s=7201.0,
        hooks=(HookFacts("h", 0, 2, None, ""), HookFacts("i", 5, 0, 100.0, "")),
    )
    late = [Waiting(8, "a", None, "1 of 2 images missing or incomplete: x.tif")]
    seen = Observed(facts, [Waiting(7, "a", 3.0, "x: is bad")], late, 3)
    assert [(str(each.kind), each.watch, each.subject) for each in conditions(seen)] == [
        ("montage failed", "a", "montages/7"),
        ("images late", "a", "montages/8"),
        ("render-ws away", "", "render-ws"),
        ("journal not writable", "", "journal"),
        ("watch unreachable", "a", "/data/a"),
        ("disk low", "", "/m"),
        ("disk fills", "", "/n"),
        ("backlog", "", "backlog"),
        ("hook given up", "", "h"),
        ("workers lost", "", "workers"),
    ]
    (refused,) = conditions(Observed(replace(FINE, render_fault="asks for a login", render_needs_person=True)))
    assert refused.kind is AlertKind.LOGIN_REFUSED


def test_the_page_lists_every_kind() -> None:
    (table,) = re.findall(r"## What are people told\?\n(.*?)\n## ", PAGE, re.DOTALL)
    rows = re.findall(r"^\| ([\w -]+) \|", table, re.MULTILINE)
    assert sorted(rows[2:]) == sorted(map(str, AlertKind))
