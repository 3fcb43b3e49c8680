"""Substitutes of clocks, threads, file attributes and free space, for the whole process.

Call `install` before any module of the daemon is imported: a default argument such as `clock=time.monotonic` is
evaluated on import. Because the standard library is substituted and not the daemon, every use of a clock is virtual, in
future code too. Without a current machine the substitutes call the functions that they replace.
"""

import fcntl
import gc
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.simulation.loop import SimulatedLoop

WALL_AT_START_S = 1_500_000_000.0
"""Seconds since 1970 at the start of a scenario: July 2017, before any real time of a file."""
FREE_BYTES = 10**13
"""Free space of a disk that is not full."""

_real_time_ns = time.time_ns
_real_stat, _real_lstat, _real_fstat, _real_scandir = os.stat, os.lstat, os.fstat, os.scandir
_real_start, _real_flock, _real_connect = threading.Thread.start, fcntl.flock, sqlite3.connect
_real_disk_usage, _real_open, _real_collect = shutil.disk_usage, os.open, gc.collect

Identity = tuple[int, int]
"""Device and inode."""


class Usage(NamedTuple):
    """Result of `shutil.disk_usage`."""

    total: int
    used: int
    free: int


class Machine:
    """The computer of one scenario: clocks, times of files, free space, and the locks and databases of its process."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.started_at = loop.now
        self.real_start_ns = _real_time_ns()
        self.disk_is_full = False
        self._changed: dict[Identity, int] = {}
        self._seen: dict[tuple[Identity, int], int] = {}
        self._inodes: dict[Identity, int] = {}
        self._locked: list[int] = []
        self._connections: list[sqlite3.Connection] = []

    # --- clocks

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self.loop.now

    def wall(self) -> float:
        """Virtual seconds since 1970."""
        return WALL_AT_START_S + self.loop.now - self.started_at

    def wall_ns(self) -> int:
        """Virtual nanoseconds since 1970."""
        return int(self.wall() * 1e9)

    # --- files

    def changed(self, path: str | os.PathLike[str], *, mtime_ns: int | None = None) -> None:
        """Set the times of a file or directory that was changed now.

        Parameters
        ----------
        mtime_ns : the mtime, if the program that changed the file sets it; None: now. The ctime is always now.
        """
        now_ns = self.wall_ns()
        os.utime(path, ns=(now_ns, now_ns if mtime_ns is None else mtime_ns))
        found = _real_lstat(path)
        self._changed[found.st_dev, found.st_ino] = now_ns

    def moved(self, path: str | os.PathLike[str]) -> None:
        """Set the ctime of a file or directory that was renamed now; its mtime stays the same."""
        found = _real_lstat(path)
        self._changed[found.st_dev, found.st_ino] = self.wall_ns()

    def shown(self, found: os.stat_result) -> os.stat_result:
        """Return the attributes of a file with virtual times and a virtual inode."""
        identity = found.st_dev, found.st_ino
        mtime_ns = self._virtual_ns(identity, found.st_mtime_ns)
        ctime_ns = self._changed.get(identity) or self._virtual_ns(identity, found.st_ctime_ns)
        inode = self._inodes.setdefault(identity, len(self._inodes) + 100)
        whole = (mtime_ns // 10**9, mtime_ns // 10**9, ctime_ns // 10**9)
        more = {
            "st_atime": mtime_ns / 1e9,
            "st_mtime": mtime_ns / 1e9,
            "st_ctime": ctime_ns / 1e9,
            "st_atime_ns": mtime_ns,
            "st_mtime_ns": mtime_ns,
            "st_ctime_ns": ctime_ns,
            "st_blksize": found.st_blksize,
            "st_blocks": found.st_blocks,
            "st_rdev": found.st_rdev,
        }
        sequence = (found.st_mode, inode, found.st_dev, found.st_nlink, found.st_uid, found.st_gid, found.st_size)
        return os.stat_result((*sequence, *whole), more)

    def _virtual_ns(self, identity: Identity, real_ns: int) -> int:
        """Return the virtual time at which this real time of the file was seen first."""
        if real_ns < self.real_start_ns - 10**9:
            return real_ns
        return self._seen.setdefault((identity, real_ns), self.wall_ns())

    def disk_usage(self) -> Usage:
        """Return the usage of any disk."""
        return Usage(FREE_BYTES, 0, 0 if self.disk_is_full else FREE_BYTES)

    # --- locks and databases of the process

    def add_lock(self, descriptor: int) -> None:
        """Note that the process has locked a file."""
        self._locked.append(descriptor)

    def add_connection(self, connection: sqlite3.Connection) -> None:
        """Note that the process has opened a database."""
        self._connections.append(connection)

    def end_process(self) -> None:
        """Release the locks and databases, as the kernel does when a process is killed."""
        for descriptor in self._locked:
            try:
                _real_flock(descriptor, fcntl.LOCK_UN)
            except OSError:
                continue  # the daemon has closed the file
        self._locked.clear()
        for connection in self._connections:
            connection.close()
        self._connections.clear()


_current: Machine | None = None


def use(machine: Machine | None) -> None:
    """Make this the current machine, which all substitutes use; None: there is none."""
    global _current  # noqa: PLW0603  a process has at most one machine
    _current = machine


# --- file attributes


class _Entry:
    """An entry of a directory, with virtual times."""

    __slots__ = ("_entry", "name", "path")

    def __init__(self, entry: "os.DirEntry[str]") -> None:
        self._entry = entry
        self.name = entry.name
        self.path = entry.path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """See os.DirEntry."""
        return _shown(self._entry.stat(follow_symlinks=follow_symlinks))

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """See os.DirEntry."""
        return self._entry.is_dir(follow_symlinks=follow_symlinks)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """See os.DirEntry."""
        return self._entry.is_file(follow_symlinks=follow_symlinks)

    def is_symlink(self) -> bool:
        """See os.DirEntry."""
        return self._entry.is_symlink()

    def inode(self) -> int:
        """See os.DirEntry."""
        return self.stat(follow_symlinks=False).st_ino

    def __fspath__(self) -> str:
        return self.path


class _Entries:
    """Result of os.scandir, ordered by name: the order of a real directory differs from run to run."""

    def __init__(self, found: list["os.DirEntry[str]"]) -> None:
        self._entries = iter([_Entry(entry) for entry in sorted(found, key=lambda each: each.name)])

    def __iter__(self) -> Iterator[_Entry]:
        return self._entries

    def __next__(self) -> _Entry:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def close(self) -> None:
        """See os.scandir."""


def _shown(found: os.stat_result) -> os.stat_result:
    return found if _current is None else _current.shown(found)


def _before_file_call() -> None:
    if _current is not None:
        _current.loop.before_file_call()


def _open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    _before_file_call()
    return _real_open(path, flags, mode, dir_fd=dir_fd)


def _stat(path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
    _before_file_call()
    return _shown(_real_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks))


def _lstat(path: Any, *, dir_fd: int | None = None) -> os.stat_result:
    _before_file_call()
    return _shown(_real_lstat(path, dir_fd=dir_fd))


def _fstat(descriptor: int) -> os.stat_result:
    _before_file_call()
    return _shown(_real_fstat(descriptor))


def _scandir(path: Any = ".") -> Any:
    if _current is None:
        return _real_scandir(path)
    _before_file_call()
    with _real_scandir(path) as entries:
        return _Entries(list(entries))


def _disk_usage(path: Any) -> Any:
    return _real_disk_usage(path) if _current is None else _current.disk_usage()


# --- threads, locks, databases


def _collect(generation: int = 2) -> int:
    """Do nothing in a scenario: collecting the tasks of a killed daemon would run their `finally` blocks."""
    return _real_collect(generation) if _current is None else 0


def _start(thread: threading.Thread) -> None:
    if _current is None:
        _real_start(thread)
    else:
        context = copy_context()
        _current.loop.start_thread(lambda: context.run(thread.run))


def _flock(descriptor: Any, operation: int) -> None:
    _real_flock(descriptor, operation)
    if _current is not None and operation & fcntl.LOCK_EX:
        _current.add_lock(descriptor if isinstance(descriptor, int) else descriptor.fileno())


_REPLACED_SQL = {"PRAGMA synchronous": "PRAGMA synchronous = OFF", "PRAGMA busy_timeout": "PRAGMA busy_timeout = 0"}


class _QuickConnection(sqlite3.Connection):
    """A connection that does not wait for the disk, since a scenario has no power cuts, or for a lock."""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """See sqlite3.Connection."""
        return super().execute(_REPLACED_SQL.get(sql.partition(" =")[0], sql), *values)


def _connect(*args: Any, **kwargs: Any) -> sqlite3.Connection:
    if _current is None:
        return _real_connect(*args, **kwargs)
    connection = _real_connect(*args, **{**kwargs, "factory": _QuickConnection, "timeout": 0})
    _current.add_connection(connection)
    return connection


def _clock(name: str, virtual: Callable[[Machine], Any]) -> Callable[[], Any]:
    real = getattr(time, name)

    def clock() -> Any:
        return real() if _current is None else virtual(_current)

    return clock


def install() -> None:
    """Install the substitutes for the rest of the process."""
    time.time = _clock("time", Machine.wall)
    time.time_ns = _clock("time_ns", Machine.wall_ns)
    time.monotonic = _clock("monotonic", Machine.monotonic)
    time.monotonic_ns = _clock("monotonic_ns", lambda machine: int(machine.monotonic() * 1e9))
    os.stat, os.lstat, os.fstat, os.scandir = _stat, _lstat, _fstat, _scandir  # type: ignore[assignment]
    os.open = _open
    os.fsync = lambda descriptor: None
    shutil.disk_usage = _disk_usage
    gc.collect = _collect
    threading.Thread.start = _start  # type: ignore[method-assign]
    fcntl.flock = _flock
    sqlite3.connect = _connect  # type: ignore[assignment]
