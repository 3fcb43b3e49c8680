"""Alerts and their messages, and the montages that alerts report."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from daemon.journal.transaction import Connection


class AlertRow(NamedTuple):
    """A row of the table `alerts`. Times are seconds since 1970 UTC."""

    kind: str
    watch: str
    subject: str
    text: str
    since: float
    sent_at: float | None
    ended_at: float | None
    scope: str
    is_error: int
    """0 or 1."""


class MessageRow(NamedTuple):
    """A row of the table `alert_messages`. Times are seconds since 1970 UTC."""

    id: str
    made_at: float
    kind: str
    watch: str
    scope: str
    severity: str
    title: str
    body: str
    taken: str
    """JSON list: numbers of the addresses that accepted the message."""


class Kept(NamedTuple):
    """Contents of the tables of alerts."""

    alerts: list[AlertRow]
    messages: list[MessageRow]
    """In the order in which they were written."""
    notes: dict[str, float]
    """Numbers by name that the alerts keep over a restart."""


class Change(NamedTuple):
    """Changes of the tables of alerts, stored in one transaction."""

    alerts: list[AlertRow]
    alerts_gone: list[tuple[str, str, str]]
    """Keys of the alerts to delete: kind, watch, subject."""
    messages: list[MessageRow]
    messages_gone: list[str]
    notes: list[tuple[str, float]]


MAX_MONTAGES = 1000
_ALERTS = ", ".join(AlertRow._fields)
_MESSAGES = ", ".join(MessageRow._fields)
_FAILED = "SELECT id, watch, z, fault FROM montages WHERE state = 'failed' ORDER BY id DESC LIMIT ?"
# Montages that wait for images. The pipeline writes this text into `waiting_for`.
_LATE = (
    "SELECT id, watch, z, waiting_for FROM montages WHERE state = 'noticed' AND watch = ? AND changed_at < ?"
    " AND waiting_for LIKE '%images missing or incomplete%' ORDER BY id DESC LIMIT ?"
)
_PUT_ALERT = f"INSERT OR REPLACE INTO alerts ({_ALERTS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constant
_PUT_MESSAGE = (
    f"INSERT INTO alert_messages ({_MESSAGES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608  constant
    " ON CONFLICT (id) DO UPDATE SET taken = excluded.taken"
)


def load(connection: Connection) -> Kept:
    """Return all alerts, messages and notes."""
    alerts = connection.execute(f"SELECT {_ALERTS} FROM alerts")  # noqa: S608  constant text
    messages = connection.execute(f"SELECT {_MESSAGES} FROM alert_messages ORDER BY number")  # noqa: S608  constant text
    notes = connection.execute("SELECT name, value FROM alert_notes")
    return Kept([AlertRow(*row) for row in alerts], [MessageRow(*row) for row in messages], dict(notes.fetchall()))


def save(connection: Connection, change: Change) -> None:
    """Store changes."""
    connection.executemany(_PUT_ALERT, change.alerts)
    connection.executemany("DELETE FROM alerts WHERE kind = ? AND watch = ? AND subject = ?", change.alerts_gone)
    connection.executemany(_PUT_MESSAGE, change.messages)
    connection.executemany("DELETE FROM alert_messages WHERE id = ?", [(each,) for each in change.messages_gone])
    connection.executemany("INSERT OR REPLACE INTO alert_notes VALUES (?, ?)", change.notes)


def failed_montages(connection: Connection) -> list[tuple[int, str, float | None, str]]:
    """Return id, watch, z and fault of the newest FAILED montages."""
    return [
        (montage_id, watch, z, _problem(json.loads(fault)) if fault else "failed")
        for montage_id, watch, z, fault in connection.execute(_FAILED, (MAX_MONTAGES,))
    ]


def _problem(fault: Mapping[str, Any]) -> str:
    return f"{fault['subject']}: {fault['problem']}" + (f" ({fault['hint']})" if fault["hint"] else "")


def late_montages(connection: Connection, before: Mapping[str, float]) -> list[tuple[int, str, float | None, str]]:
    """Return id, watch, z and reason of montages that have waited for images since before a time.

    Parameters
    ----------
    before : watch name -> the time, seconds since 1970 UTC.
    """
    return [
        row for watch, at in before.items() for row in connection.execute(_LATE, (watch, at, MAX_MONTAGES)).fetchall()
    ]
