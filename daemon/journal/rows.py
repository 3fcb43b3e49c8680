"""What is read and written in the journal, each a function of the connection, run in one transaction."""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from daemon.journal.records import FaultRecord, Montage, Outcome, Settled, Settling
from daemon.states import UNFINISHED, Event, MontageState, Step, advance, replay_start
from daemon.watcher import Sighting
from handlers.errors import Evidence, Fault
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri, uri_to_path

Connection = sqlite3.Connection

log = structlog.get_logger()

_COLUMNS = (
    "id, watch, metafile, digest, size, mtime_ns, ctime_ns, inode, acquired, state, failed_in, z, raw_stack,"
    " mipmapped_stack, tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at"
)
# The newest row of a metafile: the content that the path held last.
_LATEST_OF_METAFILE = f"SELECT {_COLUMNS} FROM montages WHERE metafile = ? ORDER BY id DESC LIMIT 1"  # noqa: S608
# Every other row of the metafile that settled, newest first.
_OTHERS_OF_METAFILE = f"SELECT {_COLUMNS} FROM montages WHERE metafile = ? AND id <> ? ORDER BY id DESC"  # noqa: S608
BY_ID = f"SELECT {_COLUMNS} FROM montages WHERE id = ?"  # noqa: S608
# Attempts that the last process began and never ended.
_CRASHED_ATTEMPTS = "SELECT montage_id FROM attempts WHERE ended_at IS NULL"
UNFINISHED_STATES = ", ".join(f"'{state}'" for state in sorted(UNFINISHED))


def _montage(row: Sequence[Any]) -> Montage:
    (
        montage_id, watch, metafile, digest, size, mtime_ns, ctime_ns, inode, acquired, state, failed_in, z, raw,
        mipmapped, tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at,
    ) = row  # fmt: skip
    return Montage(
        id=montage_id,
        watch=watch,
        metafile=uri_to_path(metafile),
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
    )


def find(connection: Connection, query: str, values: Sequence[object]) -> Montage | None:
    row = connection.execute(query, values).fetchone()
    return _montage(row) if row else None


def _need(connection: Connection, montage_id: int) -> Montage:
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None:
        raise LookupError(f"the journal holds no montage {montage_id}")
    return montage


def _fault_json(fault: Fault | None) -> str | None:
    if fault is None:
        return None
    record = FaultRecord.of(fault)
    return json.dumps({"kind": record.kind, "subject": record.subject, "problem": record.problem, "hint": record.hint})


def notice(connection: Connection, sighting: Sighting, now: float, *, anew: bool = False) -> int | None:
    metafile = path_to_uri(sighting.path)
    identity = sighting.identity
    latest = find(connection, _LATEST_OF_METAFILE, (metafile,))
    if latest is None or latest.digest is not None:
        # SUPERSEDED is the newest row of a path only if its file had moved away: it is back.
        is_known = latest is not None and _is_as_noticed(connection, latest, identity)
        is_back = latest is not None and latest.state is MontageState.SUPERSEDED
        if is_known and not is_back and not anew:
            return None
        return _insert(connection, sighting, metafile, now)
    is_known = _is_as_noticed(connection, latest, identity)
    if is_known and not anew:
        return None
    if is_known and latest.state is MontageState.NOTICED:
        return latest.id
    _set_identity(connection, latest.id, identity)
    if latest.state in (MontageState.NOTICED, MontageState.FAILED):
        record(connection, latest.id, Event.RENOTICED, now, {"found_by": str(sighting.found_by)})
    return latest.id


def _is_as_noticed(connection: Connection, montage: Montage, identity: FileIdentity) -> bool:
    """Whether a montage's file is the one that was noticed; a row without a change time takes it over."""
    if not identity.matches(montage.identity):
        return False
    if montage.identity.ctime_ns is None:
        _set_identity(connection, montage.id, identity)
    return True


def _insert(connection: Connection, sighting: Sighting, metafile: str, now: float) -> int:
    cursor = connection.execute(
        "INSERT INTO montages (watch, metafile, size, mtime_ns, ctime_ns, inode, acquired, state, noticed_at,"
        " changed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sighting.watch,
            metafile,
            *sighting.identity,
            metafile.rsplit("/", 1)[1],
            advance(None, Event.NOTICED),
            now,
            now,
        ),
    )
    montage_id = int(cursor.lastrowid or 0)
    _insert_event(connection, montage_id, Event.NOTICED, MontageState.NOTICED, now, {"found_by": sighting.found_by})
    return montage_id


