"""The journal's file: opened, examined, made, migrated; what its faults mean."""

import os
import sqlite3
import threading
from concurrent.futures import Future
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from handlers.errors import Fault, SettingsFault, StorageFault

Connection = sqlite3.Connection


class UnusableJournal(SettingsFault):
    """The journal's file is damaged, of a newer version, or something else. Starting again does not help: a person has
    to choose between a back-up and rebuilding."""

    exit_code = 2


class JournalLocked(StorageFault):
    """Another program has locked the journal."""


BUSY_S = 10.0
"""How long another connection's lock is waited for before it is told of, and while the journal is opened."""
BRIEFLY_BUSY_S = 0.5
"""How long one transaction waits for it: meanwhile its thread does nothing else."""
MIGRATIONS: tuple[str, ...] = tuple(
    file.read_text(encoding="utf-8")
    for file in sorted(files("daemon.journal").joinpath("migrations").iterdir(), key=lambda file: file.name)
)
"""SQL that takes the journal from version n to n + 1; `PRAGMA user_version` holds n."""


Examination = Future[str]
"""What SQLite's `quick_check` says of a journal; "ok" if it is whole."""


def examine_ahead(path: Path) -> Examination:
    """An examination begun in a thread, for `connect` to wait for: half a second for 100,000 montages, without Python.

    It needs no lock of ours: it writes nothing, and reads what the last transaction left. Whoever gets the lock
    afterwards had nobody write in between, or is refused it.
    """
    examination: Examination = Future()

    def run() -> None:
        try:
            with closing(_open(path, f"file:{quote(str(path))}?mode=rw")) as connection:
                examination.set_result(_quick_check(connection))
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            examination.set_exception(error)

    threading.Thread(target=run, name="journal examination", daemon=True).start()
    return examination


def connect(path: Path, examination: Examination | None = None) -> Connection:
    """A connection to the journal at `path`, made if it is not there, examined, migrated to the present version.

    A new journal gets its name when it is whole, so that an empty file of this name is always a damaged one.

    Parameters
    ----------
    examination : one that was begun ahead, when this process had no reason yet to write the journal.

    Raises
    ------
    UnusableJournal
        If it is damaged, of a newer version, or something else than a journal.
    StorageFault, sqlite3.OperationalError
        If it cannot be opened or written.
    """
    if not path.exists():
        _make(path)
        examination = None
    elif path.stat().st_size == 0:
        raise _damaged(path, "it is empty")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StorageFault(str(path), "the journal cannot be written", _HINTS[sqlite3.SQLITE_READONLY])
    connection = _open(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")  # what cannot be written is found out now, not at the first metafile
        connection.execute("COMMIT")
        _examine(connection, path, examination)
        migrate(connection, path)
        _wait_briefly(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_beside(path: Path) -> Connection:
    """A connection for reading beside one that writes, in a journal that `connect` has opened."""
    connection = _open(path)
    connection.execute("PRAGMA query_only = ON")
    _wait_briefly(connection)
    return connection


def _wait_briefly(connection: Connection) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BRIEFLY_BUSY_S * 1000:.0f}")


def connect_read_only(path: Path) -> Connection:
    """A connection that cannot write, to a journal that is there.

    Raises as `connect` does.
    """
    where = quote(str(path))
    try:
        return _open_read_only(path, f"file:{where}?mode=ro")
    except sqlite3.OperationalError:
        if Path(f"{path}-wal").exists():
            raise
    # Nobody has it open, and nothing can be made beside it, as SQLite would like to.
    return _open_read_only(path, f"file:{where}?mode=ro&immutable=1")


def _open_read_only(path: Path, uri: str) -> Connection:
    connection = _open(path, uri)
    try:
        if _version(connection, path) == 0:
            raise _damaged(path, "it holds no tables")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: Path, uri: str = "") -> Connection:
    connection = sqlite3.connect(
        uri or path, isolation_level=None, check_same_thread=False, timeout=BUSY_S, uri=bool(uri)
    )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _make(path: Path) -> None:
    """An empty journal, whole before it has its name."""
    for left in ("-wal", "-journal"):
        if Path(f"{path}{left}").exists():
            raise _damaged(path, f"it is gone, but its {left} file is there")
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    with closing(_open(unfinished)) as connection:
        migrate(connection, unfinished)
    unfinished.rename(path)


def _version(connection: Connection, path: Path) -> int:
    """The journal's version; 0 for a file without tables."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(MIGRATIONS):
        raise UnusableJournal(
            "journal.path",
            f"{path} was written by a newer temwatch (journal version {version}, this one knows {len(MIGRATIONS)})",
            "run the newer temwatch, or restore a back-up made before the upgrade",
        )
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and (version == 0 or "montages" not in tables):
        raise _foreign(path, "its tables are others")
    return version if tables else 0


def _examine(connection: Connection, path: Path, examination: Examination | None) -> None:
    if _version(connection, path) == 0:
        raise _damaged(path, "it holds no tables")
    found = examination.result() if examination else _quick_check(connection)
    if found != "ok":
        raise _damaged(path, found.splitlines()[-1])


def _quick_check(connection: Connection) -> str:
    return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])


def migrate(connection: Connection, path: Path) -> None:
    """Brings an older journal up to the present version, one version a transaction.

    Raises
    ------
    UnusableJournal
        If the journal is of a newer version than this program knows, or no journal.
    """
    version = _version(connection, path)
    for following, script in enumerate(MIGRATIONS[version:], start=version + 1):
        # executescript commits what is open, so the transaction stands inside the script.
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {following};\nCOMMIT;")


class transaction:  # noqa: N801  reads as a statement
    """`with transaction(connection)`: all of it is committed, or nothing."""

    def __init__(self, connection: Connection, *, read_only: bool = False) -> None:
        self._connection = connection
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    def __enter__(self) -> Connection:
        self._connection.execute(self._begin)
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._connection.execute("COMMIT")
        elif self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


_HINTS = {
    sqlite3.SQLITE_BUSY: "another program holds it, an sqlite3 shell perhaps: end it",
    sqlite3.SQLITE_READONLY: "let the service's user write it and its directory, on a disk that is mounted writable",
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR: "look at the disk's health",
}
"""By SQLite's primary result code."""


def journal_fault(path: Path, error: sqlite3.DatabaseError) -> Fault:
    """The fault that an error of SQLite stands for."""
    if isinstance(error, sqlite3.OperationalError):
        if _code(error) == sqlite3.SQLITE_ERROR:  # a table or column that every journal has is not there
            return _foreign(path, str(error))
        hint = "see that its directory exists, is writable by the service's user, has free space, and is a local disk"
        hint = _HINTS.get(_code(error), hint)
        kind = JournalLocked if _code(error) == sqlite3.SQLITE_BUSY else StorageFault
        return kind(str(path), f"the journal cannot be used: {error}", hint)
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        raise error  # our bug, not the file's
    return _damaged(path, str(error))


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the module itself raised the error."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _foreign(path: Path, how: str) -> UnusableJournal:
    return UnusableJournal("journal.path", f"{path} is a database, but not a journal: {how}", "name another file")


def _damaged(path: Path, how: str) -> UnusableJournal:
    hint = "restore a back-up, or run `temwatch journal rebuild`, which keeps the damaged file under another name"
    return UnusableJournal("journal.path", f"{path} is not a whole journal: {how}", hint)
