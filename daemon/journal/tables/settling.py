"""Record the outcomes of reading a metafile."""

import json
from collections.abc import Collection, Iterable, Mapping

from daemon.journal.tables import duplicates, tile_sets
from daemon.journal.tables.retries import await_change
from daemon.journal.tables.rows import (
    BY_ID,
    COLUMNS,
    Connection,
    fault_json,
    find,
    is_latest_of_path,
    montage_of,
    need,
    record,
)
from daemon.journal.tables.sightings import insert, set_identity
from daemon.montages.records import Inspection, Montage, Settled, SettleResult, StaleInspection
from daemon.montages.sighting import Sighting
from daemon.montages.states import HAS_SETTLED, Event, MontageState
from handlers.errors import Evidence, Fault
from handlers.uris import path_to_uri

# Every other row of a metafile, newest first.
_OTHERS = f"SELECT {COLUMNS} FROM montages WHERE metafile = ? AND id <> ? ORDER BY id DESC"  # noqa: S608

_NEED_NO_METAFILE = (MontageState.APPLIED, MontageState.COMPLETE)


# --- the metafile is whole


def recognise(connection: Connection, inspection: Inspection, now: float) -> SettleResult | None:
    """Merge the montage into the row that settled earlier with the same content; None if there is none."""
    montage = _require_current(connection, inspection)
    others = _others(connection, montage)
    same = _with_digest(others, inspection.digest)
    if same is None or same.state not in HAS_SETTLED:
        return None
    return _see_again(connection, montage, same, others, now)


def settle(
    connection: Connection,
    inspection: Inspection,
    settled: Settled,
    moved: Mapping[Montage, str],
    unrelated: Collection[int],
    now: float,
) -> SettleResult:
    """Record SETTLED and supersede the other contents of the path, or return the rivals to be checked first."""
    montage = _require_current(connection, inspection)
    others = _others(connection, montage)
    same = _with_digest(others, settled.digest)
    if same is not None and same.state in HAS_SETTLED:
        return _see_again(connection, montage, same, others, now)
    rivals = duplicates.rivals(connection, montage, settled, montage.identity)
    gone = {montage.id: because for montage, because in moved.items()}
    # A rival without shared tiles may have settled since its check: two paths of one file may settle concurrently.
    unchecked = tuple(
        rival
        for rival in rivals
        if rival.montage.id not in gone and (rival.shared or rival.montage.id not in unrelated)
    )
    if unchecked:
        return SettleResult(montage.id, rivals=unchecked)
    if namesake := duplicates.namesake(connection, path_to_uri(montage.metafile), settled, gone):
        return SettleResult(montage.id, namesake=namesake)
    kept = same.id if same else montage.id
    former = [other for other in others if other is not same]
    superseded = _supersede(connection, former, kept, now)
    present = [duplicates.require_unchanged(connection, each) for each in moved]
    superseded += _supersede(connection, present, kept, now, gone)
    superseded += _supersede_replaced(connection, present, now)
    event = Event.SETTLED
    detail: dict[str, object] = {"tiles": len(settled.tile_ids), "z": settled.z}
    if same is not None:
        # The path holds a failed or superseded content again: its montage is processed again.
        _merge(connection, montage, same)
        if same.state is MontageState.IGNORED:
            record(connection, same.id, Event.RENOTICED, now, {})
        else:
            event, detail = Event.REPLAYED, {**detail, "reason": "the metafile holds this content again"}
    _store_settled(connection, kept, settled)
    record(connection, kept, event, now, detail)
    return SettleResult(kept, superseded)


def restore(
    connection: Connection, sighting: Sighting, settled: Settled, state: MontageState, evidence: str, now: float
) -> int | None:
    """Insert a montage in the state that stacks and files prove; return its id.

    None, and nothing is inserted, if another montage owns some of its tiles.
    """
    metafile = path_to_uri(sighting.path)
    if duplicates.tile_owners(connection, metafile, settled):
        return None
    montage_id = insert(connection, sighting, metafile, now)
    _store_settled(connection, montage_id, settled)
    record(connection, montage_id, Event.REBUILT, now, {"onto": state, "evidence": evidence})
    return montage_id


