"""What is remembered: montages, their events and attempts, in one SQLite file.

One thread owns the connection; callers await closures run on it. The event and the state that follows from it commit
together, with `synchronous=FULL`: what the journal has acknowledged survives a crash of the process and of the machine.
"""

import asyncio
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote

import structlog

from daemon.states import UNFINISHED, Event, MontageState, Step, advance, replay_start
from daemon.watcher import Sighting
from handlers.errors import Evidence, Fault, SettingsFault, StorageFault
from handlers.uris import path_to_uri, uri_to_path

T = TypeVar("T")
Connection = sqlite3.Connection
Clock = Callable[[], float]

log = structlog.get_logger()

BUSY_S = 10.0
"""How long another connection's lock is waited for."""
RETRY_S = 2.0
"""Pause before a journal that could not be written is tried again."""
_FILES_AND_DIRECTORIES = """
-- The file that a FAILED montage waits for, as it was before it failed; NULL if it was not there.
CREATE TABLE awaited (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    file       TEXT NOT NULL,
    size       INTEGER,
    mtime_ns   INTEGER,
    inode      INTEGER
) STRICT;
-- Directories that mipmaps were written to: one that lacks its mark is not the same any more.
CREATE TABLE mipmap_directories (directory TEXT PRIMARY KEY, first_used_at REAL NOT NULL) STRICT;
-- The same content under another path is looked for whenever a metafile settles.
CREATE INDEX montages_by_digest ON montages (digest) WHERE digest IS NOT NULL;
"""
_TILE_SETS = """
-- The tileIds of a montage, zlib of the newline-separated text. Among the columns of its row they stood before others,
-- which then cost a walk over twelve pages each time that the row was read.
CREATE TABLE tile_sets (
    montage_id INTEGER PRIMARY KEY REFERENCES montages (id) ON DELETE CASCADE,
    tile_ids   BLOB NOT NULL
) STRICT;
INSERT INTO tile_sets SELECT id, tile_ids FROM montages WHERE tile_ids IS NOT NULL;
ALTER TABLE montages DROP COLUMN tile_ids;
"""
MIGRATIONS: tuple[str, ...] = (
    files("daemon").joinpath("schema.sql").read_text(encoding="utf-8"),
    # Every sighting asks for its metafile; each index of version 1 holds a part of the rows alone, and cannot answer.
    "CREATE INDEX montages_by_metafile ON montages (metafile, id);",
    _FILES_AND_DIRECTORIES,
    _TILE_SETS,
)
"""SQL that takes the journal from version n to n + 1; `PRAGMA user_version` holds n."""


