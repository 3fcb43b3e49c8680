"""State of the alerts: which messages an observation adds, and what a restarted daemon reads from the journal."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.journal.migration import migrate
from daemon.journal.tables import alerts as rows
from daemon.notify.alerts.messages import Message, message_of
from daemon.notify.alerts.rules import Alert, AlertKind, Condition, Draft, Severity
from daemon.notify.alerts.state import AlertState

DISK_FULL = Condition(AlertKind.DISK_LOW, "", "/data", "/data is full")
FAILED = Condition(AlertKind.MONTAGE_FAILED, "w", "montages/1", "montage 1: bad", "TEMCA2", is_error=True)
BROKEN = Condition(AlertKind.QC_BROKEN, "w", "montages/2", "montage 2: min_focus", "TEMCA2")
REPEAT_S = 3600.0


@pytest.fixture
def journal() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, Path("journal.sqlite"))
        yield connection


def stored(journal: sqlite3.Connection, before: AlertState, after: AlertState) -> AlertState:
    """Store the changes; return the state that a restarted daemon reads."""
    rows.save(journal, after.change_from(before))
    return AlertState.of(rows.load(journal))


def message(number: int = 1, **changes: object) -> Message:
    draft = Draft(DISK_FULL.group, Severity.ERROR, (DISK_FULL.key,), (DISK_FULL.text,))
    return replace(message_of(draft, f"id{number}", 100.0 + number, "host"), **changes)  # type: ignore[arg-type]


def message_for(draft: Draft) -> Message:
    return message_of(draft, f"of {draft.title}", 0.0, "host")


STATE = AlertState(
    {DISK_FULL.key: Alert(DISK_FULL, 10.0), FAILED.key: Alert(FAILED, 20.0, 30.0, 40.0)},
    (message(1), message(2, taken=frozenset({3, 1}))),
    {"outbox": 5.0},
)


def test_a_restarted_daemon_has_every_alert_message_and_note(journal: sqlite3.Connection) -> None:
    assert stored(journal, AlertState(), STATE) == STATE


def test_only_changes_are_stored(journal: sqlite3.Connection) -> None:
    assert not any(STATE.change_from(STATE))
    after = STATE.with_notes({"outbox": 6.0, "digest": 1.0}).with_message(message(3))
    change = after.change_from(STATE)
    assert ([*change.alerts, *change.alerts_gone, *change.messages_gone], len(change.messages)) == ([], 1)
    assert sorted(change.notes) == [("digest", 1.0), ("outbox", 6.0)]
    assert stored(journal, AlertState(), STATE) == STATE
    assert stored(journal, STATE, after) == after


def test_a_changed_alert_is_updated_and_an_ended_alert_is_deleted(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, alerts={DISK_FULL.key: Alert(replace(DISK_FULL, text="/data is fuller"), 10.0, 99.0)})
    assert stored(journal, STATE, after) == after


def test_addresses_that_accepted_a_message_are_known_after_a_restart(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, messages=(message(1, taken=frozenset({0})), STATE.messages[1]))
    assert stored(journal, STATE, after).messages == after.messages


def test_a_delivered_message_is_deleted(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, messages=STATE.messages[1:])
    assert stored(journal, STATE, after).messages == after.messages


def observe(state: AlertState, now: float, *conditions: Condition, silent: bool = False) -> AlertState:
    return state.update(conditions, now, REPEAT_S, message_for, lambda _: silent)


def test_a_condition_and_its_end_are_reported_once_each() -> None:
    state = observe(AlertState(), 0.0, DISK_FULL)
    assert [each.severity for each in state.messages] == [Severity.ERROR]
    assert observe(state, 10.0, DISK_FULL).messages == state.messages
    ended = observe(state, 20.0)
    assert [each.severity for each in ended.messages] == [Severity.ERROR, Severity.OVER]
    assert ended.alerts == {}


def test_a_message_is_repeated_after_the_repeat_time_but_not_before_its_delivery() -> None:
    state = observe(AlertState(), 0.0, DISK_FULL)
    waiting = observe(state, REPEAT_S + 1, DISK_FULL)
    assert waiting.messages == state.messages
    delivered = replace(state, messages=())
    assert observe(delivered, REPEAT_S - 1, DISK_FULL).messages == ()
    assert len(observe(delivered, REPEAT_S + 1, DISK_FULL).messages) == 1


def test_a_silenced_condition_is_reported_after_the_silence_and_its_end_during_the_silence_is_not() -> None:
    silent = observe(AlertState(), 0.0, DISK_FULL, BROKEN, silent=True)
    assert silent.messages == ()
    assert set(silent.alerts) == {DISK_FULL.key}  # an event that is silenced is dropped
    assert [each.group for each in observe(silent, 10.0, DISK_FULL).messages] == [DISK_FULL.group]
    reported = observe(AlertState(), 0.0, DISK_FULL)
    ended = observe(reported, 10.0, silent=True)
    assert (ended.messages, ended.alerts) == (reported.messages, {})
    assert observe(ended, 20.0).messages == reported.messages


def test_a_silence_applies_only_to_its_condition() -> None:
    state = AlertState().update(
        [DISK_FULL, BROKEN], 0.0, REPEAT_S, message_for, lambda condition: condition == DISK_FULL
    )
    assert [each.group for each in state.messages] == [BROKEN.group]


def test_a_condition_that_could_not_be_checked_does_not_end() -> None:
    reported = observe(AlertState(), 0.0, DISK_FULL)
    unknown = reported.update([], 10.0, REPEAT_S, message_for, unknown=[(DISK_FULL.kind, DISK_FULL.watch)])
    assert (unknown.alerts, unknown.messages) == (reported.alerts, reported.messages)
