"""Record sightings of metafiles.

A path has one row for each content that it held. At most one of these rows is unread, which means that it has no
digest. The row with the highest `sighted` represents the present content; when a former content returns, its row gets
the highest number.
"""

from daemon.journal.tables.outbox import announce_montage
from daemon.journal.tables.rows import (
    BY_ID,
    COLUMNS,
    LATEST_OF_PATH,
    Connection,
    find,
    insert_event,
    is_latest_of_path,
    need,
    record,
)
from daemon.montages.records import Montage
from daemon.montages.sighting import Sighting
from daemon.montages.states import UNFINISHED, Event, MontageState, advance
from handlers.acquisition.retakes import is_later_take
from handlers.identity import FileIdentity
from handlers.uris import path_to_uri

_UNREAD = f"SELECT {COLUMNS} FROM montages WHERE metafile = ? AND digest IS NULL"  # noqa: S608  constant text


def notice(connection: Connection, sighting: Sighting, now: float, *, force: bool = False) -> int | None:
    """Return the id of the montage that the sighting creates or resets to NOTICED; None if the file is known.

    Parameters
    ----------
    force : whether a known file is noticed, too.
    """
    metafile = path_to_uri(sighting.path)
    latest = find(connection, LATEST_OF_PATH, (metafile,))
    # The latest row of a path is SUPERSEDED only if its file was moved away, so a sighting means that it is back. The
    # exception is a slice that was imaged again: its file has stayed.
    is_known = (
        latest is not None
        and (latest.state is not MontageState.SUPERSEDED or _was_imaged_again(connection, latest))
        and _is_unchanged(connection, latest, sighting.identity)
    )
    if is_known and not force:
        return None
    unread = find(connection, _UNREAD, (metafile,))
    if unread is None:
        montage_id = insert(connection, sighting, metafile, now)
        announce_montage(connection, Event.NOTICED, need(connection, montage_id), {}, now)
        return montage_id
    if is_known and unread.state is MontageState.NOTICED:
        return unread.id
    set_identity(connection, unread.id, sighting.identity)
    connection.execute(
        "UPDATE montages SET watch = ?, seen_digest = NULL, sighted = ? WHERE id = ?",
        (sighting.watch, _next_sighted(connection, metafile), unread.id),
    )
    record(connection, unread.id, Event.RENOTICED, now, {"found_by": str(sighting.found_by)})
    return unread.id


def notice_changed(connection: Connection, montage_id: int, sighting: Sighting, now: float) -> int | None:
    """Return the id of the montage for the new content of an unfinished montage's metafile; None if outdated."""
    montage = find(connection, BY_ID, (montage_id,))
    if montage is None or montage.state not in UNFINISHED or not is_latest_of_path(connection, montage):
        return None
    return notice(connection, sighting, now, force=True)


def insert(connection: Connection, sighting: Sighting, metafile: str, now: float) -> int:
    """Return the id of a new NOTICED montage."""
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


def set_identity(connection: Connection, montage_id: int, identity: FileIdentity) -> None:
    """Store the file identity of a montage's metafile."""
    connection.execute(
        "UPDATE montages SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ? WHERE id = ?", (*identity, montage_id)
    )


def _was_imaged_again(connection: Connection, montage: Montage) -> bool:
    """Whether a later take of the same slice superseded a montage and is not superseded itself."""
    row = connection.execute("SELECT superseded_by FROM montages WHERE id = ?", (montage.id,)).fetchone()
    later = find(connection, BY_ID, (row[0],)) if row[0] is not None else None
    return (
        later is not None
        and later.state is not MontageState.SUPERSEDED
        and is_later_take(later.metafile, montage.metafile)
    )


def _is_unchanged(connection: Connection, montage: Montage, identity: FileIdentity) -> bool:
    """Whether a file has the noticed identity. A row without a change time gets that of the file."""
    if not identity.matches(montage.identity):
        return False
    if montage.identity.ctime_ns is None:
        set_identity(connection, montage.id, identity)
    return True


def _next_sighted(connection: Connection, metafile: str) -> int:
    query = "SELECT 1 + coalesce(max(sighted), 0) FROM montages WHERE metafile = ?"
    return int(connection.execute(query, (metafile,)).fetchone()[0])
