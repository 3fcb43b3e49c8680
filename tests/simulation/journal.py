"""The journal of a scenario, read without the daemon."""

import json
import sqlite3
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.montages.states import Event, MontageState, fold
from handlers.uris import uri_to_path

_ROWS = (
    "SELECT id, metafile, digest, state, failed_in, z, raw_stack, mipmapped_stack, fault, waiting_for, tile_ids,"
    " (SELECT max(at) FROM events WHERE events.montage_id = montages.id AND event IN ('settled', 'replayed')),"
    " superseded_by, complete_at"
    " FROM montages LEFT JOIN tile_sets ON id = montage_id ORDER BY id"
)
_EVENTS = "SELECT montage_id, event, state, detail FROM events ORDER BY id"


@dataclass(frozen=True, slots=True)
class Row:
    """One montage."""

    id: int
    metafile: Path
    digest: str | None
    state: str
    failed_in: str | None
    z: float | None
    raw_stack: str | None
    mipmapped_stack: str | None
    fault: dict[str, str] | None
    waiting_for: str | None
    tile_ids: frozenset[str]
    settled_at: float
    """Time of its last event "settled" or "replayed", seconds since 1970; 0 if there is none."""
    superseded_by: int | None
    complete_at: float

    def __str__(self) -> str:
        why = f" ({self.fault['kind']}: {self.fault['problem']})" if self.fault else ""
        waits = f", waits: {self.waiting_for}" if self.waiting_for else ""
        digest = self.digest[:6] if self.digest else None
        path = f"{self.metafile.parent.name}/{self.metafile.name}"
        return f"montage {self.id} of {path} {digest} is {self.state}{why}{waits}"


def read_rows(connection: sqlite3.Connection) -> list[Row]:
    """Return all montages, oldest first."""
    return [_row(values) for values in connection.execute(_ROWS)]


def _row(values: tuple[Any, ...]) -> Row:
    number, metafile, digest, state, failed_in, z, raw, mips, fault, waiting_for, packed, settled_at, by, at = values
    return Row(
        number,
        uri_to_path(metafile),
        digest,
        state,
        failed_in,
        z,
        raw,
        mips,
        json.loads(fault) if fault else None,
        waiting_for,
        frozenset(zlib.decompress(packed).decode().split("\n")) if packed else frozenset(),
        settled_at or 0.0,
        by,
        at or 0.0,
    )


def folded_states(connection: sqlite3.Connection) -> dict[int, MontageState | None]:
    """Return the state of each montage as the fold of its events."""
    events: dict[int, list[tuple[Event, MontageState | None]]] = {}
    for montage_id, event, _, detail in connection.execute(_EVENTS):
        values = json.loads(detail)
        named = values.get("onto") or values.get("failed_in")
        events.setdefault(montage_id, []).append((Event(event), MontageState(named) if named else None))
    return {montage_id: fold(each) for montage_id, each in events.items()}
