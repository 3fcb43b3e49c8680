"""Silences of alerts."""

from typing import NamedTuple

from daemon.journal.transaction import Connection


class SilenceRow(NamedTuple):
    """A silence. An empty kind, watch or subject matches all. Times are seconds since 1970 UTC."""

    kind: str
    watch: str
    subject: str
    until: float
    made_at: float
    made_by: str
    reason: str


_COLUMNS = ", ".join(SilenceRow._fields)


def put(connection: Connection, silence: SilenceRow, now: float) -> list[SilenceRow]:
    """Store a silence, replacing one of the same alerts; return the active silences.

    A silence whose `until` is in the past ends the silence that it replaces.
    """
    connection.execute(f"INSERT OR REPLACE INTO silences ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", silence)  # noqa: S608  constant
    connection.execute("DELETE FROM silences WHERE until <= ?", (now,))
    return active(connection, now)


def active(connection: Connection, now: float) -> list[SilenceRow]:
    """Return the silences that have not ended, ordered by their end."""
    query = f"SELECT {_COLUMNS} FROM silences WHERE until > ? ORDER BY until, kind, watch, subject"  # noqa: S608  constant
    return [SilenceRow(*row) for row in connection.execute(query, (now,))]