class Outcome(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    """What it needs is not there yet."""
    STOPPED = "stopped"
    """The daemon was asked to stop."""
    CRASHED = "crashed"
    """The process died in it."""


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault as the journal and the web show it."""

    kind: str
    subject: str
    problem: str
    hint: str

    @classmethod
    def of(cls, fault: Fault) -> Self:
        return cls(type(fault).__name__, fault.subject, fault.problem, fault.hint)

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Montage:
    """One row of the journal: a metafile of one content."""

    id: int
    watch: str
    metafile: Path
    digest: str | None
    identity: tuple[int, int, int]
    """size in bytes, mtime in ns, inode: what stat said when the file was last noticed."""
    acquired: str
    """File name; sorts by acquisition time."""
    state: MontageState
    failed_in: MontageState | None
    z: float | None
    raw_stack: str | None
    """owner/project/stack."""
    mipmapped_stack: str | None
    tile_count: int | None
    findings: tuple[str, ...]
    fault: FaultRecord | None
    waiting_for: str | None
    attempt: int
    crashes: int
    noticed_at: float
    changed_at: float
    complete_at: float | None

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks it is written to, each once."""
        return tuple(dict.fromkeys(name for name in (self.raw_stack, self.mipmapped_stack) if name))


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling found out about a montage."""

    digest: str
    z: float
    raw_stack: str
    mipmapped_stack: str
    tile_ids: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settling:
    """How the journal took a settled metafile."""

    kept: int
    """The montage that goes on; another than the one that settled if the same content was known already."""
    superseded: tuple[int, ...]
    """Montages of the same path with other content, which go no further."""


_COLUMNS = (
    "id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, failed_in, z, raw_stack, mipmapped_stack,"
    " tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at"
)
# The newest row of a metafile: the content that the path held last.
_LATEST_OF_METAFILE = f"SELECT {_COLUMNS} FROM montages WHERE metafile = ? ORDER BY id DESC LIMIT 1"  # noqa: S608
# Every other row of the metafile that settled, newest first.
_OTHERS_OF_METAFILE = f"SELECT {_COLUMNS} FROM montages WHERE metafile = ? AND id <> ? ORDER BY id DESC"  # noqa: S608
_BY_ID = f"SELECT {_COLUMNS} FROM montages WHERE id = ?"  # noqa: S608
# Attempts that the last process began and never ended.
_CRASHED_ATTEMPTS = "SELECT montage_id FROM attempts WHERE ended_at IS NULL"
_UNFINISHED_STATES = ", ".join(f"'{state}'" for state in sorted(UNFINISHED))


class Journal:
    """The daemon's memory. Open it with `async with Journal(path) as journal`.

    Parameters
    ----------
    read_only : for looking at it, beside a running daemon too. Nothing is made, migrated or waited for.

    Raises
    ------
    SettingsFault
        If the file was written by a newer temwatch, is damaged, or is not a journal.
    StorageFault
        If it cannot be opened, or, unless it is opened for reading only, not be written.
    """

    def __init__(self, path: Path, clock: Clock = time.time, *, read_only: bool = False) -> None:
        self.path = path
        self._clock = clock
        self._read_only = read_only
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: Connection | None = None
        self.fault: StorageFault | None = None
        """Why the journal cannot be written now; None while it can."""

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _open(self) -> None:
        try:
            self._connection = connect_read_only(self.path) if self._read_only else connect(self.path)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def run(self, closure: Callable[[Connection], T]) -> T:
        """The closure's result, run on the journal's thread in one transaction.

        A journal that cannot be written (its disk is full, say) is waited for: what is to be remembered is not given
        up, and whoever has something to record does nothing else meanwhile.
        """
        while True:
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, closure)
            try:
                # An outcome that is being written is not given up because the one who waits for it is cancelled.
                result = await asyncio.shield(work)
            except StorageFault as fault:
                if self._read_only:
                    raise
                if self.fault is None:
                    log.error("journal.unwritable", fault=str(fault))
                self.fault = fault
                await asyncio.sleep(RETRY_S)
            else:
                self.fault = None
                return result

    def _transact(self, closure: Callable[[Connection], T]) -> T:
        if self._connection is None:
            raise RuntimeError("the journal is closed")
        try:
            with transaction(self._connection, read_only=self._read_only) as connection:
                return closure(connection)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error

    # --- what happens to a montage

    async def notice(self, sighting: Sighting) -> int | None:
        """Id of the montage that a sighting makes, or wakes; None if the journal knows this very file already."""
        return await self.run(lambda connection: _notice(connection, sighting, self._clock()))

    async def take_in(self, sighting: Sighting) -> int:
        """Id of the montage that a metafile makes because somebody asked for it, known to the journal or not.

        Settling finds out whether its content is known already.
        """
        montage_id = await self.run(lambda connection: _notice(connection, sighting, self._clock(), anew=True))
        assert montage_id is not None
        return montage_id

    async def replay(self, montage_id: int, step: Step) -> Montage | None:
        """The COMPLETE or FAILED montage as it is once all from this step on is to be done again.

        One that never came so far begins where it failed. None, and nothing is changed, if it is neither.
        """
        return await self.run(lambda connection: _replay(connection, montage_id, step, self._clock()))

    async def enter(self, sighting: Sighting, settled: Settled, state: MontageState, evidence: str) -> int:
        """Id of a montage that is entered into a new journal as what stacks and files prove it to be."""
        return await self.run(lambda connection: _enter(connection, sighting, settled, state, evidence, self._clock()))

    async def recognise(self, montage_id: int, digest: str) -> int | None:
        """Id of the montage that already stands for this content and needs nothing; None if there is none.

        The montage that asked is then dropped: it never was another one.
        """
        return await self.run(lambda connection: _recognise(connection, montage_id, digest, self._clock()))

    async def settle(self, montage_id: int, settled: Settled) -> Settling:
        """Records that a metafile has settled; the same path's other contents are superseded."""
        return await self.run(lambda connection: _settle(connection, montage_id, settled, self._clock()))

    async def record(self, montage_id: int, event: Event, **detail: object) -> Montage:
        """Records an event and the state that follows; the montage as it is then."""
        return await self.run(lambda connection: _record(connection, montage_id, event, self._clock(), detail))

    async def ignore(self, montage_id: int, reason: str, digest: str | None) -> None:
        """Records that the watch does not ingest this set, and why."""
        await self.run(lambda connection: _ignore(connection, montage_id, reason, digest, self._clock()))

    async def fail(self, montage_id: int, fault: Fault, *, digest: str | None = None) -> Montage:
        """Records that a montage failed, and why; `digest` is that of its content where settling got so far.

        Says so in the log, too, whichever part gave the montage up: in the words that status and web show.
        """
        montage = await self.run(lambda connection: _fail(connection, montage_id, fault, digest, self._clock()))
        log.error(
            "montage.failed",
            montage=montage.id,
            metafile=str(montage.metafile),
            z=montage.z,
            kind=type(fault).__name__,
            subject=fault.subject,
            problem=fault.problem,
            hint=fault.hint,
            failed_in=montage.failed_in,
            attempt=montage.attempt,
        )
        return montage

    async def wait(self, montage_id: int, reason: str) -> None:
        """Records what a montage is waiting for, one sentence."""
        await self.run(
            lambda connection: connection.execute(
                "UPDATE montages SET waiting_for = ? WHERE id = ? AND waiting_for IS NOT ?",
                (reason, montage_id, reason),
            )
        )

    async def awaited(self) -> list[tuple[int, str, Evidence]]:
        """(id, watch, the file that has to change) of every montage that FAILED of a file."""
        return await self.run(_awaited)

    async def twins(self, montage_id: int, digest: str) -> list[Montage]:
        """Montages under other paths that hold the same content, but for those that are done with."""
        return await self.run(lambda connection: _twins(connection, montage_id, digest))

    async def is_used_for_mipmaps(self, directory: Path) -> bool:
        """Whether mipmaps were ever written to a directory."""
        query = "SELECT 1 FROM mipmap_directories WHERE directory = ?"
        values = (path_to_uri(directory),)
        return await self.run(lambda connection: connection.execute(query, values).fetchone() is not None)

    async def use_for_mipmaps(self, directory: Path) -> None:
        """Records that mipmaps are about to be written to a directory."""
        values = (path_to_uri(directory), self._clock())
        await self.run(
            lambda connection: connection.execute("INSERT OR IGNORE INTO mipmap_directories VALUES (?, ?)", values)
        )

    # --- attempts

    async def begin_attempt(self, montage_id: int, step: Step) -> int:
        """Id of an attempt, journaled before it starts."""
        return await self.run(lambda connection: _begin_attempt(connection, montage_id, step, self._clock()))

    async def end_attempt(self, attempt_id: int, outcome: Outcome, fault: Fault | None = None) -> None:
        """Records how an attempt ended."""
        await self.run(lambda connection: _end_attempt(connection, attempt_id, outcome, fault, self._clock()))

    async def count_crashes(self) -> int:
        """Ends the attempts that the last process left behind, counting each against its montage; their number."""
        return await self.run(lambda connection: _count_crashes(connection, self._clock()))

    # --- tiles and stacks

    async def tiles_made(self, montage_id: int) -> frozenset[str]:
        """Ids of the tiles whose mipmaps are recorded as made."""
        return await self.run(
            lambda connection: frozenset(
                row[0] for row in connection.execute("SELECT tile_id FROM tiles WHERE montage_id = ?", (montage_id,))
            )
        )

    async def record_tiles(self, montage_id: int, tile_ids: Sequence[str]) -> None:
        """Records tiles whose mipmaps are made and verified."""
        await self.run(lambda connection: _record_tiles(connection, montage_id, tile_ids, self._clock()))

    async def forget_tiles(self, montage_id: int) -> None:
        """Forgets which tiles are made, so that all are made again."""
        await self.run(lambda connection: connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,)))

    async def tile_ids(self, montage_id: int) -> frozenset[str]:
        """Ids of a montage's tiles."""
        return await self.run(lambda connection: _tile_ids(connection, "id = ?", (montage_id,)))

    async def superseded_tile_ids(self, montage: Montage) -> frozenset[str]:
        """Ids of tiles of the same metafile's former contents that this montage does not hold."""
        return await self.run(lambda connection: _superseded_tile_ids(connection, montage))

    async def record_closing(self, stack: str, montage_ids: Sequence[int]) -> tuple[int, ...]:
        """Records that a stack was closed for these APPLIED montages; those that became COMPLETE by it."""
        return await self.run(lambda connection: _record_closing(connection, stack, montage_ids, self._clock()))

    # --- questions

    async def montage(self, montage_id: int) -> Montage | None:
        """The montage of this id."""
        return await self.run(lambda connection: _find(connection, _BY_ID, (montage_id,)))

    async def montages(
        self,
        *,
        states: Iterable[MontageState] | None = None,
        z: float | None = None,
        stack: str | None = None,
        ids: Iterable[int] | None = None,
        metafile: Path | None = None,
        below: Path | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Montage]:
        """Montages that fit all of what is given, in order of acquisition.

        Parameters
        ----------
        metafile, below : a metafile, and a directory that metafiles lie anywhere below.
        """
        where = _Where(states, z, stack, ids, metafile, below)
        return await self.run(lambda connection: _select(connection, where, limit=limit, newest=newest_first))

    async def unfinished(self) -> list[tuple[int, str, MontageState, str]]:
        """(id, acquired, state, watch) of every montage that has a step to do."""
        return await self.run(_unfinished)

    async def events(self, montage_id: int) -> list[dict[str, Any]]:
        """Events of a montage, first to last."""
        return await self.run(lambda connection: _events(connection, montage_id))

    async def attempts(self, montage_id: int) -> list[dict[str, Any]]:
        """Attempts of a montage, first to last."""
        return await self.run(lambda connection: _attempts(connection, montage_id))

    async def counts(self) -> dict[tuple[str, MontageState], int]:
        """How many montages of each watch are in each state."""
        return await self.run(
            lambda connection: {
                (watch, MontageState(state)): count
                for watch, state, count in connection.execute(
                    "SELECT watch, state, count(*) FROM montages GROUP BY watch, state"
                )
            }
        )

    async def oldest_unfinished_at(self) -> float | None:
        """When the montage that has waited longest was noticed, seconds since 1970 UTC."""
        query = f"SELECT min(noticed_at) FROM montages WHERE state IN ({_UNFINISHED_STATES})"  # noqa: S608
        return await self.run(lambda connection: connection.execute(query).fetchone()[0])

    async def known_metafiles(self) -> dict[str, int]:
        """How many metafiles of each watch the journal knows."""
        return await self.run(
            lambda connection: dict(
                connection.execute("SELECT watch, count(DISTINCT metafile) FROM montages GROUP BY watch")
            )
        )


