"""`temwatch journal check`: before an upgrade, migrate a copy of the journal and read it."""

import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from daemon.journal.copies import copy_journal, remove_journal
from daemon.journal.faults import journal_fault
from daemon.journal.file import connect_read_only
from daemon.journal.migration import MIGRATIONS, migrate
from daemon.journal.tables import rows, tile_sets
from daemon.journal.transaction import Connection
from handlers.errors import Fault, SettingsFault, StorageFault, storage_fault
from handlers.text import byte_size, printable

ROOM = 2.5
"""Needed free space as a multiple of the journal's size: for the copy and its migration."""


@dataclass(frozen=True, slots=True)
class Check:
    """Result of a successful check."""

    version: int
    """Version of the journal."""
    montages: int
    """Number of montages before the migration."""
    montages_after: int
    """Number after it; lower if a migration removes obsolete rows."""
    size: int
    """Bytes of the migrated copy."""
    seconds: float
    """Duration of the migration, seconds."""

    def lines(self, journal: Path) -> list[str]:
        """Return the lines that the command prints."""
        size, present = byte_size(self.size), len(MIGRATIONS)
        if self.version == present:
            return [f"{printable(journal)} has version {present}, that of this temwatch: nothing is migrated"]
        number = f"{self.montages} montages" + (
            ""
            if self.montages == self.montages_after
            else f", {self.montages_after} after the removal of obsolete sightings"
        )
        return [
            f"{printable(journal)} has version {self.version}; this temwatch migrates it to version {present}",
            f"a copy was migrated in {self.seconds:.1f} s and is intact: {number}, {size}",
            "the journal is unchanged: back it up, then start this temwatch",
        ]


def check(journal: Path) -> Check:
    """Copy the journal into its directory, migrate the copy, read all of it, and remove it. The daemon may run.

    Raises
    ------
    Fault
        If the journal is missing, damaged or of a newer version, if the copy cannot be written, or if the migration
        fails or damages the copy.
    """
    if not journal.exists():
        raise SettingsFault("journal.path", f"{printable(journal)} does not exist", "nothing was recorded yet")
    _require_room(journal)
    copy = journal.with_name(f".{journal.name}.check")
    remove_journal(copy)
    try:
        with closing(connect_read_only(journal)) as source:
            montages = copy_journal(source, journal, copy)
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            return _migrate_and_read(connection, copy, montages)
    except sqlite3.DatabaseError as error:
        raise journal_fault(journal, error) from error
    except OSError as error:
        raise storage_fault(str(copy), "write a copy of the journal", error) from error
    finally:
        remove_journal(copy)


def _require_room(journal: Path) -> None:
    needed, free = round(journal.stat().st_size * ROOM), shutil.disk_usage(journal.parent).free
    if free < needed:
        problem = f"{byte_size(free)} are free, and the check needs {byte_size(needed)}; so does the upgrade itself"
        raise StorageFault(str(journal.parent), problem, "free space on its disk")


def _migrate_and_read(connection: Connection, copy: Path, montages: int) -> Check:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    began = time.monotonic()
    try:
        migrate(connection, copy)
    except sqlite3.Error as error:
        reached = connection.execute("PRAGMA user_version").fetchone()[0]
        raise _bug(f"cannot be migrated from version {reached} to version {reached + 1}: {error}") from error
    seconds = time.monotonic() - began
    for pragma, right in (("integrity_check", [("ok",)]), ("foreign_key_check", [])):
        if (found := connection.execute(f"PRAGMA {pragma}").fetchall()) != right:
            raise _bug(f"is damaged after its migration: {found[0]}")
    after = _read_all(connection)
    return Check(version, montages, after, copy.stat().st_size, seconds)


def _read_all(connection: Connection) -> int:
    """Read every montage with its tile ids and events; return the number of montages."""
    number = 0
    for row in connection.execute(f"SELECT {rows.COLUMNS} FROM montages").fetchall():  # noqa: S608  constant text
        try:
            tile_sets.tile_ids(connection, rows.montage_of(row).id)
            rows.events(connection, row[0])
        except Exception as error:
            raise _bug(
                f"montage {row[0]} cannot be read after the migration: {type(error).__name__}: {error}"
            ) from error
        number += 1
    return number


def _bug(problem: str) -> Fault:
    hint = "do not upgrade: this is a bug of temwatch; report it with a copy made by `temwatch journal backup`"
    return SettingsFault("journal.path", problem, hint)
