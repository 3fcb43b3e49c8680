"""Which montage stands for what a path holds. Functions of the connection, each run in one transaction, as in `rows`.

A path has a montage for each content that it held. At most one of them is to be read, the one without a digest. The one
that was noticed last stands for what the path holds; a content that comes back has its former montage.
"""

import json
from collections.abc import Collection, Iterable, Mapping

from daemon.journal import tile_sets as tilesets
from daemon.journal.rows import (
    BY_ID,
    COLUMNS,
    HELD_LAST,
    Connection,
    fault_json,
    find,
    insert_event,
    may_be_read,
    montage_of,
    need,
    record,
)
from daemon.montages.records import AwaitedFile, Inspection, Montage, Settled, SettleResult, StaleInspection
from daemon.montages.sighting import Sighting
from daemon.montages.states import HAS_SETTLED, UNFINISHED, Event, MontageState, Step, advance, replay_start
from handlers.errors import Evidence, Fault
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri, uri_to_path

# The row of a metafile that is to be read, or could not be.
_UNREAD = f"SELECT {COLUMNS} FROM montages WHERE metafile = ? AND digest IS NULL"  # noqa: S608  constant text
# Every other row of a metafile, newest first.
_OTHERS = f"SELECT {COLUMNS} FROM montages WHERE metafile = ? AND id <> ? ORDER BY id DESC"  # noqa: S608

_NEED_NO_METAFILE = (MontageState.APPLIED, MontageState.COMPLETE)


# --- sightings


def notice(connection: Connection, sighting: Sighting, now: float, *, force: bool = False) -> int | None:
    metafile = path_to_uri(sighting.path)
    latest = find(connection, HELD_LAST, (metafile,))
    # SUPERSEDED is what stands for a path only if its file had moved away: it is back.
    is_known = (
        latest is not None
        and latest.state is not MontageState.SUPERSEDED
        and _is_as_noticed(connection, latest, sighting.identity)
    )
    if is_known and not force:
        return None
    unread = find(connection, _UNREAD, (metafile,))
    if unread is None:
        return _insert(connection, sighting, metafile, now)
    if is_known and unread.state is MontageState.NOTICED:
        return unread.id
    _set_identity(connection, unread.id, sighting.identity)
    connection.execute(
        "UPDATE montages SET watch = ?, seen_digest = NULL, sighted = ? WHERE id = ?",
        (sighting.watch, _next_sighted(connection, metafile), unread.id),
    )
    record(connection, unread.id, Event.RENOTICED, now, {"found_by": str(sighting.found_by)})
    return unread.id


def doubt(connection: Connection, montage_id: int, sighting: Sighting, now: float) -> int | None:
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in UNFINISHED or not may_be_read(connection, montage):
        return None
    return notice(connection, sighting, now, force=True)


def _is_as_noticed(connection: Connection, montage: Montage, identity: FileIdentity) -> bool:
    """Whether a montage's file is the one that was noticed; a row without a change time takes it over."""
    if not identity.matches(montage.identity):
        return False
    if montage.identity.ctime_ns is None:
        _set_identity(connection, montage.id, identity)
    return True


def _next_sighted(connection: Connection, metafile: str) -> int:
    query = "SELECT 1 + coalesce(max(sighted), 0) FROM montages WHERE metafile = ?"
    return int(connection.execute(query, (metafile,)).fetchone()[0])


def _insert(connection: Connection, sighting: Sighting, metafile: str, now: float) -> int:
    cursor = connection.execute(
        "INSERT INTO montages (watch, metafile, size, mtime_ns, ctime_ns, inode, acquired, state, noticed_at,"
        " changed_at, sighted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sighting.watch,
            metafile,
            *sighting.identity,
            metafile.rsplit("/", 1)[1],
            advance(None, Event.NOTICED),
            now,
            now,
            _next_sighted(connection, metafile),
        ),
    )
    montage_id = int(cursor.lastrowid or 0)
    insert_event(connection, montage_id, Event.NOTICED, MontageState.NOTICED, now, {"found_by": sighting.found_by})
    return montage_id


