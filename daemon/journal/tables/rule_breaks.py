"""Find sections that broke a rule of quality control."""

import json
from collections.abc import Iterable
from typing import NamedTuple

from daemon.journal.tables.outbox import last_number
from daemon.journal.transaction import Connection
from handlers.quality.rules import Verdict

MAX_READ = 500
"""Largest number of events that are read at once."""
MAX_LOOKED_AT = 50
"""Largest number of montages that are read to count consecutive sections."""
_JUDGED = (
    "SELECT number, outbox.watch, montages.id, scope, acquired, montages.z, data FROM outbox"
    " JOIN montages ON subject = 'montages/' || montages.id"
    " WHERE number > ? AND kind = 'montage.qc' AND at >= ? ORDER BY number LIMIT ?"
)
_BEFORE = (
    "SELECT z, verdicts.verdict FROM verdicts JOIN montages ON id = montage_id"
    " WHERE verdicts.scope IS ? AND verdicts.acquired <= ? AND verdicts.verdict IS NOT NULL"
    " AND watch = ? AND state <> 'superseded' ORDER BY verdicts.acquired DESC LIMIT ?"
)


class Broken(NamedTuple):
    """A montage that broke rules of quality control."""

    montage_id: int
    watch: str
    scope: str | None
    z: float | None
    rules: tuple[str, ...]
    in_a_row: int
    """Number of consecutive sections of the microscope, up to this one, that broke a rule."""


def broken_after(connection: Connection, number: int, since: float) -> tuple[list[Broken], int]:
    """Return montages that broke rules, from the events after a number, and the number of the last event that was read.

    Parameters
    ----------
    since : seconds since 1970 UTC; older events are skipped.
    """
    rows = connection.execute(_JUDGED, (number, since, MAX_READ)).fetchall()
    last = rows[-1][0] if len(rows) == MAX_READ else last_number(connection)
    broken = []
    for _, watch, montage_id, scope, acquired, z, data in rows:
        event = json.loads(data)
        if event["rules"] and event["decided_by"] is None:
            before = connection.execute(_BEFORE, (scope, acquired, watch, MAX_LOOKED_AT))
            broken.append(Broken(montage_id, watch, scope, z, tuple(event["rules"]), in_a_row(before)))
    return broken, last


def in_a_row(judged: Iterable[tuple[float | None, str]]) -> int:
    """Return how many consecutive sections broke a rule, counted back from the newest one.

    Parameters
    ----------
    judged : z and verdict of montages, the newest first; a section may have several.

    >>> in_a_row([(3.0, "fail"), (3.0, "pass"), (2.0, "review"), (1.0, "pass"), (0.0, "fail")])
    2
    """
    sections: dict[float | None, bool] = {}
    for z, verdict in judged:
        sections[z] = sections.get(z, False) or verdict != Verdict.PASS
    flags = [*sections.values(), False]
    return flags.index(False)
