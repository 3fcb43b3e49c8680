"""`temwatch journal backup`: copy the journal while the daemon uses it."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from daemon.journal.file import COMPANIONS, connect_read_only, journal_fault, remove_journal, sync
from daemon.pipeline.replay.lookup import NotSelectable
from handlers.errors import Fault, SettingsFault, storage_fault
from handlers.text import printable


def back_up(journal: Path, target: Path) -> int:
    """Copy the journal while it is in use; return the number of montages in it.

    The copy gets its name only when it is complete and checked. An existing file is replaced only if it is a journal.

    Raises
    ------
    NotSelectable
        If the target is invalid.
    Fault
        If the journal is missing or damaged, or if the copy cannot be written.
    """
    _require_target(journal, target)
    if not journal.exists():
        raise SettingsFault("journal.path", f"{journal} does not exist", "nothing was recorded yet")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with closing(connect_read_only(journal)) as source, closing(sqlite3.connect(unfinished)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file, without -wal and -shm
            result = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if result != "ok":
                raise sqlite3.DatabaseError(result.splitlines()[-1])
            montages = int(copy.execute("SELECT count(*) FROM montages").fetchone()[0])
        sync(unfinished)
        unfinished.replace(target)
        sync(target.parent)
    except sqlite3.DatabaseError as error:
        raise journal_fault(journal, error) from error
    except OSError as error:
        raise storage_fault(str(target), "write the back-up", error) from error
    finally:
        remove_journal(unfinished)
    return montages


def _require_target(journal: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise NotSelectable("FILE", f"{printable(target.parent)} is not a directory")
    taken = {Path(f"{journal.resolve()}{suffix}") for suffix in (*COMPANIONS, ".lock")}
    if target.resolve() in taken:
        raise NotSelectable("FILE", f"{printable(target)} is the journal itself", "name another file")
    if target.exists() and not _is_journal(target):
        raise NotSelectable("FILE", f"{printable(target)} exists and is not a back-up", "name another file")


def _is_journal(path: Path) -> bool:
    try:
        connect_read_only(path).close()
    except (sqlite3.DatabaseError, Fault):
        return False
    return True
