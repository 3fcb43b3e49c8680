"""Read and write rows of the journal's tables."""

import functools
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from daemon.journal.tables.outbox import announce_montage
from daemon.montages.records import FaultRecord, Montage, Outcome
from daemon.montages.states import UNFINISHED, Event, IllegalTransition, MontageState, Step, advance
from handlers.errors import Fault
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri, uri_to_path

Connection = sqlite3.Connection

COLUMNS = (
    "id, watch, metafile, digest, size, mtime_ns, ctime_ns, inode, acquired, state, failed_in, z, raw_stack,"
    " mipmapped_stack, tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at,"
    " section_id, bounds, output_dir, scope, tape, verdict"
)
# The row that represents the present content of a path.
LATEST_OF_PATH = f"SELECT {COLUMNS} FROM montages WHERE metafile = ? ORDER BY sighted DESC LIMIT 1"  # noqa: S608
BY_ID = f"SELECT {COLUMNS} FROM montages WHERE id = ?"  # noqa: S608
CHANGED = FileIdentity(size=-1, mtime_ns=-1, ctime_ns=-1, inode=-1)
"""Identity of a file that counts as changed for a montage that waits for that."""
# Mark a metafile as changed for every montage that waits until this file changes or is gone.
_RELEASE_WAITING = "UPDATE awaited SET (size, mtime_ns, ctime_ns, inode) = (?, ?, ?, ?) WHERE or_gone = 1 AND file = ?"
# Attempts that the previous process began and did not end.
_CRASHED_ATTEMPTS = "SELECT montage_id FROM attempts WHERE ended_at IS NULL"
_HAS_READ_IMAGES = frozenset(
    {MontageState.MIPMAPPED, MontageState.APPLIED, MontageState.COMPLETE, MontageState.FAILED, MontageState.DISMISSED}
)
_RELEASES_TILES = frozenset({MontageState.SUPERSEDED, MontageState.NOTICED, MontageState.DISMISSED})
_NEEDS_NO_METAFILE = frozenset({MontageState.APPLIED, MontageState.COMPLETE})
UNFINISHED_STATES = ", ".join(f"'{state}'" for state in sorted(UNFINISHED))


@functools.lru_cache(maxsize=256)
def _path_of(uri: str) -> Path:
    """Return the path of a metafile. Each step of a montage reads its row many times."""
    return uri_to_path(uri)


def montage_of(row: Sequence[Any]) -> Montage:
    """Return the montage of a row of `COLUMNS`."""
    (
        montage_id, watch, metafile, digest, size, mtime_ns, ctime_ns, inode, acquired, state, failed_in, z, raw,
        mipmapped, tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at,
        section_id, bounds, output_dir, scope, tape, verdict,
    ) = row  # fmt: skip
    return Montage(
        id=montage_id,
        watch=watch,
        metafile=_path_of(metafile),
        digest=digest,
        identity=FileIdentity(size, mtime_ns, ctime_ns, inode),
        acquired=acquired,
        state=MontageState(state),
        failed_in=MontageState(failed_in) if failed_in else None,
        z=z,
        raw_stack=raw,
        mipmapped_stack=mipmapped,
        tile_count=tile_count,
        findings=tuple(json.loads(findings)),
        fault=FaultRecord(**json.loads(fault)) if fault else None,
        waiting_for=waiting_for,
        attempt=attempt,
        crashes=crashes,
        noticed_at=noticed_at,
        changed_at=changed_at,
        complete_at=complete_at,
        section_id=section_id,
        bounds=tuple(json.loads(bounds)) if bounds else None,
        output_dir=output_dir,
        scope=scope,
        tape=tape,
        verdict=verdict,
    )


def find(connection: Connection, query: str, values: Sequence[object]) -> Montage | None:
    """Return the first montage of a query; None if there is none."""
    row = connection.execute(query, values).fetchone()
    return montage_of(row) if row else None