def replay(connection: Connection, montage_id: int, step: Step, now: float) -> Montage | None:
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in (MontageState.COMPLETE, MontageState.FAILED):
        return None
    start = replay_start(montage.state, montage.failed_in, step)
    return record(connection, montage_id, Event.REPLAYED, now, {"onto": start, "from": step})


def enter(
    connection: Connection, sighting: Sighting, settled: Settled, state: MontageState, evidence: str, now: float
) -> int:
    montage_id = _insert(connection, sighting, path_to_uri(sighting.path), now)
    _store_settled(connection, montage_id, settled)
    record(connection, montage_id, Event.REBUILT, now, {"onto": state, "evidence": evidence})
    return montage_id


def _set_identity(connection: Connection, montage_id: int, identity: FileIdentity) -> None:
    connection.execute(
        "UPDATE montages SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE id = ?", (*identity, montage_id)
    )


def _insert_event(
    connection: Connection,
    montage_id: int,
    event: Event,
    state: MontageState,
    now: float,
    detail: Mapping[str, object],
) -> None:
    connection.execute(
        "INSERT INTO events (montage_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
        (montage_id, now, event, state, json.dumps(detail)),
    )


def record(connection: Connection, montage_id: int, event: Event, now: float, detail: Mapping[str, object]) -> Montage:
    before = _need(connection, montage_id)
    onto = MontageState(str(detail.get("onto", MontageState.SETTLED)))
    state = advance(before.state, event, failed_in=before.failed_in, onto=onto)
    if event is Event.RETRIED:
        detail = {**detail, "failed_in": before.failed_in}
    _insert_event(connection, montage_id, event, state, now, detail)
    if event is not Event.SEEN_AGAIN:
        connection.execute(
            "UPDATE montages SET state = ?, changed_at = ?, complete_at = ?, failed_in = ?, fault = NULL,"
            " waiting_for = NULL, attempt = 0, crashes = 0 WHERE id = ?",
            (
                state,
                now,
                now if state is MontageState.COMPLETE else None,
                before.state if state is MontageState.FAILED else None,
                montage_id,
            ),
        )
        connection.execute("DELETE FROM awaited WHERE montage_id = ?", (montage_id,))
    # A replay makes all mipmaps again, unless it is one from the step after them.
    if state is MontageState.MIPMAPPED or (event is Event.REPLAYED and detail.get("from") != Step.APPLY):
        connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,))
    if state is not MontageState.APPLIED or event is Event.APPLIED:
        connection.execute("DELETE FROM closings WHERE montage_id = ?", (montage_id,))
    return _need(connection, montage_id)


def _others(connection: Connection, montage: Montage) -> list[Montage]:
    rows = connection.execute(_OTHERS_OF_METAFILE, (path_to_uri(montage.metafile), montage.id))
    return [_montage(row) for row in rows.fetchall()]


def _supersede(connection: Connection, others: Iterable[Montage], by: int, now: float) -> tuple[int, ...]:
    chosen = tuple(other.id for other in others if other.state is not MontageState.SUPERSEDED)
    for montage_id in chosen:
        record(connection, montage_id, Event.SUPERSEDED, now, {"by": by})
    return chosen


def _become(connection: Connection, montage: Montage, same: Montage) -> None:
    """Two rows turn out to be one montage: the older stays, and stands for the file as it was noticed now."""
    connection.execute("DELETE FROM montages WHERE id = ?", (montage.id,))
    _set_identity(connection, same.id, montage.identity)


def recognise(connection: Connection, montage_id: int, digest: str, now: float) -> int | None:
    montage = _need(connection, montage_id)
    others = _others(connection, montage)
    same = next((other for other in others if other.digest == digest), None)
    if same is None or same.state in (MontageState.FAILED, MontageState.SUPERSEDED):
        return None
    _become(connection, montage, same)
    _supersede(connection, (other for other in others if other is not same), same.id, now)
    record(connection, same.id, Event.SEEN_AGAIN, now, {})
    return same.id