def _set_identity(connection: Connection, montage_id: int, identity: FileIdentity) -> None:
    connection.execute(
        "UPDATE montages SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE id = ?", (*identity, montage_id)
    )


# --- outcomes of a look


def _looked_at(connection: Connection, look: Inspection) -> Montage:
    """The montage, which from now on stands for what was read. Raises StaleInspection if it was noticed anew since."""
    montage = find(connection, BY_ID, (look.montage_id,))
    if montage is None or montage.state is not MontageState.NOTICED:
        raise StaleInspection
    if montage.identity.matches(look.read):
        return montage
    if montage.identity != look.noticed:
        raise StaleInspection
    if look.read is not None:  # newer than the last sighting: no scan came in between
        _set_identity(connection, montage.id, look.read)
    return need(connection, montage.id)


def _others(connection: Connection, montage: Montage) -> list[Montage]:
    rows = connection.execute(_OTHERS, (path_to_uri(montage.metafile), montage.id))
    return [montage_of(row) for row in rows.fetchall()]


def _with_digest(montages: Iterable[Montage], digest: str | None) -> Montage | None:
    return next((each for each in montages if digest is not None and each.digest == digest), None)


def _supersede(
    connection: Connection, montages: Iterable[Montage], by: int, now: float, because: Mapping[int, str] | None = None
) -> tuple[Montage, ...]:
    chosen = tuple(montage for montage in montages if montage.state is not MontageState.SUPERSEDED)
    for montage in chosen:
        reason = (because or {}).get(montage.id)
        record(connection, montage.id, Event.SUPERSEDED, now, {"by": by} | ({"because": reason} if reason else {}))
    return chosen


def _become(connection: Connection, montage: Montage, same: Montage) -> None:
    """Two rows turn out to be one montage: the older stays, and stands for the file as it was noticed now."""
    sighted = connection.execute("SELECT sighted FROM montages WHERE id = ?", (montage.id,)).fetchone()[0]
    connection.execute("UPDATE montages SET superseded_by = ? WHERE superseded_by = ?", (same.id, montage.id))
    connection.execute("DELETE FROM montages WHERE id = ?", (montage.id,))
    _set_identity(connection, same.id, montage.identity)
    connection.execute("UPDATE montages SET sighted = ? WHERE id = ?", (sighted, same.id))


def _see_again(
    connection: Connection, montage: Montage, same: Montage, others: Iterable[Montage], now: float
) -> SettleResult:
    """The content had settled before, and is what the path holds: all else that it held has ended."""
    _become(connection, montage, same)
    superseded = _supersede(connection, (other for other in others if other.id != same.id), same.id, now)
    record(connection, same.id, Event.SEEN_AGAIN, now, {})
    return SettleResult(same.id, superseded, is_known=True)


def recognise(connection: Connection, look: Inspection, now: float) -> SettleResult | None:
    montage = _looked_at(connection, look)
    others = _others(connection, montage)
    same = _with_digest(others, look.digest)
    if same is None or same.state not in HAS_SETTLED:
        return None
    return _see_again(connection, montage, same, others, now)


def settle(
    connection: Connection,
    look: Inspection,
    settled: Settled,
    moved: Mapping[Montage, str],
    apart: Collection[int],
    now: float,
) -> SettleResult:
    montage = _looked_at(connection, look)
    others = _others(connection, montage)
    same = _with_digest(others, settled.digest)
    if same is not None and same.state in HAS_SETTLED:
        return _see_again(connection, montage, same, others, now)
    found = tilesets.rivals(connection, montage, settled, look.read or montage.identity)
    # One that stood apart may have settled meanwhile: two paths of one file are looked at at the same moment.
    gone = {montage.id: why for montage, why in moved.items()}
    unseen = tuple(
        rival for rival in found if rival.montage.id not in gone and (rival.shared or rival.montage.id not in apart)
    )
    if unseen:
        return SettleResult(montage.id, rivals=unseen)
    kept = same.id if same else montage.id
    former = [other for other in others if other is not same]
    superseded = _supersede(connection, former, kept, now)
    superseded += _supersede(connection, [_as_judged(connection, each) for each in moved], kept, now, gone)
    event = Event.SETTLED
    detail: dict[str, object] = {"tiles": len(settled.tile_ids), "z": settled.z}
    if same is not None:
        # The path holds again what had failed or been superseded: that montage is done anew.
        _become(connection, montage, same)
        if same.state is MontageState.IGNORED:
            record(connection, same.id, Event.RENOTICED, now, {})
        else:
            event, detail = Event.REPLAYED, {**detail, "reason": "the metafile holds this content again"}
    _store_settled(connection, kept, settled)
    record(connection, kept, event, now, detail)
    return SettleResult(kept, superseded)