def _see_again(
    connection: Connection, montage: Montage, same: Montage, others: Iterable[Montage], now: float
) -> SettleResult:
    """Keep the row that settled with this content; supersede all other contents of the path."""
    _merge(connection, montage, same)
    superseded = _supersede(connection, (other for other in others if other.id != same.id), same.id, now)
    record(connection, same.id, Event.SEEN_AGAIN, now, {})
    return SettleResult(same.id, superseded, is_known=True)


def _store_settled(connection: Connection, montage_id: int, settled: Settled) -> None:
    connection.execute(
        "UPDATE montages SET digest = ?, seen_digest = NULL, z = ?, raw_stack = ?, mipmapped_stack = ?,"
        " tile_count = ?, findings = ?, raw_fields = ?, mipmapped_fields = ?, section_id = ?, bounds = ?,"
        " output_dir = ?, scope = ?, tape = ? WHERE id = ?",
        (
            settled.digest,
            settled.z,
            settled.raw_stack,
            settled.mipmapped_stack,
            len(settled.tile_ids),
            json.dumps(settled.findings),
            settled.raw_fields,
            settled.mipmapped_fields,
            settled.section_id,
            json.dumps(settled.bounds) if settled.bounds else None,
            settled.output_dir,
            settled.scope,
            settled.tape,
            montage_id,
        ),
    )
    tile_sets.store_tile_ids(connection, montage_id, settled.tile_ids)


# --- the metafile moved


def move(connection: Connection, montage: Montage, onto: Montage, now: float) -> tuple[Montage, ...]:
    """Supersede a montage whose metafile moved to the path of another; return the superseded montages, this one first.

    If the montage changed meanwhile, nothing is superseded and the result is empty.
    """
    try:
        present = duplicates.require_unchanged(connection, montage)
    except StaleInspection:
        return ()
    because = {montage.id: f"moved to {onto.metafile}"}
    superseded = _supersede(connection, [present], onto.id, now, because)
    # A montage deletes its predecessors' tiles when it puts its own. One that owns tiles gets no further predecessors.
    return superseded + _supersede_replaced(connection, superseded, now, except_owners=_owns_tiles(onto))


def _supersede_replaced(
    connection: Connection, moved: Iterable[Montage], now: float, *, except_owners: bool = False
) -> tuple[Montage, ...]:
    """Supersede the contents that the moved metafiles had replaced, so that they are not processed later."""
    superseded: tuple[Montage, ...] = ()
    for montage in moved:
        if is_latest_of_path(connection, montage):
            replaced = [each for each in _others(connection, montage) if each.state not in _NEED_NO_METAFILE]
            chosen = [each for each in replaced if not (except_owners and _owns_tiles(each))]
            superseded += _supersede(connection, chosen, montage.id, now)
    return superseded


def _owns_tiles(montage: Montage) -> bool:
    return (montage.failed_in or montage.state) in HAS_SETTLED


# --- the metafile is not ingested


def refuse(connection: Connection, inspection: Inspection, fault: Fault, now: float) -> tuple[SettleResult, Montage]:
    """Record FAILED for a content that cannot be ingested."""
    is_gone = fault.evidence is not None and fault.evidence.identity is None
    settling = _keep_one(connection, inspection, now, is_gone=is_gone)
    fail(connection, settling.kept, fault, now, inspection.events_before)
    _set_digest(connection, settling.kept, inspection.digest)
    return settling, need(connection, settling.kept)


def ignore(
    connection: Connection, inspection: Inspection, reason: str, evidence: Evidence | None, now: float
) -> SettleResult:
    """Record IGNORED for a content that the watch does not ingest."""
    settling = _keep_one(connection, inspection, now)
    record(connection, settling.kept, Event.IGNORED, now, {"reason": reason})
    connection.execute("UPDATE montages SET waiting_for = ? WHERE id = ?", (reason, settling.kept))
    await_change(connection, settling.kept, evidence, inspection.events_before)
    _set_digest(connection, settling.kept, inspection.digest)
    return settling


