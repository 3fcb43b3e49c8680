"""What is remembered: montages, their events and attempts, in one SQLite file.

One thread owns the connection; callers await closures run on it. The event and the state that follows from it commit
together, with `synchronous=FULL`: what the journal has acknowledged survives a crash of the process and of the machine.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from daemon.journal import contents, rows, tilesets
from daemon.journal.file import Connection, Examination, connect, connect_read_only, journal_fault, transaction
from daemon.journal.records import Look, Montage, Outcome, Settled, Settling
from daemon.states import Event, MontageState, Step
from daemon.watcher import Sighting
from handlers.errors import Evidence, Fault, StorageFault
from handlers.uris import path_to_uri

T = TypeVar("T")
Clock = Callable[[], float]

log = structlog.get_logger()

RETRY_S = 2.0
"""Pause before a journal that could not be written is tried again."""


class Journal:
    """The daemon's memory. Open it with `async with Journal(path) as journal`.

    Parameters
    ----------
    read_only : for looking at it, beside a running daemon too. Nothing is made, migrated or waited for.
    examination : of this file, if one was begun ahead.

    Raises
    ------
    SettingsFault
        If the file was written by a newer temwatch, is damaged, or is not a journal.
    StorageFault
        If it cannot be opened, or, unless it is opened for reading only, not be written.
    """

    def __init__(
        self,
        path: Path,
        clock: Clock = time.time,
        *,
        read_only: bool = False,
        examination: Examination | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._read_only = read_only
        self._examination = examination
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._connection: Connection | None = None
        self.fault: StorageFault | None = None
        """Why the journal cannot be written now; None while it can."""

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._open)
        except BaseException:
            # The thread opens the file although its task was cancelled: close the file afterwards.
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    def _open(self) -> None:
        try:
            if self._read_only:
                self._connection = connect_read_only(self.path)
            else:
                self._connection = connect(self.path, self._examination)
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
        return await self.run(lambda connection: contents.notice(connection, sighting, self._clock()))

    async def take_in(self, sighting: Sighting) -> int:
        """Id of the montage that a metafile makes because somebody asked for it, known to the journal or not.

        Settling finds out whether its content is known already.
        """
        montage_id = await self.run(lambda connection: contents.notice(connection, sighting, self._clock(), anew=True))
        assert montage_id is not None
        return montage_id

    async def replay(self, montage_id: int, step: Step) -> Montage | None:
        """The COMPLETE or FAILED montage as it is once all from this step on is to be done again.

        One that never came so far begins where it failed. None, and nothing is changed, if it is neither, or if its
        metafile is to be read and was noticed anew since: that sighting decides.
        """
        return await self.run(lambda connection: contents.replay(connection, montage_id, step, self._clock()))

    async def retry(self, montage_id: int, because: str) -> Montage | None:
        """The FAILED or IGNORED montage as it is once it goes on where it stopped; None as for `replay`."""
        return await self.run(lambda connection: contents.retry(connection, montage_id, because, self._clock()))

    async def enter(self, sighting: Sighting, settled: Settled, state: MontageState, evidence: str) -> int | None:
        """Id of a montage that is entered into a new journal as what stacks and files prove it to be.

        None, and nothing is entered, if another metafile's montage holds some of its tiles.
        """
        return await self.run(
            lambda connection: contents.enter(connection, sighting, settled, state, evidence, self._clock())
        )

    async def recognise(self, look: Look) -> Settling | None:
        """The montage that already stands for the content that was read, and needs nothing; None if there is none.

        The montage that was looked at is then dropped: it never was another one.

        Raises
        ------
        Overtaken
            As `settle`, `refuse` and `ignore` do, if the metafile was noticed anew since the look began.
        """
        return await self.run(lambda connection: contents.recognise(connection, look, self._clock()))

    async def settle(
        self, look: Look, settled: Settled, *, moved: Mapping[Montage, str] | None = None, apart: Collection[int] = ()
    ) -> Settling:
        """Records that a metafile has settled, unless rivals have to be looked at first.

        Parameters
        ----------
        moved : rivals whose metafiles no longer hold what the montage stands for, as they were when that was seen,
            each with the reason in words. They are superseded, as are the other contents of the path.
        apart : rivals that were looked at, and are other files without a tile of this one.
        """
        return await self.run(
            lambda connection: contents.settle(connection, look, settled, moved or {}, apart, self._clock())
        )

    async def record(self, montage_id: int, event: Event, **detail: object) -> Montage:
        """Records an event and the state that follows; the montage as it is then."""
        return await self.run(lambda connection: rows.record(connection, montage_id, event, self._clock(), detail))

    async def ignore(self, look: Look, reason: str, evidence: Evidence | None = None) -> Settling:
        """Records that what a metafile holds is not ingested, and why.

        Parameters
        ----------
        evidence : the file that has to change before it is looked at again, if there is one.
        """
        return await self.run(lambda connection: contents.ignore(connection, look, reason, evidence, self._clock()))

    async def refuse(self, look: Look, fault: Fault) -> Settling:
        """Records that a metafile cannot be ingested as it is: its montage FAILED before it settled.

        Other contents of the path that are not COMPLETE are superseded where the content was read.
        """
        settling, montage = await self.run(lambda connection: contents.refuse(connection, look, fault, self._clock()))
        _log_failure(montage, fault)
        return settling

    async def fail(self, montage_id: int, fault: Fault) -> Montage:
        """Records that a montage failed, and why.

        Says so in the log, too, whichever part gave the montage up: in the words that status and web show.
        """
        montage = await self.run(lambda connection: contents.fail(connection, montage_id, fault, self._clock()))
        _log_failure(montage, fault)
        return montage

    async def wait(self, montage_id: int, reason: str, digest: str | None = None) -> None:
        """Records what a montage is waiting for, one sentence, and the sha256 of its content where it was read."""
        await self.run(lambda connection: contents.wait(connection, montage_id, reason, digest))

    async def awaited(self) -> list[tuple[int, str, Evidence]]:
        """(id, watch, the file that has to change) of every montage that FAILED, or is IGNORED, because of a file."""
        return await self.run(contents.awaited)

    async def alike(self, montage: Montage) -> list[Montage]:
        """Montages of other paths that hold the same content, or whose file is the same one; none is superseded."""
        return await self.run(lambda connection: contents.alike(connection, montage))

    async def move(self, montage: Montage, onto: Montage) -> bool:
        """Whether it is recorded that a metafile moved to the path of another montage: nothing else happened to it."""
        return await self.run(lambda connection: contents.move(connection, montage, onto, self._clock()))

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
        """Return the id of an attempt, journaled before it starts; STOPPED if the caller is cancelled meanwhile."""
        return (await self.begin_attempts([montage_id], step))[montage_id]

    async def begin_attempts(self, montage_ids: Sequence[int], step: Step) -> dict[int, int]:
        """Return the attempt of each montage, journaled together; STOPPED if the caller is cancelled meanwhile."""
        begun: dict[int, int] = {}

        def begin(connection: Connection) -> dict[int, int]:
            begun.update((each, rows.begin_attempt(connection, each, step, self._clock())) for each in montage_ids)
            return begun

        try:
            return await self.run(begin)
        except asyncio.CancelledError:
            await self.stop_attempts(
                begun
            )  # the transaction may be still to come; the one thread takes this one after it
            raise

    async def stop_attempts(self, attempts: Mapping[int, int]) -> None:
        """Record as STOPPED those attempts, by montage, that have not ended."""
        await self.run(lambda connection: rows.stop_attempts(connection, attempts, self._clock()))

    async def end_attempt(self, attempt_id: int, outcome: Outcome, fault: Fault | None = None) -> None:
        """Record how an attempt ended."""
        await self.end_attempts([attempt_id], outcome, fault)

    async def end_attempts(self, attempt_ids: Iterable[int], outcome: Outcome, fault: Fault | None = None) -> None:
        """Record together that attempts ended in the same way."""
        ended = tuple(attempt_ids)

        def end(connection: Connection) -> None:
            for attempt_id in ended:
                rows.end_attempt(connection, attempt_id, outcome, fault, self._clock())

        await self.run(end)

    async def count_crashes(self) -> int:
        """Ends the attempts that the last process left behind, counting each against its montage; their number."""
        return await self.run(lambda connection: rows.count_crashes(connection, self._clock()))

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
        await self.run(lambda connection: rows.record_tiles(connection, montage_id, tile_ids, self._clock()))

    async def forget_tiles(self, montage_id: int) -> None:
        """Forgets which tiles are made, so that all are made again."""
        await self.run(lambda connection: connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,)))

    async def tile_ids(self, montage_id: int) -> frozenset[str]:
        """Ids of a montage's tiles."""
        return await self.run(lambda connection: tilesets.tile_ids(connection, montage_id))

    async def former_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Ids of tiles that the montages superseded by this one had put into a stack, and this one does not hold.

        Superseded are former contents of its path, and of paths that its metafile had before.
        """
        return await self.run(lambda connection: tilesets.former_tile_ids(connection, montage, stack))

    async def unwanted_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Those of `former_tile_ids` that no montage of the stack holds, unless it is superseded."""
        return await self.run(lambda connection: tilesets.unwanted_tile_ids(connection, montage, stack))

    async def record_closing(self, stack: str, montage_ids: Sequence[int]) -> tuple[int, ...]:
        """Records that a stack was closed for these APPLIED montages; those that became COMPLETE by it."""
        return await self.run(lambda connection: rows.record_closing(connection, stack, montage_ids, self._clock()))

    async def open_stack(self, stack: str, watch: str) -> None:
        """Record that a stack is about to be opened for writing, for a montage of a watch."""
        values = (stack, watch, self._clock())
        await self.run(
            lambda connection: connection.execute("INSERT OR REPLACE INTO open_stacks VALUES (?, ?, ?)", values)
        )

    async def close_stack(self, stack: str) -> None:
        """Record that a stack that was opened needs no closing by us any more."""
        await self.run(lambda connection: connection.execute("DELETE FROM open_stacks WHERE stack = ?", (stack,)))

    async def open_stacks(self) -> list[tuple[str, str]]:
        """Return each stack that was opened and not closed since, with the watch that it was opened for."""
        return await self.run(
            lambda connection: connection.execute("SELECT stack, watch FROM open_stacks ORDER BY stack").fetchall()
        )

    # --- questions

    async def montage(self, montage_id: int) -> Montage | None:
        """The montage of this id."""
        return await self.run(lambda connection: rows.find(connection, rows.BY_ID, (montage_id,)))

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
        where = rows.Where(states, z, stack, ids, metafile, below)
        return await self.run(lambda connection: rows.select(connection, where, limit=limit, newest=newest_first))

    async def unfinished(self) -> list[tuple[int, str, MontageState, str]]:
        """(id, acquired, state, watch) of every montage that has a step to do."""
        return await self.run(rows.unfinished)

    async def events(self, montage_id: int) -> list[dict[str, Any]]:
        """Events of a montage, first to last."""
        return await self.run(lambda connection: rows.events(connection, montage_id))

    async def attempts(self, montage_id: int) -> list[dict[str, Any]]:
        """Attempts of a montage, first to last."""
        return await self.run(lambda connection: rows.attempts(connection, montage_id))

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
        query = f"SELECT min(noticed_at) FROM montages WHERE state IN ({rows.UNFINISHED_STATES})"  # noqa: S608
        return await self.run(lambda connection: connection.execute(query).fetchone()[0])

    async def known_metafiles(self) -> dict[str, int]:
        """How many metafiles of each watch the journal knows."""
        return await self.run(
            lambda connection: dict(
                connection.execute("SELECT watch, count(DISTINCT metafile) FROM montages GROUP BY watch")
            )
        )


def _log_failure(montage: Montage, fault: Fault) -> None:
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