# --- the file


def connect(path: Path) -> Connection:
    """A connection to the journal at `path`, made if it is not there, examined, migrated to the present version.

    A new journal gets its name when it is whole, so that an empty file of this name is always a damaged one.

    Raises
    ------
    SettingsFault
        If it is damaged, of a newer version, or something else than a journal.
    StorageFault, sqlite3.OperationalError
        If it cannot be opened or written.
    """
    if not path.exists():
        _make(path)
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
        _examine(connection, path)
        migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_read_only(path: Path) -> Connection:
    """A connection that cannot write, to a journal that is there.

    Raises as `connect` does.
    """
    where = quote(str(path))
    connection = _open(path, f"file:{where}?mode=ro")
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError:
        connection.close()
        if Path(f"{path}-wal").exists():
            raise
        # Nobody has it open, and nothing can be made beside it, as SQLite would like to.
        connection = _open(path, f"file:{where}?mode=ro&immutable=1")
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
        raise SettingsFault(
            "journal.path",
            f"{path} was written by a newer temwatch (journal version {version}, this one knows {len(MIGRATIONS)})",
            "run the newer temwatch, or restore a back-up made before the upgrade",
        )
    tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if tables and (version == 0 or "montages" not in tables):
        raise SettingsFault("journal.path", f"{path} is a database, but not a journal", "name another file")
    return version if tables else 0


