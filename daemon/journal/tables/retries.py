"""Resume montages by retry or replay, and dismiss them."""

from daemon.journal.tables.rows import (
    BY_ID,
    CHANGED,
    LATEST_OF_PATH,
    Connection,
    find,
    is_latest_of_path,
    need,
    record,
)
from daemon.montages.records import AwaitedFile, Montage
from daemon.montages.states import Event, MontageState, Step, replay_start
from handlers.errors import Evidence
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri, uri_to_path

_AWAITED = (
    "SELECT id, watch, metafile, awaited.file, or_gone, awaited.size, awaited.mtime_ns, awaited.ctime_ns,"
    " awaited.inode FROM awaited JOIN montages ON id = montage_id ORDER BY acquired, id"
)
_HAS_EVENT_SINCE = (
    "SELECT 1 FROM montages JOIN outbox ON subject = 'montages/' || id WHERE metafile = ? AND number > ? LIMIT 1"
)
_REPLAYABLE = (MontageState.COMPLETE, MontageState.FAILED, MontageState.DISMISSED)


def await_change(
    connection: Connection, montage_id: int, evidence: Evidence | None, events_before: int | None = None
) -> None:
    """Store the file whose change makes the daemon retry the montage.

    Parameters
    ----------
    events_before : as for Inspection. If a montage of the file had an event since, it may have released the tiles or
        the stack before this montage began to wait for that. Then the file counts as changed.
    """
    if evidence is None:
        return
    identity = evidence.identity
    if evidence.or_gone and events_before is not None:
        values = path_to_uri(evidence.path), events_before
        identity = CHANGED if connection.execute(_HAS_EVENT_SINCE, values).fetchone() else identity
    connection.execute(
        "INSERT OR REPLACE INTO awaited (montage_id, file, size, mtime_ns, ctime_ns, inode, or_gone)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (montage_id, path_to_uri(evidence.path), *(identity or (None,) * 4), evidence.or_gone),
    )


def awaited(connection: Connection) -> list[AwaitedFile]:
    """Return every montage that waits for a file to change, with that file."""
    return [
        AwaitedFile(
            montage_id,
            watch,
            uri_to_path(metafile),
            Evidence(uri_to_path(file), None if identity[0] is None else FileIdentity(*identity), bool(or_gone)),
        )
        for montage_id, watch, metafile, file, or_gone, *identity in connection.execute(_AWAITED)
    ]


def withdraw(connection: Connection, refused: AwaitedFile, now: float) -> bool:
    """Supersede a montage whose metafile is gone and that was not ingested because of another metafile.

    Returns whether the montage was superseded.
    """
    montage = find(connection, BY_ID, (refused.montage_id,))
    other = find(connection, LATEST_OF_PATH, (path_to_uri(refused.evidence.path),))
    if montage is None or montage.state not in (MontageState.FAILED, MontageState.IGNORED) or other is None:
        return False
    because = f"its metafile is gone; it was not ingested because of {refused.evidence.path}"
    record(connection, montage.id, Event.SUPERSEDED, now, {"by": other.id, "because": because})
    return True


def retry(connection: Connection, montage_id: int, because: str, now: float) -> Montage | None:
    """Resume a FAILED or IGNORED montage where it stopped; return it, None if it cannot be resumed."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in (MontageState.FAILED, MontageState.IGNORED):
        return None
    is_read_again = montage.state is MontageState.IGNORED or montage.failed_in is MontageState.NOTICED
    if is_read_again and not is_latest_of_path(connection, montage):
        return None
    event = Event.RETRIED if montage.state is MontageState.FAILED else Event.RENOTICED
    return record(connection, montage_id, event, now, {"because": because})


def dismiss(
    connection: Connection, montage_id: int, reason: str, now: float, user: str | None, state: MontageState
) -> Montage | None:
    """Dismiss a montage; return it, None if it is not in this state."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state is not state:
        return None
    (fault,) = connection.execute("SELECT fault FROM montages WHERE id = ?", (montage_id,)).fetchone()
    record(connection, montage_id, Event.DISMISSED, now, {"reason": reason, **_by(user)})
    connection.execute("UPDATE montages SET fault = ?, waiting_for = ? WHERE id = ?", (fault, reason, montage_id))
    return need(connection, montage_id)


def replay(connection: Connection, montage_id: int, step: Step, now: float, user: str | None = None) -> Montage | None:
    """Reset a COMPLETE, FAILED or DISMISSED montage to a step; return it, None if it cannot be replayed."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in _REPLAYABLE:
        return None
    start = replay_start(montage.state, montage.failed_in, step)
    if start is MontageState.NOTICED and not is_latest_of_path(connection, montage):
        return None
    return record(connection, montage_id, Event.REPLAYED, now, {"onto": start, "from": step, **_by(user)})


def _by(user: str | None) -> dict[str, str]:
    return {} if user is None else {"by": user}