def _as_judged(connection: Connection, montage: Montage) -> Montage:
    """The montage, if nothing happened to it since its path was looked at. Raises StaleInspection if something did."""
    present = find(connection, BY_ID, (montage.id,))
    if present is None or (present.state, present.identity) != (montage.state, montage.identity):
        raise StaleInspection
    return present


def _store_settled(connection: Connection, montage_id: int, settled: Settled) -> None:
    connection.execute(
        "UPDATE montages SET digest = ?, seen_digest = NULL, z = ?, raw_stack = ?, mipmapped_stack = ?,"
        " tile_count = ?, findings = ? WHERE id = ?",
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
    tilesets.store_tile_ids(connection, montage_id, settled.tile_ids)


def _stand_for(connection: Connection, look: Inspection, now: float, *, is_gone: bool = False) -> SettleResult:
    """Which row stands for a content that is not ingested: one that the path had, or the one that was looked at."""
    montage = _looked_at(connection, look)
    if look.digest is None:
        ended = [each for each in _others(connection, montage) if is_gone and each.state not in _NEED_NO_METAFILE]
        return SettleResult(montage.id, _supersede(connection, ended, montage.id, now))
    others = _others(connection, montage)
    same = _with_digest(others, look.digest)
    if same is not None and same.state in HAS_SETTLED:
        raise StaleInspection  # its way goes on: another look will recognise it
    kept = montage.id
    if same is not None:
        kept = same.id
        _become(connection, montage, same)
        record(connection, kept, Event.RENOTICED, now, {})
    # What is COMPLETE stays, as its tiles do; what is on its way or FAILED can never come to its end.
    ended = [other for other in others if other is not same and other.state is not MontageState.COMPLETE]
    return SettleResult(kept, _supersede(connection, ended, kept, now))


def refuse(connection: Connection, look: Inspection, fault: Fault, now: float) -> tuple[SettleResult, Montage]:
    is_gone = fault.evidence is not None and fault.evidence.identity is None
    settling = _stand_for(connection, look, now, is_gone=is_gone)
    fail(connection, settling.kept, fault, now)
    _set_digest(connection, settling.kept, look.digest)
    return settling, need(connection, settling.kept)


def ignore(
    connection: Connection, look: Inspection, reason: str, evidence: Evidence | None, now: float
) -> SettleResult:
    settling = _stand_for(connection, look, now)
    record(connection, settling.kept, Event.IGNORED, now, {"reason": reason})
    connection.execute("UPDATE montages SET waiting_for = ? WHERE id = ?", (reason, settling.kept))
    _await(connection, settling.kept, evidence)
    _set_digest(connection, settling.kept, look.digest)
    return settling


def _set_digest(connection: Connection, montage_id: int, digest: str | None) -> None:
    connection.execute("UPDATE montages SET digest = ?, seen_digest = NULL WHERE id = ?", (digest, montage_id))


def fail(connection: Connection, montage_id: int, fault: Fault, now: float) -> Montage:
    attempt = need(connection, montage_id).attempt
    told = json.loads(fault_json(fault) or "{}")
    record(connection, montage_id, Event.FAILED, now, {"fault": told, "attempt": attempt})
    connection.execute(
        "UPDATE montages SET fault = ?, attempt = ? WHERE id = ?", (json.dumps(told), attempt, montage_id)
    )
    _await(connection, montage_id, fault.evidence)
    return need(connection, montage_id)


def wait(connection: Connection, montage_id: int, reason: str, digest: str | None) -> None:
    connection.execute(
        "UPDATE montages SET waiting_for = :reason, seen_digest = coalesce(:digest, seen_digest) WHERE id = :id"
        " AND (waiting_for IS NOT :reason OR (:digest IS NOT NULL AND seen_digest IS NOT :digest))",
        {"id": montage_id, "reason": reason, "digest": digest},
    )


# --- taken up again


def _await(connection: Connection, montage_id: int, evidence: Evidence | None) -> None:
    """Records which file has to change before the montage is taken up again."""
    if evidence is None:
        return
    connection.execute(
        "INSERT OR REPLACE INTO awaited (montage_id, file, size, mtime_ns, ctime_ns, inode, or_gone)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (montage_id, path_to_uri(evidence.path), *(evidence.identity or (None,) * 4), evidence.or_gone),
    )


def awaited(connection: Connection) -> list[AwaitedFile]:
    query = (
        "SELECT id, watch, metafile, awaited.file, or_gone, awaited.size, awaited.mtime_ns, awaited.ctime_ns,"
        " awaited.inode FROM awaited JOIN montages ON id = montage_id ORDER BY acquired, id"
    )
    return [
        AwaitedFile(
            montage_id,
            watch,
            uri_to_path(metafile),
            Evidence(uri_to_path(file), None if identity[0] is None else FileIdentity(*identity), bool(or_gone)),
        )
        for montage_id, watch, metafile, file, or_gone, *identity in connection.execute(query)
    ]


def withdraw(connection: Connection, refused: AwaitedFile, now: float) -> bool:
    montage = find(connection, BY_ID, (refused.montage_id,))
    other = find(connection, HELD_LAST, (path_to_uri(refused.evidence.path),))
    if montage is None or montage.state not in (MontageState.FAILED, MontageState.IGNORED) or other is None:
        return False
    because = f"its metafile is gone, which was not ingested because of {refused.evidence.path}"
    record(connection, montage.id, Event.SUPERSEDED, now, {"by": other.id, "because": because})
    return True


def retry(connection: Connection, montage_id: int, because: str, now: float) -> Montage | None:
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in (MontageState.FAILED, MontageState.IGNORED):
        return None
    is_read_again = montage.state is MontageState.IGNORED or montage.failed_in is MontageState.NOTICED
    if is_read_again and not may_be_read(connection, montage):
        return None
    event = Event.RETRIED if montage.state is MontageState.FAILED else Event.RENOTICED
    return record(connection, montage_id, event, now, {"because": because})


def replay(connection: Connection, montage_id: int, step: Step, now: float) -> Montage | None:
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in (MontageState.COMPLETE, MontageState.FAILED):
        return None
    start = replay_start(montage.state, montage.failed_in, step)
    if start is MontageState.NOTICED and not may_be_read(connection, montage):
        return None
    return record(connection, montage_id, Event.REPLAYED, now, {"onto": start, "from": step})


# --- montages that are elsewhere, or were


def enter(
    connection: Connection, sighting: Sighting, settled: Settled, state: MontageState, evidence: str, now: float
) -> int | None:
    metafile = path_to_uri(sighting.path)
    if tilesets.holders(connection, metafile, settled):
        return None
    montage_id = _insert(connection, sighting, metafile, now)
    _store_settled(connection, montage_id, settled)
    record(connection, montage_id, Event.REBUILT, now, {"onto": state, "evidence": evidence})
    return montage_id


def alike(connection: Connection, montage: Montage) -> list[Montage]:
    query = "SELECT coalesce(digest, seen_digest) FROM montages WHERE id = ?"
    digest = connection.execute(query, (montage.id,)).fetchone()[0]
    return tilesets.alike(connection, path_to_uri(montage.metafile), digest, montage.identity)


def move(connection: Connection, montage: Montage, onto: Montage, now: float) -> bool:
    try:
        _as_judged(connection, montage)
    except StaleInspection:
        return False
    because = f"moved to {onto.metafile}"
    record(connection, montage.id, Event.SUPERSEDED, now, {"by": onto.id, "because": because})
    return True