def fail(connection: Connection, montage_id: int, fault: Fault, digest: str | None, now: float) -> Montage:
    montage = _need(connection, montage_id)
    same = next((other for other in _others(connection, montage) if digest and other.digest == digest), None)
    if same is not None and same.state is MontageState.FAILED:
        _become(connection, montage, same)
        record(connection, same.id, Event.RENOTICED, now, {})
        montage_id = same.id
    attempt = _need(connection, montage_id).attempt
    told = json.loads(_fault_json(fault) or "{}")
    record(connection, montage_id, Event.FAILED, now, {"fault": told, "attempt": attempt})
    connection.execute(
        "UPDATE montages SET fault = ?, attempt = ? WHERE id = ?", (json.dumps(told), attempt, montage_id)
    )
    if fault.evidence is not None:
        identity = fault.evidence.identity or (None, None, None, None)
        values = (montage_id, path_to_uri(fault.evidence.path), *identity)
        connection.execute(
            "INSERT OR REPLACE INTO awaited (montage_id, file, size, mtime_ns, ctime_ns, inode)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
    if digest is not None:
        # Only where no other row holds this content: the identity is (metafile, digest).
        connection.execute("UPDATE OR IGNORE montages SET digest = ? WHERE id = ?", (digest, montage_id))
    return _need(connection, montage_id)


def awaited(connection: Connection) -> list[tuple[int, str, Evidence]]:
    query = (
        "SELECT id, watch, awaited.file, awaited.size, awaited.mtime_ns, awaited.ctime_ns, awaited.inode FROM awaited"
        " JOIN montages ON id = montage_id ORDER BY acquired, id"
    )
    return [
        (montage_id, watch, Evidence(uri_to_path(file), None if identity[0] is None else FileIdentity(*identity)))
        for montage_id, watch, file, *identity in connection.execute(query)
    ]


def twins(connection: Connection, montage_id: int, digest: str) -> list[Montage]:
    metafile = path_to_uri(_need(connection, montage_id).metafile)
    query = (
        f"SELECT {_COLUMNS} FROM montages WHERE digest = ? AND metafile <> ?"  # noqa: S608  constant text
        " AND state NOT IN ('superseded', 'ignored') ORDER BY id"
    )
    return [_montage(row) for row in connection.execute(query, (digest, metafile)).fetchall()]


def ignore(connection: Connection, montage_id: int, reason: str, digest: str | None, now: float) -> None:
    record(connection, montage_id, Event.IGNORED, now, {"reason": reason})
    connection.execute(
        "UPDATE OR IGNORE montages SET digest = ?, waiting_for = ? WHERE id = ?", (digest, reason, montage_id)
    )


def settle(connection: Connection, montage_id: int, settled: Settled, now: float) -> Settling:
    montage = _need(connection, montage_id)
    others = _others(connection, montage)
    same = next((other for other in others if other.digest == settled.digest), None)
    kept = same.id if same else montage_id
    superseded = _supersede(connection, (other for other in others if other is not same), kept, now)
    event = Event.SETTLED
    detail: dict[str, object] = {"tiles": len(settled.tile_ids), "z": settled.z}
    if same is not None:
        # The path holds again what had failed or been superseded: that montage is done anew.
        _become(connection, montage, same)
        event, detail = Event.REPLAYED, {**detail, "reason": "the metafile holds this content again"}
    _store_settled(connection, kept, settled)
    record(connection, kept, event, now, detail)
    return Settling(kept, superseded)


def _store_settled(connection: Connection, montage_id: int, settled: Settled) -> None:
    connection.execute(
        "UPDATE montages SET digest = ?, z = ?, raw_stack = ?, mipmapped_stack = ?, tile_count = ?, findings = ?"
        " WHERE id = ?",
        (
            settled.digest,
            settled.z,
            settled.raw_stack,
            settled.mipmapped_stack,
            len(settled.tile_ids),
            json.dumps(settled.findings),
            montage_id,
        ),
    )
    packed = zlib.compress("\n".join(settled.tile_ids).encode())
    connection.execute("INSERT OR REPLACE INTO tile_sets VALUES (?, ?)", (montage_id, packed))


def begin_attempt(connection: Connection, montage_id: int, step: Step, now: float) -> int:
    connection.execute("UPDATE montages SET attempt = attempt + 1 WHERE id = ?", (montage_id,))
    cursor = connection.execute(
        "INSERT INTO attempts (montage_id, step, started_at) VALUES (?, ?, ?)", (montage_id, step, now)
    )
    return int(cursor.lastrowid or 0)


def end_attempt(connection: Connection, attempt_id: int, outcome: Outcome, fault: Fault | None, now: float) -> None:
    connection.execute(
        "UPDATE attempts SET ended_at = ?, outcome = ?, fault = ? WHERE id = ?",
        (now, outcome, _fault_json(fault), attempt_id),
    )
    if outcome is not Outcome.DONE:  # after DONE the event has already set the montage's columns
        connection.execute(
            "UPDATE montages SET fault = coalesce(?, fault), crashes = 0"
            " WHERE id = (SELECT montage_id FROM attempts WHERE id = ?)",
            (_fault_json(fault), attempt_id),
        )


def stop_attempts(connection: Connection, attempts: Mapping[int, int], now: float) -> None:
    connection.executemany(
        "UPDATE attempts SET ended_at = ?, outcome = ? WHERE montage_id = ? AND id = ? AND ended_at IS NULL",
        [(now, Outcome.STOPPED, montage_id, attempt_id) for montage_id, attempt_id in attempts.items()],
    )


def count_crashes(connection: Connection, now: float) -> int:
    crashed = [row[0] for row in connection.execute(_CRASHED_ATTEMPTS).fetchall()]
    connection.executemany(
        "UPDATE montages SET crashes = crashes + 1, attempt = max(0, attempt - 1) WHERE id = ?",
        [(montage_id,) for montage_id in crashed],
    )
    connection.execute("UPDATE attempts SET ended_at = ?, outcome = ? WHERE ended_at IS NULL", (now, Outcome.CRASHED))
    return len(crashed)


def record_tiles(connection: Connection, montage_id: int, tile_ids: Sequence[str], now: float) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO tiles (montage_id, tile_id, made_at) VALUES (?, ?, ?)",
        [(montage_id, tile_id, now) for tile_id in tile_ids],
    )
    # Progress: whatever ended the process before, it was not this montage's doing alone.
    connection.execute("UPDATE montages SET crashes = 0 WHERE id = ? AND crashes > 0", (montage_id,))


