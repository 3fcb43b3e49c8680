"""`temwatch journal backup`: copy the journal, through the daemon if it runs."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from daemon.commands.daemon_client import download
from daemon.journal.copies import check_copy, copy_journal, remove_journal
from daemon.journal.faults import journal_fault
from daemon.journal.file import COMPANIONS, connect_read_only, create_private, sync
from daemon.pipeline.replay.lookup import NotSelectable
from handlers.errors import Fault, SettingsFault, storage_fault
from handlers.text import printable

COPYING_S = 600.0
"""Time-out of the daemon's response, which starts after it has copied the journal."""


def back_up(journal: Path, target: Path, urls: Sequence[str] = (), token: str | None = None) -> int:
    """Copy the journal; return the number of montages in the copy.

    A running daemon makes the copy, since it can also copy a journal whose file was deleted. Without a daemon the file
    is read. The copy gets its name after it is complete and checked. An existing file is replaced only if it is a
    journal.

    Parameters
    ----------
    target : file of the copy.
    urls : addresses where the daemon may listen.
    token : token for POST requests, if there is one.

    Raises
    ------
    NotSelectable
        If the target is invalid.
    Fault
        If the journal is missing or damaged, or if the copy cannot be written.
    """
    unfinished = target.with_name(f".temwatch-backup.{os.getpid()}.tmp")  # short: a name has at most 255 bytes
    try:
        _require_target(journal, target)
        montages = _copy(journal, unfinished, urls, token)
        sync(unfinished)
        unfinished.replace(target)
        sync(target.parent)
    except OSError as error:
        raise storage_fault(str(target), "write the back-up", error) from error
    finally:
        with suppress(OSError):  # the directory cannot be accessed, so it holds no unfinished copy
            remove_journal(unfinished)
    return montages


def _copy(journal: Path, unfinished: Path, urls: Sequence[str], token: str | None) -> int:
    hint = "nothing was recorded yet"
    for url in urls:
        remove_journal(unfinished)
        create_private(unfinished)
        status, reason = download(f"{url}/api/journal/backup", {"journal": str(journal)}, token, unfinished, COPYING_S)
        if status == 200:
            return check_copy(unfinished, journal)
        if status:
            hint = f"the daemon at {url} refused to copy it: {printable(reason)}"
    remove_journal(unfinished)
    if not journal.exists():
        raise SettingsFault("journal.path", f"{journal} does not exist", hint)
    try:
        with closing(connect_read_only(journal)) as source:
            return copy_journal(source, journal, unfinished)
    except sqlite3.DatabaseError as error:
        raise journal_fault(journal, error) from error


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
