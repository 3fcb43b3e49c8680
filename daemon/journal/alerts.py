"""Alerts in the journal, and the montages that people are told of. Functions of the connection, as in `rows`."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from daemon.journal.file import Connection

Row = tuple[str, str, str, str, float, float | None, float | None]
"""kind, watch, subject, text, since, sent_at, ended_at."""

MOST_MONTAGES = 1000
_FAILED = "SELECT id, watch, z, fault FROM montages WHERE state = 'failed' ORDER BY id DESC LIMIT ?"
# Montages whose images are awaited; the pipeline says so in `waiting_for`.
_LATE = (
    "SELECT id, watch, z, waiting_for FROM montages WHERE state = 'noticed' AND watch = ? AND changed_at < ?"
    " AND waiting_for LIKE '%images missing or incomplete%' ORDER BY id DESC LIMIT ?"
)


def load(connection: Connection) -> list[Row]:
    """Return all alerts."""
    return connection.execute("SELECT kind, watch, subject, text, since, sent_at, ended_at FROM alerts").fetchall()


def save(connection: Connection, changed: Iterable[Row], gone: Iterable[tuple[str, str, str]]) -> None:
    """Store alerts that changed, and delete those that are gone."""
    connection.executemany("INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?)", changed)
    connection.executemany("DELETE FROM alerts WHERE kind = ? AND watch = ? AND subject = ?", gone)


def failed_montages(connection: Connection) -> list[tuple[int, str, float | None, str]]:
    """Return id, watch, z and fault of the newest FAILED montages."""
    return [
        (montage_id, watch, z, _problem(json.loads(fault)) if fault else "failed")
        for montage_id, watch, z, fault in connection.execute(_FAILED, (MOST_MONTAGES,))
    ]


def _problem(fault: Mapping[str, Any]) -> str:
    return f"{fault['subject']}: {fault['problem']}" + (f" ({fault['hint']})" if fault["hint"] else "")


def late_montages(connection: Connection, before: Mapping[str, float]) -> list[tuple[int, str, float | None, str]]:
    """Return id, watch, z and reason of montages that wait for images since before a time, by watch."""
    return [
        row for watch, at in before.items() for row in connection.execute(_LATE, (watch, at, MOST_MONTAGES)).fetchall()
    ]
