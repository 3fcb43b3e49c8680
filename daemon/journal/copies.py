"""Make, check and remove copies of a journal."""

import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.journal.faults import journal_fault
from daemon.journal.file import COMPANIONS, create_private, quick_check
from daemon.journal.transaction import Connection


def copy_journal(source: Connection, path: Path, target: Path) -> int:
    """Copy an open journal to a new file, without -wal and -shm; return the number of montages in it.

    Raises
    ------
    UnusableJournal
        If the copy is damaged.
    StorageFault, OSError
        If the copy cannot be written.
    """
    create_private(target)
    try:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.DatabaseError as error:
        raise journal_fault(path, error) from error
    return check_copy(target, path)


def check_copy(copy: Path, journal: Path | None = None) -> int:
    """Return the number of montages in a copy of a journal. Raises UnusableJournal if it is damaged.

    Parameters
    ----------
    journal : the file that the fault names, if the copy is a temporary one.
    """
    try:
        with closing(sqlite3.connect(copy)) as connection:
            result = quick_check(connection, "integrity_check")
            if result != "ok":
                raise sqlite3.DatabaseError(result.splitlines()[-1])
            return int(connection.execute("SELECT count(*) FROM montages").fetchone()[0])
    except sqlite3.DatabaseError as error:
        raise journal_fault(journal or copy, error) from error


def remove_journal(path: Path) -> None:
    """Remove a journal and its companions, if they exist."""
    for companion in COMPANIONS:
        Path(f"{path}{companion}").unlink(missing_ok=True)
