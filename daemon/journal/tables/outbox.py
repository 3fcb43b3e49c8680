"""The outbox: announced events in commit order."""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from daemon.journal.transaction import Connection
from daemon.montages.announcements import (
    KIND_OF_EVENT,
    Announced,
    Kind,
    StackData,
    StackName,
    data_json,
    montage_data,
)
from daemon.montages.records import Montage
from daemon.montages.states import Event

COLUMNS = "number, event_id, at, kind, watch, subject, data"
_INSERT = "INSERT INTO outbox (event_id, at, kind, watch, subject, data) VALUES (?, ?, ?, ?, ?, ?)"


def announce(connection: Connection, kind: Kind, watch: str, subject: str, data: Mapping[str, Any], now: float) -> None:
    """Append an event in the present transaction, so that it is announced exactly if the transaction commits."""
    connection.execute(_INSERT, (secrets.token_hex(16), now, kind, watch, subject, json.dumps(data)))


def announce_montage(
    connection: Connection, event: Event, montage: Montage, detail: Mapping[str, object], now: float
) -> None:
    """Announce an event of the journal, if its kind is announced."""
    kind = KIND_OF_EVENT.get(event)
    if kind is not None:
        data = montage_data(montage, detail, is_superseded=event is Event.SUPERSEDED)
        announce(connection, kind, montage.watch, f"montages/{montage.id}", data_json(data), now)


def open_stack(connection: Connection, stack: str, watch: str, now: float) -> None:
    """Record that a stack is opened for writing; announce that if this daemon had closed the stack."""
    connection.execute("INSERT OR REPLACE INTO open_stacks VALUES (?, ?, ?)", (stack, watch, now))
    if connection.execute("DELETE FROM closed_stacks WHERE stack = ?", (stack,)).rowcount:
        _announce_stack(connection, Kind.STACK_REOPENED, StackData(StackName.parse(stack), watch, (), None), now)


def reopen_stack(connection: Connection, stack: str, watch: str, because: str, now: float) -> None:
    """Announce that the daemon reopens a stack that another program has closed."""
    _announce_stack(connection, Kind.STACK_REOPENED, StackData(StackName.parse(stack), watch, (), because), now)


def close_stack(connection: Connection, stack: str, watch: str, zs: Collection[float], now: float) -> None:
    """Record and announce that a stack is COMPLETE.

    Parameters
    ----------
    zs : z of the montages that waited for this close. Other montages may have become APPLIED since it began.
    """
    forget_stack(connection, stack)
    connection.execute("INSERT OR REPLACE INTO closed_stacks VALUES (?, ?)", (stack, now))
    sections = tuple(sorted(set(zs)))
    _announce_stack(connection, Kind.STACK_CLOSED, StackData(StackName.parse(stack), watch, sections, None), now)


def forget_stack(connection: Connection, stack: str) -> None:
    """Record that this daemon no longer has to close a stack."""
    connection.execute("DELETE FROM open_stacks WHERE stack = ?", (stack,))


def _announce_stack(connection: Connection, kind: Kind, data: StackData, now: float) -> None:
    name = data.stack
    subject = f"stacks/{name.owner}/{name.project}/{name.stack}"
    announce(connection, kind, data.watch, subject, data_json(data), now)


def announced_of(row: Sequence[Any]) -> Announced:
    """Return the event of a row."""
    number, event_id, at, kind, watch, subject, data = row
    return Announced(number, event_id, at, Kind(kind), watch, subject, json.loads(data))


def last_number(connection: Connection) -> int:
    """Return the number of the newest event; 0 if there was none."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
    return int(row[0]) if row else 0