def tile_ids(connection: Connection, where: str, values: Sequence[object]) -> frozenset[str]:
    rows = connection.execute(
        f"SELECT tile_ids FROM tile_sets JOIN montages ON id = montage_id WHERE {where}",  # noqa: S608  constant text
        values,
    )
    return frozenset(tile_id for (packed,) in rows for tile_id in zlib.decompress(packed).decode().split("\n"))


def superseded_tile_ids(connection: Connection, montage: Montage) -> frozenset[str]:
    metafile = path_to_uri(montage.metafile)
    former = tile_ids(connection, "metafile = ? AND id <> ?", (metafile, montage.id))
    return former - tile_ids(connection, "id = ?", (montage.id,))


def record_closing(connection: Connection, stack: str, montage_ids: Sequence[int], now: float) -> tuple[int, ...]:
    complete = []
    for montage_id in montage_ids:
        montage = find(connection, BY_ID, (montage_id,))
        if montage is None or montage.state is not MontageState.APPLIED:
            continue  # superseded or replayed while the stack was closing
        connection.execute("INSERT OR IGNORE INTO closings VALUES (?, ?, ?)", (montage_id, stack, now))
        rows = connection.execute("SELECT stack FROM closings WHERE montage_id = ?", (montage_id,))
        if {row[0] for row in rows} >= set(montage.stacks):
            record(connection, montage_id, Event.COMPLETED, now, {})
            complete.append(montage_id)
    return tuple(complete)


class Where(NamedTuple):
    """What `montages` asks for."""

    states: Iterable[MontageState] | None
    z: float | None
    stack: str | None
    ids: Iterable[int] | None
    metafile: Path | None
    below: Path | None

    def conditions(self) -> Iterator[tuple[str, list[object]]]:
        """SQL conditions, each with its values."""
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
    conditions = list(where.conditions())
    text = " AND ".join(["1", *(condition for condition, _ in conditions)])
    values = [value for _, some in conditions for value in some]
    order = "id DESC" if newest else "acquired, id"
    query = f"SELECT {_COLUMNS} FROM montages WHERE {text} ORDER BY {order} LIMIT ?"  # noqa: S608
    return [_montage(row) for row in connection.execute(query, (*values, limit))]


def unfinished(connection: Connection) -> list[tuple[int, str, MontageState, str]]:
    query = f"SELECT id, acquired, state, watch FROM montages WHERE state IN ({UNFINISHED_STATES})"  # noqa: S608
    return [(row[0], row[1], MontageState(row[2]), row[3]) for row in connection.execute(query)]


def events(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT at, event, state, detail FROM events WHERE montage_id = ? ORDER BY id", (montage_id,)
    )
    return [
        {"at": at, "event": event, "state": state, "detail": json.loads(detail)} for at, event, state, detail in rows
    ]


def attempts(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
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
