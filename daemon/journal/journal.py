"""What is remembered: montages, their events and attempts, in one SQLite file.

One thread owns the connection that writes, another one a connection that reads; callers await closures run on them. The
event and the state that follows from it commit together, with `synchronous=FULL`: what the journal has acknowledged
survives a crash of the process and of the machine. Readers see what is committed, and never wait for a writer.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import structlog

from daemon.journal import contents, rows
from daemon.journal import images_read as imagesread
from daemon.journal import tile_sets as tilesets
from daemon.journal.ages import Ages
from daemon.journal.file import (
    BUSY_S,
    Connection,
    Examination,
    JournalLocked,
    connect,
    connect_beside,
    connect_read_only,
    journal_fault,
    transaction,
)
from daemon.montages.records import AwaitedFile, Inspection, Montage, Outcome, Settled, SettleResult
from daemon.montages.sighting import Sighting
from daemon.montages.states import Event, MontageState, Step
from daemon.system.threads import DaemonThreads
from handlers.errors import Evidence, Fault, StorageFault
from handlers.images.digest import FileContent
from handlers.uris import path_to_uri

T = TypeVar("T")
Clock = Callable[[], float]

log = structlog.get_logger()

RETRY_S = 2.0
"""Pause before a journal that could not be used is tried again."""
LOCKED_RETRY_S = 0.1
"""Pause before a journal that another program has locked is tried again."""
HELD_UP_S = 3.0
"""A lock that lasts longer is not waited for by a daemon that stops."""
STUCK_S = 10.0
"""A transaction that takes longer hangs: the disk does not answer."""
CLOSE_S = 5.0
"""How long the end waits for what is still to be recorded."""


class Journal:
    """The daemon's memory. Open it with `async with Journal(path) as journal`.

    Parameters
    ----------
    steady : a clock that nobody sets, for ages.
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
        steady: Clock = time.monotonic,
        read_only: bool = False,
        examination: Examination | None = None,
    ) -> None:
        self.path = path
        self._clock = clock
        self._ages = Ages(clock, steady)
        self._read_only = read_only
        self._examination = examination
        self._writer = DaemonThreads("journal", most=1)
        self._reader = DaemonThreads("journal reader", most=1)
        self._connection: Connection | None = None
        self._reading: Connection | None = None
        self._fault: StorageFault | None = None
        self._began: float | None = None
        """When the transaction under way began; None between two."""
        self._locked_since: float | None = None
        self._is_given_up = False

    @property
    def fault(self) -> StorageFault | None:
        """Why the journal cannot be written now; None while it can."""
        began = self._began
        if began is not None and (stuck_s := time.monotonic() - began) > STUCK_S:
            problem = f"the journal has not answered for {stuck_s:.0f} s"
            return StorageFault(str(self.path), problem, "see that its disk answers")
        return self._fault

    @property
    def is_held_up(self) -> bool:
        """Whether nothing can be recorded now, and could not for some seconds."""
        locked_since = self._locked_since
        return self.fault is not None or (locked_since is not None and time.monotonic() - locked_since > HELD_UP_S)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._open)
        except BaseException:
            # The thread opens the file although its task was cancelled: close the file afterwards.
            self._writer.submit(self._close_reading)
            self._end_threads()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CLOSE_S):
                await loop.run_in_executor(self._reader, self._close_reading)
                await loop.run_in_executor(self._writer, self._close_writing)  # the last to close tidies up the file
        except TimeoutError:
            log.error("journal.left_open", journal=str(self.path), hint="its disk does not answer")
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        """End both threads; what a disk that does not answer has kept open they close first."""
        for threads, close in ((self._reader, self._close_reading), (self._writer, self._close_writing)):
            threads.submit(close)
            threads.shutdown(wait=False)

    def _open(self) -> None:
        try:
            if not self._read_only:
                self._connection = connect(self.path, self._examination)
            self._reading = connect_read_only(self.path) if self._read_only else connect_beside(self.path)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error

    def _close_reading(self) -> None:
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _close_writing(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def give_up(self) -> None:
        """Record nothing more: whoever waits for a journal that cannot be written is cancelled."""
        self._is_given_up = True

    async def run(self, closure: Callable[[Connection], T]) -> T:
        """The closure's result, run on the writer's thread in one transaction.

        A journal that cannot be written (its disk is full, say) is waited for: what is to be remembered is not given
        up, and whoever has something to record does nothing else meanwhile.
        """
        if self._read_only:
            raise StorageFault(str(self.path), "the journal is opened readonly")
        while True:
            if self._is_given_up:
                raise asyncio.CancelledError("the journal is given up")
            work = asyncio.get_running_loop().run_in_executor(self._writer, self._transact, closure)
            try:
                # An outcome that is being written is not given up because the one who waits for it is cancelled.
                result = await asyncio.shield(work)
            except StorageFault as fault:
                await asyncio.sleep(self._not_written(fault))
            else:
                self._fault = self._locked_since = None
                return result

    def _not_written(self, fault: StorageFault) -> float:
        """Take note of a write that failed; seconds until it is tried again. A lock that passes soon is no fault."""
        now = time.monotonic()
        is_locked = isinstance(fault, JournalLocked)
        if is_locked and self._locked_since is None:
            self._locked_since = now
        if is_locked and self._locked_since is not None and now - self._locked_since < BUSY_S:
            return LOCKED_RETRY_S
        if self._fault is None:
            log.error("journal.unwritable", fault=str(fault))
        self._fault = fault
        return LOCKED_RETRY_S if is_locked else RETRY_S

    def _transact(self, closure: Callable[[Connection], T]) -> T:
        if self._connection is None:
            raise RuntimeError("the journal is closed")
        if self._is_given_up:
            raise StorageFault(str(self.path), "the journal is given up")
        self._began = time.monotonic()
        try:
            with transaction(self._connection) as connection:
                return closure(connection)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error
        finally:
            self._began = None

    async def ask(self, closure: Callable[[Connection], T]) -> T:
        """The closure's result, read in one transaction, whoever writes meanwhile.

        A journal that cannot be read is waited for, unless it is opened for reading only.
        """
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, closure)
            except StorageFault:
                if self._read_only or self._is_given_up:
                    raise
                await asyncio.sleep(RETRY_S)

    def _read(self, closure: Callable[[Connection], T]) -> T:
        if self._reading is None:
            raise RuntimeError("the journal is closed")
        try:
            with transaction(self._reading, read_only=True) as connection:
                return closure(connection)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error

    # --- what happens to a montage

    async def notice(self, sighting: Sighting) -> int | None:
        """Id of the montage that a sighting makes, or wakes; None if the journal knows this very file already."""
        return await self._begin(lambda connection, now: contents.notice(connection, sighting, now))

    async def take_in(self, sighting: Sighting) -> int:
        """Id of the montage that a metafile makes because somebody asked for it, known to the journal or not.

        Settling finds out whether its content is known already.
        """
        montage_id = await self._begin(lambda connection, now: contents.notice(connection, sighting, now, force=True))
        assert montage_id is not None
        return montage_id

    async def doubt(self, montage_id: int, sighting: Sighting) -> int | None:
        """Id of the montage that is to be read because an unfinished one's metafile holds another content.

        None if that one is unfinished no more, or the metafile was noticed anew since: that sighting decides.
        """
        return await self._begin(lambda connection, now: contents.doubt(connection, montage_id, sighting, now))

    async def _begin(self, notice: Callable[[Connection, float], int | None]) -> int | None:
        """Id of the montage that is noticed; its age begins now if it is new."""

        def begin(connection: Connection) -> tuple[int | None, bool]:
            now = self._clock()
            montage_id = notice(connection, now)
            montage = rows.find(connection, rows.BY_ID, (montage_id,)) if montage_id is not None else None
            return montage_id, montage is not None and montage.noticed_at == now

        montage_id, is_new = await self.run(begin)
        if montage_id is not None and is_new:
            self._ages.begin(montage_id)
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

    async def recognise(self, look: Inspection) -> SettleResult | None:
        """The montage that already stands for the content that was read, and needs nothing; None if there is none.

        The montage that was looked at is then dropped: it never was another one.

        Raises
        ------
        StaleInspection
            As `settle`, `refuse` and `ignore` do, if the metafile was noticed anew since the look began.
        """
        return await self.run(lambda connection: contents.recognise(connection, look, self._clock()))

    async def settle(
        self,
        look: Inspection,
        settled: Settled,
        *,
        moved: Mapping[Montage, str] | None = None,
        apart: Collection[int] = (),
    ) -> SettleResult:
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

        def work(connection: Connection) -> Montage:
            if event is Event.MIPMAPPED:
                imagesread.keep(connection, montage_id)
            return rows.record(connection, montage_id, event, self._clock(), detail)

        return await self.run(work)

    async def ignore(self, look: Inspection, reason: str, evidence: Evidence | None = None) -> SettleResult:
        """Records that what a metafile holds is not ingested, and why.

        Parameters
        ----------
        evidence : the file that has to change before it is looked at again, if there is one.
        """
        return await self.run(lambda connection: contents.ignore(connection, look, reason, evidence, self._clock()))

    async def refuse(self, look: Inspection, fault: Fault) -> SettleResult:
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

    async def awaited(self) -> list[AwaitedFile]:
        """Every montage that FAILED, or is IGNORED, because of a file, with that file."""
        return await self.ask(contents.awaited)

    async def withdraw(self, refused: AwaitedFile) -> bool:
        """Whether a montage that was not ingested because of another metafile is superseded: its own was taken away."""
        return await self.run(lambda connection: contents.withdraw(connection, refused, self._clock()))

    async def alike(self, montage: Montage) -> list[Montage]:
        """Montages of other paths that hold the same content, or whose file is the same one; none is superseded."""
        return await self.ask(lambda connection: contents.alike(connection, montage))

    async def move(self, montage: Montage, onto: Montage) -> bool:
        """Whether it is recorded that a metafile moved to the path of another montage: nothing else happened to it."""
        return await self.run(lambda connection: contents.move(connection, montage, onto, self._clock()))

    async def is_used_for_mipmaps(self, directory: Path) -> bool:
        """Whether mipmaps were ever written to a directory."""
        query = "SELECT 1 FROM mipmap_directories WHERE directory = ?"
        values = (path_to_uri(directory),)
        return await self.ask(lambda connection: connection.execute(query, values).fetchone() is not None)

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
        return await self.ask(
            lambda connection: frozenset(
                row[0] for row in connection.execute("SELECT tile_id FROM tiles WHERE montage_id = ?", (montage_id,))
            )
        )

    async def record_tiles(self, montage_id: int, contents: Mapping[str, FileContent | None]) -> None:
        """Records tiles whose mipmaps are made and verified, each with its image as it was read, if that is known."""
        await self.run(lambda connection: imagesread.record_tiles(connection, montage_id, contents, self._clock()))

    async def images_read(self, montage_id: int) -> dict[str, FileContent]:
        """The image of each tile as it was read, by tile id, of a montage that is MIPMAPPED or further."""
        return await self.ask(lambda connection: imagesread.images_read(connection, montage_id))

    async def adopt_images(self, montage_id: int, contents: Mapping[str, FileContent]) -> None:
        """Takes over the new identities of images whose bytes are the same as before."""
        await self.run(lambda connection: imagesread.adopt(connection, montage_id, contents))

    async def change_images(self, montage_id: int, changed: Mapping[str, str]) -> Montage:
        """The montage as it is once the mipmaps of some tiles are to be made again; tile id -> name of its image.

        Raises
        ------
        IllegalTransition
            If the montage does not show them any more.
        """
        return await self.run(lambda connection: imagesread.change(connection, montage_id, changed, self._clock()))

    async def watched_images(self) -> list[tuple[int, str, float]]:
        """(id, watch, when it was COMPLETE) of every montage whose images are still looked at."""
        return await self.ask(imagesread.watched)

    async def end_watching_images(self, montage_id: int) -> None:
        """Records that the images of a montage are looked at no more."""
        await self.run(lambda connection: imagesread.end_watch(connection, montage_id))

    async def forget_tiles(self, montage_id: int) -> None:
        """Forgets which tiles are made, so that all are made again."""
        await self.run(lambda connection: connection.execute("DELETE FROM tiles WHERE montage_id = ?", (montage_id,)))

    async def tile_ids(self, montage_id: int) -> frozenset[str]:
        """Ids of a montage's tiles."""
        return await self.ask(lambda connection: tilesets.tile_ids(connection, montage_id))

    async def former_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Ids of tiles that the montages superseded by this one had put into a stack, and this one does not hold.

        Superseded are former contents of its path, and of paths that its metafile had before.
        """
        return await self.ask(lambda connection: tilesets.former_tile_ids(connection, montage, stack))

    async def unwanted_tile_ids(self, montage: Montage, stack: str) -> frozenset[str]:
        """Those of `former_tile_ids` that no montage of the stack holds, unless it is superseded."""
        return await self.ask(lambda connection: tilesets.unwanted_tile_ids(connection, montage, stack))

    async def has_put_nothing(self, montage_id: int) -> bool:
        """Whether no tile of a montage was ever put into a stack by this journal's daemon, as far as can be known."""
        query = (
            "SELECT NOT EXISTS (SELECT 1 FROM events WHERE montage_id = :id"
            " AND event NOT IN ('noticed', 'renoticed', 'settled')) AND NOT EXISTS (SELECT 1 FROM attempts"
            " WHERE montage_id = :id AND step = 'ingest' AND ended_at IS NOT NULL)"
        )
        return await self.ask(lambda connection: bool(connection.execute(query, {"id": montage_id}).fetchone()[0]))

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
        return await self.ask(
            lambda connection: connection.execute("SELECT stack, watch FROM open_stacks ORDER BY stack").fetchall()
        )

    # --- questions

    async def montage(self, montage_id: int) -> Montage | None:
        """The montage of this id."""
        return await self.ask(lambda connection: rows.find(connection, rows.BY_ID, (montage_id,)))

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
        return await self.ask(lambda connection: rows.select(connection, where, limit=limit, newest=newest_first))

    async def unfinished(self) -> list[tuple[int, str, MontageState, str]]:
        """(id, acquired, state, watch) of every montage that has a step to do."""
        return await self.ask(rows.unfinished)

    async def events(self, montage_id: int) -> list[dict[str, Any]]:
        """Events of a montage, first to last."""
        return await self.ask(lambda connection: rows.events(connection, montage_id))

    async def attempts(self, montage_id: int) -> list[dict[str, Any]]:
        """Attempts of a montage, first to last."""
        return await self.ask(lambda connection: rows.attempts(connection, montage_id))

    async def counts(self) -> dict[tuple[str, MontageState], int]:
        """How many montages of each watch are in each state."""
        return await self.ask(
            lambda connection: {
                (watch, MontageState(state)): count
                for watch, state, count in connection.execute(
                    "SELECT watch, state, count(*) FROM montages GROUP BY watch, state"
                )
            }
        )

    async def oldest_unfinished_s(self) -> float | None:
        """Age of the unfinished montage that was noticed first, seconds; None if there is none."""
        # The + keeps SQLite from walking over all rows in the order of their ids.
        first = f"SELECT min(+id) FROM montages WHERE state IN ({rows.UNFINISHED_STATES})"  # noqa: S608  constant text
        query = f"SELECT id, noticed_at FROM montages WHERE id = ({first})"  # noqa: S608  constant text
        oldest = await self.ask(lambda connection: connection.execute(query).fetchone())
        return None if oldest is None else self._ages.seconds(*oldest)

    def age_s(self, montage: Montage) -> float:
        """Seconds since the montage was noticed."""
        return self._ages.seconds(montage.id, montage.noticed_at)

    async def known_metafiles(self) -> dict[str, int]:
        """How many metafiles of each watch the journal knows."""
        return await self.ask(
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
