"""What the journal has to store of alerts and messages, and that it gives the same back."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.journal import alerts as rows
from daemon.journal.file import migrate
from daemon.notify.alert_state import AlertState
from daemon.notify.alerting import Alert, AlertKind, Condition, Draft, Severity
from daemon.notify.messages import Message, message_of

AWAY = Condition(AlertKind.DISK_LOW, "", "/data", "/data is full")
FAILED = Condition(AlertKind.MONTAGE_FAILED, "w", "montages/1", "montage 1: bad", "TEMCA2", is_error=True)
BROKEN = Condition(AlertKind.QC_BROKEN, "w", "montages/2", "montage 2: min_focus", "TEMCA2")
REPEAT_S = 3600.0


@pytest.fixture
def journal() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, Path("journal.sqlite"))
        yield connection


def stored(journal: sqlite3.Connection, before: AlertState, after: AlertState) -> AlertState:
    """Store what changed; return what a restarted daemon has."""
    rows.save(journal, after.change_from(before))
    return AlertState.of(rows.load(journal))


def message(number: int = 1, **changes: object) -> Message:
    draft = Draft(AWAY.group, Severity.ERROR, (AWAY.key,), (AWAY.text,))
    return replace(message_of(draft, f"id{number}", 100.0 + number, "host"), **changes)  # type: ignore[arg-type]


def write(draft: Draft) -> Message:
    return message_of(draft, f"of {draft.title}", 0.0, "host")


STATE = AlertState(
    {AWAY.key: Alert(AWAY, 10.0), FAILED.key: Alert(FAILED, 20.0, 30.0, 40.0)},
    (message(1), message(2, taken=frozenset({3, 1}))),
    {"outbox": 5.0},
)


def test_a_restarted_daemon_has_every_alert_message_and_note(journal: sqlite3.Connection) -> None:
    assert stored(journal, AlertState(), STATE) == STATE


def test_only_what_differs_is_stored(journal: sqlite3.Connection) -> None:
    assert not any(STATE.change_from(STATE))
    after = STATE.with_notes({"outbox": 6.0, "digest": 1.0}).with_message(message(3))
    change = after.change_from(STATE)
    assert ([*change.alerts, *change.alerts_gone, *change.messages_gone], len(change.messages)) == ([], 1)
    assert sorted(change.notes) == [("digest", 1.0), ("outbox", 6.0)]
    assert stored(journal, AlertState(), STATE) == STATE
    assert stored(journal, STATE, after) == after


def test_a_changed_and_a_forgotten_alert_are_changed_and_forgotten(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, alerts={AWAY.key: Alert(replace(AWAY, text="/data is fuller"), 10.0, 99.0)})
    assert stored(journal, STATE, after) == after


def test_an_address_that_took_a_message_is_known_after_a_restart(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, messages=(message(1, taken=frozenset({0})), STATE.messages[1]))
    assert stored(journal, STATE, after).messages == after.messages


def test_a_delivered_message_is_forgotten(journal: sqlite3.Connection) -> None:
    stored(journal, AlertState(), STATE)
    after = replace(STATE, messages=STATE.messages[1:])
    assert stored(journal, STATE, after).messages == after.messages


def look(state: AlertState, now: float, *conditions: Condition, silent: bool = False) -> AlertState:
    return state.update(conditions, now, REPEAT_S, write, lambda _: silent)


def test_a_condition_is_told_once_and_its_end_once() -> None:
    state = look(AlertState(), 0.0, AWAY)
    assert [each.severity for each in state.messages] == [Severity.ERROR]
    assert look(state, 10.0, AWAY).messages == state.messages
    over = look(state, 20.0)
    assert [each.severity for each in over.messages] == [Severity.ERROR, Severity.OVER]
    assert over.alerts == {}


def test_a_message_is_repeated_after_its_time_but_not_while_it_waits() -> None:
    state = look(AlertState(), 0.0, AWAY)
    waiting = look(state, REPEAT_S + 1, AWAY)
    assert waiting.messages == state.messages
    delivered = replace(state, messages=())
    assert look(delivered, REPEAT_S - 1, AWAY).messages == ()
    assert len(look(delivered, REPEAT_S + 1, AWAY).messages) == 1


def test_a_silenced_condition_is_told_when_the_silence_ends_and_its_end_is_not() -> None:
    silent = look(AlertState(), 0.0, AWAY, BROKEN, silent=True)
    assert silent.messages == ()
    assert set(silent.alerts) == {AWAY.key}  # what happened and does not last is forgotten
    assert [each.group for each in look(silent, 10.0, AWAY).messages] == [AWAY.group]
    told = look(AlertState(), 0.0, AWAY)
    ended = look(told, 10.0, silent=True)
    assert (ended.messages, ended.alerts) == (told.messages, {})
    assert look(ended, 20.0).messages == told.messages


def test_only_the_silenced_condition_is_not_told() -> None:
    state = AlertState().update([AWAY, BROKEN], 0.0, REPEAT_S, write, lambda condition: condition == AWAY)
    assert [each.group for each in state.messages] == [BROKEN.group]


def test_what_could_not_be_looked_at_has_not_ended() -> None:
    told = look(AlertState(), 0.0, AWAY)
    unknown = told.update([], 10.0, REPEAT_S, write, unknown=[(AWAY.kind, AWAY.watch)])
    assert (unknown.alerts, unknown.messages) == (told.alerts, told.messages)