def _examine(connection: Connection, path: Path) -> None:
    if _version(connection, path) == 0:
        raise _damaged(path, "it holds no tables")
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise _damaged(path, found.splitlines()[-1])


def migrate(connection: Connection, path: Path) -> None:
    """Brings an older journal up to the present version, one version a transaction.

    Raises
    ------
    SettingsFault
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
        hint = "see that its directory exists, is writable by the service's user, has free space, and is a local disk"
        hint = _HINTS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, hint)
        return StorageFault(str(path), f"the journal cannot be used: {error}", hint)
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        raise error  # our bug, not the file's
    return _damaged(path, str(error))


def _damaged(path: Path, how: str) -> SettingsFault:
    hint = "restore a back-up, or run `temwatch journal rebuild`, which keeps the damaged file under another name"
    return SettingsFault("journal.path", f"{path} is not a whole journal: {how}", hint)


# --- closures that run on the journal's thread


def _montage(row: Sequence[Any]) -> Montage:
    (
        montage_id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, failed_in, z, raw, mipmapped,
        tile_count, findings, fault, waiting_for, attempt, crashes, noticed_at, changed_at, complete_at,
    ) = row  # fmt: skip
    return Montage(
        id=montage_id,
        watch=watch,
        metafile=uri_to_path(metafile),
        digest=digest,
        identity=(size, mtime_ns, inode),
        acquired=acquired,
        state=MontageState(state),
        failed_in=MontageState(failed_in) if failed_in else None,
        z=z,
        raw_stack=raw,
        mipmapped_stack=mipmapped,
        tile_count=tile_count,
        findings=tuple(json.loads(findings)),
        fault=FaultRecord(**json.loads(fault)) if fault else None,
        waiting_for=waiting_for,
        attempt=attempt,
        crashes=crashes,
        noticed_at=noticed_at,
        changed_at=changed_at,
        complete_at=complete_at,
    )


def _find(connection: Connection, query: str, values: Sequence[object]) -> Montage | None:
    row = connection.execute(query, values).fetchone()
    return _montage(row) if row else None


def _need(connection: Connection, montage_id: int) -> Montage:
    montage = _find(connection, _BY_ID, (montage_id,))
    if montage is None:
        raise LookupError(f"the journal holds no montage {montage_id}")
    return montage


def _fault_json(fault: Fault | None) -> str | None:
    if fault is None:
        return None
    record = FaultRecord.of(fault)
    return json.dumps({"kind": record.kind, "subject": record.subject, "problem": record.problem, "hint": record.hint})


def _notice(connection: Connection, sighting: Sighting, now: float, *, anew: bool = False) -> int | None:
    metafile = path_to_uri(sighting.path)
    identity = (sighting.size, sighting.mtime_ns, sighting.inode)
    latest = _find(connection, _LATEST_OF_METAFILE, (metafile,))
    if latest is None or latest.digest is not None:
        # SUPERSEDED is the newest row of a path only if its file had moved away: it is back.
        is_known = latest is not None and latest.identity == identity and latest.state is not MontageState.SUPERSEDED
        if is_known and not anew:
            return None
        return _insert(connection, sighting, metafile, now)
    if latest.identity == identity and not anew:
        return None
    if latest.identity == identity and latest.state is MontageState.NOTICED:
        return latest.id
    _set_identity(connection, latest.id, identity)
    if latest.state in (MontageState.NOTICED, MontageState.FAILED):
        _record(connection, latest.id, Event.RENOTICED, now, {"found_by": str(sighting.found_by)})
    return latest.id


def _insert(connection: Connection, sighting: Sighting, metafile: str, now: float) -> int:
    cursor = connection.execute(
        "INSERT INTO montages (watch, metafile, size, mtime_ns, inode, acquired, state, noticed_at, changed_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            sighting.watch,
            metafile,
            sighting.size,
            sighting.mtime_ns,
            sighting.inode,
            metafile.rsplit("/", 1)[1],
            advance(None, Event.NOTICED),
            now,
            now,
        ),
    )
    montage_id = int(cursor.lastrowid or 0)
    _insert_event(connection, montage_id, Event.NOTICED, MontageState.NOTICED, now, {"found_by": sighting.found_by})
    return montage_id


def _replay(connection: Connection, montage_id: int, step: Step, now: float) -> Montage | None:
    montage = _find(connection, _BY_ID, (montage_id,))
    if montage is None or montage.state not in (MontageState.COMPLETE, MontageState.FAILED):
        return None
    start = replay_start(montage.state, montage.failed_in, step)
    return _record(connection, montage_id, Event.REPLAYED, now, {"onto": start, "from": step})


def _enter(
    connection: Connection, sighting: Sighting, settled: Settled, state: MontageState, evidence: str, now: float
) -> int:
    montage_id = _insert(connection, sighting, path_to_uri(sighting.path), now)
    _store_settled(connection, montage_id, settled)
    _record(connection, montage_id, Event.REBUILT, now, {"onto": state, "evidence": evidence})
    return montage_id


def _set_identity(connection: Connection, montage_id: int, identity: tuple[int, int, int]) -> None:
    connection.execute("UPDATE montages SET size = ?, mtime_ns = ?, inode = ? WHERE id = ?", (*identity, montage_id))


def _insert_event(
    connection: Connection,
    montage_id: int,
    event: Event,
    state: MontageState,
    now: float,
    detail: Mapping[str, object],
) -> None:
    connection.execute(
        "INSERT INTO events (montage_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)",
        (montage_id, now, event, state, json.dumps(detail)),
    )


def _record(connection: Connection, montage_id: int, event: Event, now: float, detail: Mapping[str, object]) -> Montage:
    before = _need(connection, montage_id)
    onto = MontageState(str(detail.get("onto", MontageState.SETTLED)))
    state = advance(before.state, event, failed_in=before.failed_in, onto=onto)
    if event is Event.RETRIED:
        detail = {**detail, "failed_in": before.failed_in}
    _insert_event(connection, montage_id, event, state, now, detail)
    if event is not Event.SEEN_AGAIN:
        connection.execute(
            "UPDATE montages SET state = ?, changed_at = ?, complete_at = ?, failed_in = ?, fault = NULL,"
            " waiting_for = NULL, attempt = 0, crashes = 0 WHERE id = ?",
            (
                state,
                now,
                now if state is MontageState.COMPLETE else None,
                before.state if state is MontageState.FAILED else None,
                montage_id,
            ),
        )
        connection.execute("DELETE FROM awaited WHERE montage_id = ?", (montage_id,))
    # A replay makes all mipmaps again, unless it is one from the step after them.
    if state is MontageState.MIPMAPPED or (event is Event.REPLAYED and detail.get("from") != Step.APPLY):
        connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,))
    if state is not MontageState.APPLIED or event is Event.APPLIED:
        connection.execute("DELETE FROM closings WHERE montage_id = ?", (montage_id,))
    return _need(connection, montage_id)


def _others(connection: Connection, montage: Montage) -> list[Montage]:
    rows = connection.execute(_OTHERS_OF_METAFILE, (path_to_uri(montage.metafile), montage.id))
    return [_montage(row) for row in rows.fetchall()]


def _supersede(connection: Connection, others: Iterable[Montage], by: int, now: float) -> tuple[int, ...]:
    chosen = tuple(other.id for other in others if other.state is not MontageState.SUPERSEDED)
    for montage_id in chosen:
        _record(connection, montage_id, Event.SUPERSEDED, now, {"by": by})
    return chosen


def _become(connection: Connection, montage: Montage, same: Montage) -> None:
    """Two rows turn out to be one montage: the older stays, and stands for the file as it was noticed now."""
    connection.execute("DELETE FROM montages WHERE id = ?", (montage.id,))
    _set_identity(connection, same.id, montage.identity)


def _recognise(connection: Connection, montage_id: int, digest: str, now: float) -> int | None:
    montage = _need(connection, montage_id)
    others = _others(connection, montage)
    same = next((other for other in others if other.digest == digest), None)
    if same is None or same.state in (MontageState.FAILED, MontageState.SUPERSEDED):
        return None
    _become(connection, montage, same)
    _supersede(connection, (other for other in others if other is not same), same.id, now)
    _record(connection, same.id, Event.SEEN_AGAIN, now, {})
    return same.id


def _fail(connection: Connection, montage_id: int, fault: Fault, digest: str | None, now: float) -> Montage:
    montage = _need(connection, montage_id)
    same = next((other for other in _others(connection, montage) if digest and other.digest == digest), None)
    if same is not None and same.state is MontageState.FAILED:
        _become(connection, montage, same)
        _record(connection, same.id, Event.RENOTICED, now, {})
        montage_id = same.id
    attempt = _need(connection, montage_id).attempt
    record = json.loads(_fault_json(fault) or "{}")
    _record(connection, montage_id, Event.FAILED, now, {"fault": record, "attempt": attempt})
    connection.execute(
        "UPDATE montages SET fault = ?, attempt = ? WHERE id = ?", (json.dumps(record), attempt, montage_id)
    )
    if fault.evidence is not None:
        identity = fault.evidence.identity or (None, None, None)
        values = (montage_id, path_to_uri(fault.evidence.path), *identity)
        connection.execute("INSERT OR REPLACE INTO awaited VALUES (?, ?, ?, ?, ?)", values)
    if digest is not None:
        # Only where no other row holds this content: the identity is (metafile, digest).
        connection.execute("UPDATE OR IGNORE montages SET digest = ? WHERE id = ?", (digest, montage_id))
    return _need(connection, montage_id)


def _awaited(connection: Connection) -> list[tuple[int, str, Evidence]]:
    query = (
        "SELECT id, watch, awaited.file, awaited.size, awaited.mtime_ns, awaited.inode FROM awaited"
        " JOIN montages ON id = montage_id ORDER BY acquired, id"
    )
    return [
        (montage_id, watch, Evidence(uri_to_path(file), None if size is None else (size, mtime_ns, inode)))
        for montage_id, watch, file, size, mtime_ns, inode in connection.execute(query)
    ]


def _twins(connection: Connection, montage_id: int, digest: str) -> list[Montage]:
    metafile = path_to_uri(_need(connection, montage_id).metafile)
    query = (
        f"SELECT {_COLUMNS} FROM montages WHERE digest = ? AND metafile <> ?"  # noqa: S608  constant text
        " AND state NOT IN ('superseded', 'ignored') ORDER BY id"
    )
    return [_montage(row) for row in connection.execute(query, (digest, metafile)).fetchall()]


def _ignore(connection: Connection, montage_id: int, reason: str, digest: str | None, now: float) -> None:
    _record(connection, montage_id, Event.IGNORED, now, {"reason": reason})
    connection.execute(
        "UPDATE OR IGNORE montages SET digest = ?, waiting_for = ? WHERE id = ?", (digest, reason, montage_id)
    )


def _settle(connection: Connection, montage_id: int, settled: Settled, now: float) -> Settling:
    montage = _need(connection, montage_id)
    others = _others(connection, montage)
    same = next((other for other in others if other.digest == settled.digest), None)
    kept = same.id if same else montage_id
    superseded = _supersede(connection, (other for other in others if other is not same), kept, now)
    event = Event.SETTLED
    detail: dict[str, object] = {"tiles": len(settled.tile_ids), "z": settled.z}
    if same is not None:
        # The path holds again what had failed or been superseded: that montage is done anew.
        _become(connection, montage, same)
        event, detail = Event.REPLAYED, {**detail, "reason": "the metafile holds this content again"}
    _store_settled(connection, kept, settled)
    _record(connection, kept, event, now, detail)
    return Settling(kept, superseded)


def _store_settled(connection: Connection, montage_id: int, settled: Settled) -> None:
    connection.execute(
        "UPDATE montages SET digest = ?, z = ?, raw_stack = ?, mipmapped_stack = ?, tile_count = ?, findings = ?"
        " WHERE id = ?",
        (
            settled.digest,
            settled.z,
            settled.raw_stack,
            settled.mipmapped_stack,
            len(settled.tile_ids),
            json.dumps(settled.findings),
            montage_id,
        ),
    )
    packed = zlib.compress("\n".join(settled.tile_ids).encode())
    connection.execute("INSERT OR REPLACE INTO tile_sets VALUES (?, ?)", (montage_id, packed))


def _begin_attempt(connection: Connection, montage_id: int, step: Step, now: float) -> int:
    connection.execute("UPDATE montages SET attempt = attempt + 1 WHERE id = ?", (montage_id,))
    cursor = connection.execute(
        "INSERT INTO attempts (montage_id, step, started_at) VALUES (?, ?, ?)", (montage_id, step, now)
    )
    return int(cursor.lastrowid or 0)


def _end_attempt(connection: Connection, attempt_id: int, outcome: Outcome, fault: Fault | None, now: float) -> None:
    connection.execute(
        "UPDATE attempts SET ended_at = ?, outcome = ?, fault = ? WHERE id = ?",
        (now, outcome, _fault_json(fault), attempt_id),
    )
    if outcome is not Outcome.DONE:  # after DONE the event has already set the montage's columns
        connection.execute(
            "UPDATE montages SET fault = coalesce(?, fault), crashes = 0"
            " WHERE id = (SELECT montage_id FROM attempts WHERE id = ?)",
            (_fault_json(fault), attempt_id),
        )


def _count_crashes(connection: Connection, now: float) -> int:
    crashed = [row[0] for row in connection.execute(_CRASHED_ATTEMPTS).fetchall()]
    connection.executemany(
        "UPDATE montages SET crashes = crashes + 1, attempt = max(0, attempt - 1) WHERE id = ?",
        [(montage_id,) for montage_id in crashed],
    )
    connection.execute("UPDATE attempts SET ended_at = ?, outcome = ? WHERE ended_at IS NULL", (now, Outcome.CRASHED))
    return len(crashed)


def _record_tiles(connection: Connection, montage_id: int, tile_ids: Sequence[str], now: float) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO tiles (montage_id, tile_id, made_at) VALUES (?, ?, ?)",
        [(montage_id, tile_id, now) for tile_id in tile_ids],
    )
    # Progress: whatever ended the process before, it was not this montage's doing alone.
    connection.execute("UPDATE montages SET crashes = 0 WHERE id = ? AND crashes > 0", (montage_id,))


def _tile_ids(connection: Connection, where: str, values: Sequence[object]) -> frozenset[str]:
    rows = connection.execute(
        f"SELECT tile_ids FROM tile_sets JOIN montages ON id = montage_id WHERE {where}",  # noqa: S608  constant text
        values,
    )
    return frozenset(tile_id for (packed,) in rows for tile_id in zlib.decompress(packed).decode().split("\n"))


def _superseded_tile_ids(connection: Connection, montage: Montage) -> frozenset[str]:
    metafile = path_to_uri(montage.metafile)
    former = _tile_ids(connection, "metafile = ? AND id <> ?", (metafile, montage.id))
    return former - _tile_ids(connection, "id = ?", (montage.id,))


def _record_closing(connection: Connection, stack: str, montage_ids: Sequence[int], now: float) -> tuple[int, ...]:
    complete = []
    for montage_id in montage_ids:
        montage = _find(connection, _BY_ID, (montage_id,))
        if montage is None or montage.state is not MontageState.APPLIED:
            continue  # superseded or replayed while the stack was closing
        connection.execute("INSERT OR IGNORE INTO closings VALUES (?, ?, ?)", (montage_id, stack, now))
        rows = connection.execute("SELECT stack FROM closings WHERE montage_id = ?", (montage_id,))
        if {row[0] for row in rows} >= set(montage.stacks):
            _record(connection, montage_id, Event.COMPLETED, now, {})
            complete.append(montage_id)
    return tuple(complete)


class _Where(NamedTuple):
    """What `montages` asks for."""

    states: Iterable[MontageState] | None
    z: float | None
    stack: str | None
    ids: Iterable[int] | None
    metafile: Path | None
    below: Path | None

    def conditions(self) -> Iterator[tuple[str, list[object]]]:
        """SQL conditions, each with its values."""
        if self.states is not None:
            states = list(self.states)
            yield f"state IN ({', '.join('?' * len(states))})", [*states]
        if self.ids is not None:
            yield "id IN (SELECT value FROM json_each(?))", [json.dumps(list(self.ids))]
        if self.z is not None:
            yield "z = ?", [self.z]
        if self.stack is not None:
            yield "(raw_stack = ? OR mipmapped_stack = ?)", [self.stack, self.stack]
        if self.metafile is not None:
            yield "metafile = ?", [path_to_uri(self.metafile)]
        if self.below is not None:
            first = path_to_uri(self.below / "x").removesuffix("x")
            yield "metafile >= ? AND metafile < ?", [first, first[:-1] + "0"]  # "0" comes right after "/"


def _select(connection: Connection, where: _Where, *, limit: int, newest: bool) -> list[Montage]:
    conditions = list(where.conditions())
    text = " AND ".join(["1", *(condition for condition, _ in conditions)])
    values = [value for _, some in conditions for value in some]
    order = "id DESC" if newest else "acquired, id"
    query = f"SELECT {_COLUMNS} FROM montages WHERE {text} ORDER BY {order} LIMIT ?"  # noqa: S608
    return [_montage(row) for row in connection.execute(query, (*values, limit))]


def _unfinished(connection: Connection) -> list[tuple[int, str, MontageState, str]]:
    query = f"SELECT id, acquired, state, watch FROM montages WHERE state IN ({_UNFINISHED_STATES})"  # noqa: S608
    return [(row[0], row[1], MontageState(row[2]), row[3]) for row in connection.execute(query)]


def _events(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT at, event, state, detail FROM events WHERE montage_id = ? ORDER BY id", (montage_id,)
    )
    return [
        {"at": at, "event": event, "state": state, "detail": json.loads(detail)} for at, event, state, detail in rows
    ]


def _attempts(connection: Connection, montage_id: int) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT step, started_at, ended_at, outcome, fault FROM attempts WHERE montage_id = ? ORDER BY id",
        (montage_id,),
    )
    return [
        {
            "step": step,
            "started_at": started_at,
            "ended_at": ended_at,
            "outcome": outcome,
            "fault": json.loads(fault) if fault else None,
        }
        for step, started_at, ended_at, outcome, fault in rows
    ]
