"""Queries of the pages: counts by scope, the newest montages of a filter, events."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from daemon.journal.tables.rows import COLUMNS, Connection, montage_of
from daemon.montages.records import Montage
from daemon.montages.states import MontageState

_TALLY = (
    "SELECT watch, scope, state, count(*), coalesce(sum(tile_count), 0), max(noticed_at) FROM montages"
    " GROUP BY watch, scope, state"
)
# The + prevent that SQLite scans all rows in the order of the groups: few rows are newer than the given time.
_COMPLETED = (
    "SELECT watch, scope, count(*) FROM montages WHERE complete_at >= ? AND complete_at IS NOT NULL"
    " GROUP BY +watch, +scope"
)
# One index lookup for each tape: DISTINCT would scan all rows.
_TAPES = (
    "WITH RECURSIVE tapes(tape) AS (SELECT min(tape) FROM montages WHERE tape IS NOT NULL UNION ALL"
    " SELECT (SELECT min(tape) FROM montages WHERE tape > tapes.tape) FROM tapes WHERE tapes.tape IS NOT NULL)"
    " SELECT tape FROM tapes WHERE tape IS NOT NULL LIMIT ?"
)
_MADE = (
    "SELECT montage_id, count(*) FROM tiles WHERE montage_id IN (SELECT value FROM json_each(?)) GROUP BY montage_id"
)
# One lookup in the table of tiles for each montage that has any.
_MADE_BY_SCOPE = (
    "WITH RECURSIVE begun(id) AS (SELECT min(montage_id) FROM tiles UNION ALL"
    " SELECT (SELECT min(montage_id) FROM tiles WHERE montage_id > begun.id) FROM begun WHERE begun.id IS NOT NULL)"
    " SELECT watch, scope, sum((SELECT count(*) FROM tiles WHERE montage_id = montages.id)) FROM begun"
    " JOIN montages ON montages.id = begun.id WHERE state = 'ingested' GROUP BY watch, scope"
)
_EVENTS = (
    "SELECT events.id, montage_id, at, event, events.state, watch, z FROM events"
    " JOIN montages ON montages.id = montage_id WHERE events.id > ? ORDER BY events.id LIMIT ?"
)
_FREQUENT = frozenset({MontageState.COMPLETE, MontageState.SUPERSEDED})


class Tally(NamedTuple):
    """Montages of one watch, scope and state."""

    watch: str
    scope: str | None
    state: MontageState
    montages: int
    tiles: int
    """Number of tiles of the montages whose metafile was read."""
    newest_at: float
    """When the newest montage was noticed, seconds since 1970 UTC."""


class JournalEvent(NamedTuple):
    """An event with the values of its montage that a page shows."""

    number: int
    montage_id: int
    at: float
    event: str
    state: str
    watch: str
    z: float | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Selection of the montages that a page shows; None does not restrict."""

    watch: str | None = None
    scope: str | None = None
    tape: str | None = None
    state: MontageState | None = None
    z_from: float | None = None
    z_to: float | None = None
    before: int | None = None
    """Only montages with a lower id: the next page."""

    @property
    def by_z(self) -> bool:
        """Whether the montages come in the order of z, not newest first."""
        return self.z_from is not None or self.z_to is not None

    def condition(self) -> tuple[str, list[object]]:
        """Return the SQL condition and its values."""
        # Without the + SQLite would sort most rows of the journal. In the order of ids it finds matching rows at once.
        state = "+state = ?" if self.state in _FREQUENT else "state = ?"
        given = {
            "watch = ?": self.watch,
            "scope = ?": self.scope,
            "tape = ?": self.tape,
            state: self.state,
            "z >= ?": self.z_from,
            "z <= ?": self.z_to,
            "id < ?": self.before,
        }
        used = {text: value for text, value in given.items() if value is not None}
        return " AND ".join(["1", *used]), list(used.values())


def tallies_of_scopes(connection: Connection) -> list[Tally]:
    """Return counts of montages and tiles by watch, scope and state."""
    rows = connection.execute(_TALLY)
    return [Tally(watch, scope, MontageState(state), *rest) for watch, scope, state, *rest in rows]


def completed_since(connection: Connection, at: float) -> dict[tuple[str, str], int]:
    """Return how many montages became COMPLETE since a time, by watch and scope; an unknown scope is empty."""
    return {(watch, scope or ""): count for watch, scope, count in connection.execute(_COMPLETED, (at,))}


def tapes(connection: Connection, limit: int) -> list[str]:
    """Return the first names of tapes, in ascending order."""
    return [row[0] for row in connection.execute(_TAPES, (limit,))]


def selected(connection: Connection, wanted: Filter, limit: int) -> list[Montage]:
    """Return the montages of a filter, newest first; by descending z if a range of z is given."""
    condition, values = wanted.condition()
    order = "z DESC, id DESC" if wanted.by_z else "id DESC"
    query = f"SELECT {COLUMNS} FROM montages WHERE {condition} ORDER BY {order} LIMIT ?"  # noqa: S608  constant text
    return [montage_of(row) for row in connection.execute(query, (*values, limit))]


def made_of(connection: Connection, montage_ids: Sequence[int]) -> dict[int, int]:
    """Return the number of finished tiles of montages whose mipmaps are being made, by montage id."""
    return dict(connection.execute(_MADE, (json.dumps(list(montage_ids)),)).fetchall())


def made_by_scope(connection: Connection) -> dict[tuple[str, str], int]:
    """Return the number of finished tiles of montages whose mipmaps are being made, by watch and scope."""
    return {(watch, scope or ""): count for watch, scope, count in connection.execute(_MADE_BY_SCOPE)}


def last_event(connection: Connection) -> int:
    """Return the number of the last event; 0 in an empty journal."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM events").fetchone()[0])


def events_after(connection: Connection, number: int, limit: int) -> list[JournalEvent]:
    """Return the events after a number, in order."""
    return [JournalEvent(*row) for row in connection.execute(_EVENTS, (number, limit))]