def need(connection: Connection, montage_id: int) -> Montage:
    """Return the montage with this id. Raises LookupError if there is none."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None:
        raise LookupError(f"the journal holds no montage {montage_id}")
    return montage


def fault_json(fault: Fault) -> str:
    """Return a fault as the journal stores it."""
    record = FaultRecord.of(fault)
    return json.dumps({"kind": record.kind, "subject": record.subject, "problem": record.problem, "hint": record.hint})


def insert_event(
    connection: Connection,
    montage_id: int,
    event: Event,
    state: MontageState,
    now: float,
    detail: Mapping[str, object],
) -> None:
    """Append an event and the state after it."""
    connection.execute(
        "INSERT INTO events (montage_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
        (montage_id, now, event, state, json.dumps(detail)),
    )


def record(connection: Connection, montage_id: int, event: Event, now: float, detail: Mapping[str, object]) -> Montage:
    """Record an event and the state that follows; return the montage.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    detail : stored with the event as JSON.

    Raises
    ------
    IllegalTransition
        If the event cannot happen in the montage's state.
    """
    before = need(connection, montage_id)
    onto = MontageState(str(detail.get("onto", MontageState.SETTLED)))
    state = advance(before.state, event, failed_in=before.failed_in, target=onto)
    if event is Event.RETRIED:
        detail = {**detail, "failed_in": before.failed_in}
    insert_event(connection, montage_id, event, state, now, detail)
    if event is not Event.SEEN_AGAIN:
        connection.execute(
            "UPDATE montages SET state = ?, changed_at = ?, complete_at = ?, failed_in = ?, superseded_by = ?,"
            " fault = NULL, waiting_for = NULL, attempt = 0, crashes = 0 WHERE id = ?",
            (
                state,
                now,
                now if state is MontageState.COMPLETE else None,
                _failed_in(before, state),
                detail.get("by") if state is MontageState.SUPERSEDED else None,
                montage_id,
            ),
        )
        connection.execute("DELETE FROM awaited WHERE montage_id = ?", (montage_id,))
    if output_dir := detail.get(
        "output_dir"
    ):  # directory of the levels that were made: settings may change after settling
        connection.execute("UPDATE montages SET output_dir = ? WHERE id = ?", (output_dir, montage_id))
    if state is MontageState.NOTICED and before.digest is not None:
        _clear_digest(connection, before)
    if state in (MontageState.SUPERSEDED, MontageState.NOTICED):
        connection.execute("DELETE FROM quality WHERE montage_id = ?", (montage_id,))
    # A reset montage owns its tiles only while its metafile exists, so metafiles that wait for it are checked again.
    if state in _RELEASES_TILES or (before.state in _NEEDS_NO_METAFILE and state not in _NEEDS_NO_METAFILE):
        connection.execute(_RELEASE_WAITING, (*CHANGED, path_to_uri(before.metafile)))
    # A replay makes all mipmaps again, unless it starts at a later step.
    if state is MontageState.MIPMAPPED or (event is Event.REPLAYED and detail.get("from") != Step.APPLY):
        connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,))
    if state not in _HAS_READ_IMAGES:
        connection.execute("DELETE FROM images_read WHERE montage_id = ?", (montage_id,))
        connection.execute("UPDATE quality SET is_current = 0 WHERE montage_id = ?", (montage_id,))
    if state is MontageState.COMPLETE:
        connection.execute("UPDATE images_read SET is_watched = 1 WHERE montage_id = ?", (montage_id,))
    if state is not MontageState.APPLIED or event is Event.APPLIED:
        connection.execute("DELETE FROM closings WHERE montage_id = ?", (montage_id,))
    after = need(connection, montage_id)
    announce_montage(connection, event, after, detail, now)
    return after


def _failed_in(before: Montage, state: MontageState) -> MontageState | None:
    if state is MontageState.DISMISSED:  # a COMPLETE montage owns its tiles until it is superseded
        return before.failed_in or before.state
    return before.state if state is MontageState.FAILED else None


def is_latest_of_path(connection: Connection, montage: Montage) -> bool:
    """Whether a montage represents the present content of its path; former contents cannot be read."""
    latest = find(connection, LATEST_OF_PATH, (path_to_uri(montage.metafile),))
    return latest is not None and latest.id == montage.id


def _clear_digest(connection: Connection, montage: Montage) -> None:
    """Mark the montage as unread. Raises IllegalTransition unless it represents the present content of its path."""
    if not is_latest_of_path(connection, montage):
        raise IllegalTransition(f"montage {montage.id} cannot be read again: its path has been noticed again since")
    connection.execute("UPDATE montages SET seen_digest = digest, digest = NULL WHERE id = ?", (montage.id,))


def begin_attempt(connection: Connection, montage_id: int, step: Step, now: float) -> int:
    """Return the id of a new attempt."""
    connection.execute("UPDATE montages SET attempt = attempt + 1 WHERE id = ?", (montage_id,))
    cursor = connection.execute(
        "INSERT INTO attempts (montage_id, step, started_at) VALUES (?, ?, ?)", (montage_id, step, now)
    )
    return int(cursor.lastrowid or 0)


def end_attempt(connection: Connection, attempt_id: int, outcome: Outcome, fault: Fault | None, now: float) -> None:
    """Record the outcome of an attempt that has not ended, and its fault in the montage if that is unfinished."""
    stored = fault_json(fault) if fault else None
    ended = connection.execute(
        "UPDATE attempts SET ended_at = ?, outcome = ?, fault = ? WHERE id = ? AND ended_at IS NULL",
        (now, outcome, stored, attempt_id),
    )
    if ended.rowcount and outcome is not Outcome.DONE:  # after DONE the event has already set the montage's columns
        # Both stacks of a montage may close concurrently. A montage that the other attempt has ended keeps its fault.
        connection.execute(
            "UPDATE montages SET fault = coalesce(:fault, fault), crashes = 0,"  # noqa: S608  constant text
            " waiting_for = iif(:fault IS NULL, waiting_for, NULL)"
            f" WHERE id = (SELECT montage_id FROM attempts WHERE id = :attempt) AND state IN ({UNFINISHED_STATES})",
            {"fault": stored, "attempt": attempt_id},
        )


def stop_attempts(connection: Connection, attempts: Mapping[int, int], now: float) -> None:
    """Record attempts, by montage id, as STOPPED unless they have ended."""
    connection.executemany(
        "UPDATE attempts SET ended_at = ?, outcome = ? WHERE montage_id = ? AND id = ? AND ended_at IS NULL",
        [(now, Outcome.STOPPED, montage_id, attempt_id) for montage_id, attempt_id in attempts.items()],
    )


def count_crashes(connection: Connection, now: float) -> int:
    """Record every open attempt as CRASHED and count it in its montage; return the number of attempts."""
    crashed = [row[0] for row in connection.execute(_CRASHED_ATTEMPTS).fetchall()]
    connection.executemany(
        "UPDATE montages SET crashes = crashes + 1, attempt = max(0, attempt - 1) WHERE id = ?",
        [(montage_id,) for montage_id in crashed],
    )
    connection.execute("UPDATE attempts SET ended_at = ?, outcome = ? WHERE ended_at IS NULL", (now, Outcome.CRASHED))
    return len(crashed)


def record_closing(connection: Connection, stack: str, montage_ids: Sequence[int], now: float) -> tuple[int, ...]:
    """Record that a stack was closed for APPLIED montages; return the ids of the montages that became COMPLETE."""
    complete = []
    for montage_id in montage_ids:
        montage = find(connection, BY_ID, (montage_id,))
        if montage is None or montage.state is not MontageState.APPLIED:
            continue  # it was superseded or replayed while the stack was closing
        connection.execute("INSERT OR IGNORE INTO closings VALUES (?, ?, ?)", (montage_id, stack, now))
        rows = connection.execute("SELECT stack FROM closings WHERE montage_id = ?", (montage_id,))
        if {row[0] for row in rows} >= set(montage.stacks):
            record(connection, montage_id, Event.COMPLETED, now, {})
            complete.append(montage_id)
    return tuple(complete)


class Where(NamedTuple):
    """Conditions of `select`; None does not restrict."""

    states: Iterable[MontageState] | None
    z: float | None
    stack: str | None
    ids: Iterable[int] | None
    metafile: Path | None
    below: Path | None

    def conditions(self) -> Iterator[tuple[str, list[object]]]:
        """Yield SQL conditions, each with its values."""
        if self.states is not None:
            states = list(self.states)
            yield f"state IN ({', '.join('?' * len(states))})", [*states]
        if self.ids is not None:
            yield "id IN (SELECT value FROM json_each(?))", [json.dumps(list(self.ids))]
        if self.z is not None:
            yield "z = ?", [self.z]
        if self.stack is not None:
            yield "(raw_stack = ? OR mipmapped_stack = ?)", [self.stack, self.stack]
        if self.metafile is not None:
            yield "metafile = ?", [path_to_uri(self.metafile)]
        if self.below is not None:
            first = path_to_uri(self.below / "x").removesuffix("x")
            yield "metafile >= ? AND metafile < ?", [first, first[:-1] + "0"]  # "0" comes right after "/"


def select(connection: Connection, where: Where, *, limit: int, newest: bool) -> list[Montage]:
    """Return the montages that match all conditions, in order of acquisition or newest first."""
    conditions = list(where.conditions())
    text = " AND ".join(["1", *(condition for condition, _ in conditions)])
    values = [value for _, some in conditions for value in some]
    # The newest montage of one path is the content that was sighted last, not the one with the highest id.
    order = ("id DESC" if where.metafile is None else "sighted DESC") if newest else "acquired, id"
    query = f"SELECT {COLUMNS} FROM montages WHERE {text} ORDER BY {order} LIMIT ?"  # noqa: S608
    return [montage_of(row) for row in connection.execute(query, (*values, limit))]


def unfinished(connection: Connection) -> list[tuple[int, str, MontageState, str]]:
    """Return (id, acquired, state, watch) of every unfinished montage."""
    query = f"SELECT id, acquired, state, watch FROM montages WHERE state IN ({UNFINISHED_STATES})"  # noqa: S608
    return [(row[0], row[1], MontageState(row[2]), row[3]) for row in connection.execute(query)]


def events(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
    """Return the events of a montage in order."""
    rows = connection.execute(
        "SELECT at, event, state, detail FROM events WHERE montage_id = ? ORDER BY id", (montage_id,)
    )
    return [
        {"at": at, "event": event, "state": state, "detail": json.loads(detail)} for at, event, state, detail in rows
    ]


def attempts(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
    """Return the attempts of a montage in order."""
    rows = connection.execute(
        "SELECT step, started_at, ended_at, outcome, fault FROM attempts WHERE montage_id = ? ORDER BY id",
        (montage_id,),
    )
    return [
        {
            "step": step,
            "started_at": started_at,
            "ended_at": ended_at,
            "outcome": outcome,
            "fault": json.loads(fault) if fault else None,
        }
        for step, started_at, ended_at, outcome, fault in rows
    ]
