"""The journal's file: open it, examine it, create it, and detect that it was deleted."""

import os
import sqlite3
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from daemon.journal.faults import HINTS, PLACE_HINT, UnusableJournal, damaged
from daemon.journal.migration import migrate, version_of
from daemon.journal.transaction import Connection
from handlers.errors import StorageFault

BUSY_S = 10.0
"""Time after which a lock of another connection becomes a fault; also the wait of an opening connection."""
BRIEFLY_BUSY_S = 0.5
"""Longest wait of one transaction for a lock, since its thread is blocked meanwhile."""
COMPANIONS = ("", "-wal", "-shm", "-journal")
"""Suffixes of the files of a journal."""

Examination = Future[str]
"""Result of SQLite's `quick_check`; "ok" if the journal is whole."""


def examine_ahead(path: Path) -> Examination:
    """Start the examination in a thread, so that the process can import modules meanwhile.

    It takes 0.5 s for 100,000 montages and releases the GIL. It needs no lock: it only reads, and only the process that
    holds the journal's lock calls `connect`.
    """
    examination: Examination = Future()

    def run() -> None:
        try:
            with closing(_open(path, f"file:{quote(str(path))}?mode=rw")) as connection:
                examination.set_result(quick_check(connection))
        except BaseException as error:  # noqa: BLE001  raised again in `connect`
            examination.set_exception(error)

    threading.Thread(target=run, name="journal examination", daemon=True).start()
    return examination


def connect(path: Path, examination: Examination | None = None) -> Connection:
    """Return a connection to the journal at `path`: created if absent, examined, migrated to the present version.

    A new journal gets its name only when it is complete, so an empty file with this name is a damaged journal.

    Parameters
    ----------
    examination : an examination of this file that is already running.

    Raises
    ------
    UnusableJournal
        If the file is damaged, of a newer version, or not a journal.
    StorageFault, sqlite3.OperationalError
        If the file cannot be opened or written.
    """
    if not path.exists():
        _create(path)
        examination = None
    _require_usable(path)
    connection = _open(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # fails now, not at the first metafile, if the file cannot be written
        connection.execute("COMMIT")
        _examine(connection, path, examination)
        migrate(connection, path)
        _wait_briefly(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def examine(path: Path) -> None:
    """Raise the fault that `connect` would raise because of the file's content or mode. Changes no file.

    Raises
    ------
    UnusableJournal, StorageFault, sqlite3.DatabaseError
        As `connect`.
    """
    if not path.exists():
        _require_no_companion(path)
        return
    _require_usable(path)
    if _has_wal(path) and not Path(f"{path}-shm").exists():
        return  # SQLite would create it
    with closing(connect_unchanged(path)) as connection:
        _examine(connection, path, None)


def connect_unchanged(path: Path) -> Connection:
    """Return a connection that reads an existing journal and changes no file, not even -wal or -shm.

    Raises the same faults as `connect`; OperationalError also if -wal has content and -shm is missing.
    """
    # With a read-only -shm SQLite keeps the index of -wal in memory; without -wal it needs none.
    access = "readonly_shm=1" if _has_wal(path) else "immutable=1"
    return _open_read_only(path, f"file:{quote(str(path))}?mode=ro&{access}")


def _has_wal(path: Path) -> bool:
    wal = Path(f"{path}-wal")
    return wal.exists() and wal.stat().st_size > 0


def connect_beside(path: Path) -> Connection:
    """Return a second connection, for reading, to a journal that `connect` has opened."""
    connection = _open(path)
    connection.execute("PRAGMA query_only = ON")
    connection.execute(
        "PRAGMA user_version"
    ).fetchone()  # opens the files now, so that a later deletion does not matter
    _wait_briefly(connection)
    return connection


def _wait_briefly(connection: Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BRIEFLY_BUSY_S * 1000:.0f}")


def connect_read_only(path: Path) -> Connection:
    """Return a connection that cannot write to an existing journal. Raises the same faults as `connect`."""
    where = quote(str(path))
    try:
        return _open_read_only(path, f"file:{where}?mode=ro")
    except sqlite3.OperationalError:
        if Path(f"{path}-wal").exists():
            raise
    # No process has it open, and the directory is read-only: SQLite cannot create its -wal and -shm files there.
    return _open_read_only(path, f"file:{where}?mode=ro&immutable=1")


def _open_read_only(path: Path, uri: str) -> Connection:
    connection = _open(path, uri)
    try:
        if version_of(connection, path) == 0:
            raise damaged(path, "it holds no tables")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: Path, uri: str = "") -> Connection:
    if path.is_dir():
        raise UnusableJournal("journal.path", f"{path} is a directory", "name a file in it")
    connection = sqlite3.connect(
        uri or path, isolation_level=None, check_same_thread=False, timeout=BUSY_S, uri=bool(uri)
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _require_usable(path: Path) -> None:
    if path.stat().st_size == 0:
        raise damaged(path, "it is empty")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StorageFault(str(path), "the journal cannot be written", HINTS[sqlite3.SQLITE_READONLY])


def _require_no_companion(path: Path) -> None:
    for companion in ("-wal", "-journal"):
        if Path(f"{path}{companion}").exists():
            raise damaged(path, f"it is missing, but its {companion} file exists")


def _create(path: Path) -> None:
    """Create an empty journal under another name, then rename it."""
    _require_no_companion(path)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    try:
        create_private(unfinished)
    except OSError as error:
        raise StorageFault(str(path), f"the journal cannot be created: {error.strerror}", PLACE_HINT) from error
    with closing(_open(unfinished)) as connection:
        migrate(connection, unfinished)
    unfinished.rename(path)


class OpenFile(NamedTuple):
    """A file of the open journal."""

    path: Path
    device: int
    inode: int


def open_files(path: Path) -> tuple[OpenFile, ...]:
    """Return the journal's file and its -wal, which exists while the journal is open for writing."""
    stats = [(each, each.stat()) for each in (path, Path(f"{path}-wal"))]
    return tuple(OpenFile(each, status.st_dev, status.st_ino) for each, status in stats)


def are_in_place(files: Iterable[OpenFile]) -> bool:
    """Whether each file still has its path."""
    return all(_is_in_place(file) for file in files)


def _is_in_place(file: OpenFile) -> bool:
    try:
        status = file.path.stat()
    except FileNotFoundError:
        return False
    except OSError:  # the directory cannot be accessed now, which proves nothing about the file
        return True
    return (status.st_dev, status.st_ino) == (file.device, file.inode)


def create_private(path: Path) -> None:
    """Create an empty file that other users cannot read; SQLite gives its -wal and -shm the same mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))


def sync(path: Path) -> None:
    """Wait until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _examine(connection: Connection, path: Path, examination: Examination | None) -> None:
    if version_of(connection, path) == 0:
        raise damaged(path, "it holds no tables")
    found = examination.result() if examination else quick_check(connection)
    if found != "ok":
        raise damaged(path, found.splitlines()[-1])


def quick_check(connection: Connection, pragma: str = "quick_check") -> str:
    """Return the first problem that SQLite's check of the whole file finds; "ok" if there is none."""
    return str(connection.execute(f"PRAGMA {pragma}(1)").fetchone()[0])