def fail(
    connection: Connection, montage_id: int, fault: Fault, now: float, events_before: int | None = None
) -> Montage:
    """Record FAILED with its fault; return the montage. See `await_change` for `events_before`."""
    attempt = need(connection, montage_id).attempt
    stored = fault_json(fault)
    detail = {"fault": json.loads(stored), "attempt": attempt}
    record(connection, montage_id, Event.FAILED, now, detail)
    connection.execute("UPDATE montages SET fault = ?, attempt = ? WHERE id = ?", (stored, attempt, montage_id))
    await_change(connection, montage_id, fault.evidence, events_before)
    return need(connection, montage_id)


def wait(connection: Connection, montage_id: int, reason: str, digest: str | None) -> None:
    """Store what a montage waits for, if that has changed."""
    connection.execute(
        "UPDATE montages SET waiting_for = :reason, seen_digest = coalesce(:digest, seen_digest) WHERE id = :id"
        " AND (waiting_for IS NOT :reason OR (:digest IS NOT NULL AND seen_digest IS NOT :digest))",
        {"id": montage_id, "reason": reason, "digest": digest},
    )


def _keep_one(connection: Connection, inspection: Inspection, now: float, *, is_gone: bool = False) -> SettleResult:
    """Choose the row of a content that is not ingested: a former row of this content, otherwise the row that was read.

    The other contents of the path that can no longer complete are superseded.
    """
    montage = _require_current(connection, inspection)
    if inspection.digest is None:
        ended = [each for each in _others(connection, montage) if is_gone and each.state not in _NEED_NO_METAFILE]
        return SettleResult(montage.id, _supersede(connection, ended, montage.id, now))
    others = _others(connection, montage)
    same = _with_digest(others, inspection.digest)
    if same is not None and same.state in HAS_SETTLED:
        raise StaleInspection  # that montage continues; the next reading recognises it
    kept = montage.id
    if same is not None:
        kept = same.id
        _merge(connection, montage, same)
        record(connection, kept, Event.RENOTICED, now, {})
    # A COMPLETE content keeps its tiles. An unfinished or FAILED content is gone from the path and cannot complete.
    ended = [other for other in others if other is not same and other.state is not MontageState.COMPLETE]
    return SettleResult(kept, _supersede(connection, ended, kept, now))


def _set_digest(connection: Connection, montage_id: int, digest: str | None) -> None:
    connection.execute("UPDATE montages SET digest = ?, seen_digest = NULL WHERE id = ?", (digest, montage_id))


# --- the rows of one path


def _require_current(connection: Connection, inspection: Inspection) -> Montage:
    """Return the montage with the identity that was read. Raises StaleInspection if it was noticed again since."""
    montage = find(connection, BY_ID, (inspection.montage_id,))
    if montage is None or montage.state is not MontageState.NOTICED:
        raise StaleInspection
    if montage.identity.matches(inspection.read):
        return montage
    if montage.identity != inspection.noticed:
        raise StaleInspection
    if inspection.read is not None:  # the file changed after the last sighting, and no scan has found it since
        set_identity(connection, montage.id, inspection.read)
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


def _merge(connection: Connection, montage: Montage, same: Montage) -> None:
    """Delete the newer of two rows of one content; the older one gets its identity and sighting number."""
    sighted = connection.execute("SELECT sighted FROM montages WHERE id = ?", (montage.id,)).fetchone()[0]
    connection.execute("UPDATE montages SET superseded_by = ? WHERE superseded_by = ?", (same.id, montage.id))
    connection.execute("DELETE FROM montages WHERE id = ?", (montage.id,))
    set_identity(connection, same.id, montage.identity)
    connection.execute("UPDATE montages SET sighted = ? WHERE id = ?", (sighted, same.id))
