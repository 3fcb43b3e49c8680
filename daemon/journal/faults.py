"""Faults of the journal, and the translation of SQLite's errors into them."""

import sqlite3
from pathlib import Path

from handlers.errors import Fault, SettingsFault, StorageFault

PLACE_HINT = "check that its directory exists on a local disk, has free space, and is writable for the service's user"
HINTS = {
    sqlite3.SQLITE_BUSY: "another program has locked it, an sqlite3 shell for example: end that program",
    sqlite3.SQLITE_READONLY: "let the service's user write the file and its directory; mount its disk writable",
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR: "check the disk's health",
}
"""Hints by SQLite's primary result code."""


class UnusableJournal(SettingsFault):
    """The journal's file is damaged, of a newer version, or not a journal.

    A restart does not help: an operator has to choose between a back-up and a rebuild.
    """

    exit_code = 2


class JournalLocked(StorageFault):
    """Another program has locked the journal."""


def journal_fault(path: Path, error: sqlite3.DatabaseError) -> Fault:
    """Return the fault for an error of SQLite. Raises the error itself if it is a bug of this program."""
    if isinstance(error, sqlite3.OperationalError):
        if _code(error) == sqlite3.SQLITE_ERROR:  # a table or column of every journal is missing
            return foreign(path, str(error))
        hint = HINTS.get(_code(error), PLACE_HINT)
        kind = JournalLocked if _code(error) == sqlite3.SQLITE_BUSY else StorageFault
        return kind(str(path), f"the journal cannot be used: {error}", hint)
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        raise error  # a bug of this program, not a damaged file
    return damaged(path, str(error))


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; 0 if Python's module raised the error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def foreign(path: Path, reason: str) -> UnusableJournal:
    """Return the fault for a database of another program."""
    return UnusableJournal(
        "journal.path", f"{path} is an SQLite database but not a journal: {reason}", "name another file"
    )


def damaged(path: Path, reason: str) -> UnusableJournal:
    """Return the fault for a damaged journal."""
    hint = "restore a back-up, or run `temwatch journal rebuild`; it keeps the damaged file under another name"
    return UnusableJournal("journal.path", f"{path} is a damaged journal: {reason}", hint)


def deleted_fault(path: Path) -> StorageFault:
    """Return the fault for a journal whose file was deleted or replaced while open."""
    return StorageFault(
        str(path),
        "the journal's file was deleted or replaced while the daemon uses it",
        "save it with `temwatch journal backup FILE`, stop the daemon, delete -wal and -shm beside this path, "
        "move FILE to this path, start the daemon",
    )
