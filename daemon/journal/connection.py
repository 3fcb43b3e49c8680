"""The journal's two connections, each owned by one thread, which run closures in transactions."""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import structlog

from daemon.journal.copies import copy_journal
from daemon.journal.faults import JournalLocked, deleted_fault, journal_fault
from daemon.journal.file import (
    BUSY_S,
    Examination,
    OpenFile,
    are_in_place,
    connect,
    connect_beside,
    connect_read_only,
    open_files,
)
from daemon.journal.transaction import Connection, transaction
from daemon.system.threads import DaemonThreads
from handlers.errors import StorageFault

T = TypeVar("T")

log = structlog.get_logger()

RETRY_S = 2.0
"""Delay before access to an unusable journal is retried."""
LOCKED_RETRY_S = 0.1
"""Delay before a write to a locked journal is retried."""
BLOCKED_S = 3.0
"""A stopping daemon does not wait for a lock that has lasted longer."""
STUCK_S = 10.0
"""A transaction that takes longer counts as hung: the disk does not answer."""
CLOSE_S = 5.0
"""Longest wait of a close for queued transactions."""


class JournalConnection:
    """One connection for writing and one for reading, each used by one thread.

    A read sees all committed transactions and never waits for a write.

    Parameters and exceptions: see `Journal`.
    """

    def __init__(self, path: Path, *, read_only: bool = False, examination: Examination | None = None) -> None:
        self.path = path
        self._read_only = read_only
        self._examination = examination
        self._write_thread = DaemonThreads("journal", most=1)
        self._read_thread = DaemonThreads("journal reader", most=1)
        self._writer: Connection | None = None
        self._reader: Connection | None = None
        self._fault: StorageFault | None = None
        self._files: tuple[OpenFile, ...] = ()
        self._file_fault: StorageFault | None = None
        self.is_new = False
        """Whether opening created the journal."""
        self._transaction_began: float | None = None
        """Start of the write that is in progress; None between writes."""
        self._locked_since: float | None = None
        self._is_given_up = False
        self._next_write = asyncio.Event()

    @property
    def fault(self) -> StorageFault | None:
        """Why the journal cannot be written now; None if it can."""
        began = self._transaction_began
        if began is not None and (stuck_s := time.monotonic() - began) > STUCK_S:
            problem = f"the journal has not answered for {stuck_s:.0f} s"
            return StorageFault(str(self.path), problem, "check that its disk answers")
        return self._file_fault or self._fault

    @property
    def is_blocked(self) -> bool:
        """Whether the journal cannot be written, or has been locked for some seconds."""
        locked_since = self._locked_since
        return self.fault is not None or (locked_since is not None and time.monotonic() - locked_since > BLOCKED_S)

    async def __aenter__(self) -> Self:
        try:
            await asyncio.get_running_loop().run_in_executor(self._write_thread, self._open)
        except BaseException:
            # The thread opens the file even if this task is cancelled, so the file is closed afterwards.
            self._write_thread.submit(self._close_reader)
            self._end_threads()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CLOSE_S):
                # The writer closes last: SQLite's last connection removes the -wal file.
                await loop.run_in_executor(self._read_thread, self._close_reader)
                await loop.run_in_executor(self._write_thread, self._close_writer)
        except TimeoutError:
            log.error("journal.left_open", journal=str(self.path), hint="its disk does not answer")
        finally:
            self._end_threads()

    def _end_threads(self) -> None:
        """End both threads without waiting; each closes its connection first, as soon as the disk lets it."""
        for threads, close in ((self._read_thread, self._close_reader), (self._write_thread, self._close_writer)):
            threads.submit(close)
            threads.shutdown(wait=False)

    def _open(self) -> None:
        self.is_new = not self._read_only and not self.path.exists()
        try:
            if not self._read_only:
                self._writer = connect(self.path, self._examination)
            self._reader = connect_read_only(self.path) if self._read_only else connect_beside(self.path)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error
        if not self._read_only:
            self._files = open_files(self.path)

    def _check_files(self) -> StorageFault | None:
        """Return and remember a fault if the files at the journal's path are not the open ones; None if they are.

        SQLite continues with a deleted file without an error, and everything written to it is lost at the end.
        """
        fault = None if are_in_place(self._files) else deleted_fault(self.path)
        if fault is not None and self._file_fault is None:
            log.error("journal.deleted", fault=str(fault))
        self._file_fault = fault
        return fault

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def give_up(self) -> None:
        """Stop recording: cancel every task that waits for a write."""
        self._is_given_up = True

    async def write(self, closure: Callable[[Connection], T]) -> T:
        """Return the closure's result, run on the writing thread in one transaction.

        While the journal cannot be written (its disk is full, for example), this waits and retries. So no record is
        lost, and the caller never continues without its record.
        """
        if self._read_only:
            raise StorageFault(str(self.path), "the journal is opened for reading only")
        while True:
            if self._is_given_up:
                raise asyncio.CancelledError("the journal is closed: its disk does not answer")
            work = asyncio.get_running_loop().run_in_executor(self._write_thread, self._transact, closure)
            work.add_done_callback(self._end_write)  # even if the caller is cancelled: the write continues
            try:
                result = await asyncio.shield(work)  # a cancelled caller does not interrupt the write
            except StorageFault as fault:
                await asyncio.sleep(self._note_failed_write(fault))
            else:
                self._fault = self._locked_since = None
                return result

    @property
    def next_write(self) -> asyncio.Event:
        """Event that is set when the next write ends. Get it before a read, so that no write is missed."""
        return self._next_write

    def _end_write(self, _: object) -> None:
        ended, self._next_write = self._next_write, asyncio.Event()
        ended.set()

    def _note_failed_write(self, fault: StorageFault) -> float:
        """Return the delay until the write is retried, seconds. A lock becomes a fault only after `BUSY_S`."""
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
        if self._writer is None:
            raise RuntimeError("the journal is closed")
        if self._is_given_up:
            raise StorageFault(str(self.path), "the journal is closed: its disk does not answer")
        if (fault := self._check_files()) is not None:
            raise fault
        self._transaction_began = time.monotonic()
        try:
            with transaction(self._writer) as connection:
                return closure(connection)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error
        finally:
            self._transaction_began = None

    async def read(self, closure: Callable[[Connection], T]) -> T:
        """Return the closure's result, run on the reading thread in one transaction.

        While the journal cannot be read, this waits and retries, unless the journal was opened for reading only.
        """
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._read_thread, self._transact_read, closure)
            except StorageFault:
                if self._read_only or self._is_given_up:
                    raise
                await asyncio.sleep(RETRY_S)

    def _transact_read(self, closure: Callable[[Connection], T]) -> T:
        if self._reader is None:
            raise RuntimeError("the journal is closed")
        self._check_files()
        try:
            with transaction(self._reader, read_only=True) as connection:
                return closure(connection)
        except sqlite3.DatabaseError as error:
            raise journal_fault(self.path, error) from error

    async def back_up(self, target: Path) -> int:
        """Copy the journal to a new file; return the number of montages in it.

        This also works after the journal's file was deleted.

        Raises
        ------
        StorageFault, OSError
            If the copy cannot be written.
        """
        return await asyncio.get_running_loop().run_in_executor(self._read_thread, self._copy, target)

    def _copy(self, target: Path) -> int:
        if self._reader is None:
            raise RuntimeError("the journal is closed")
        return copy_journal(self._reader, self.path, target)
