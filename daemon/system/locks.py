"""Locks on watched directories and journals. The kernel releases them when the process ends, even by SIGKILL."""

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from handlers.errors import Fault, SettingsFault, StorageFault, reading_fault, storage_fault
from handlers.text import printable

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN})
_NEEDS_AN_OPERATOR = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS})
_PROC_LOCKS = Path("/proc/locks")


class UnusableJournalDirectory(SettingsFault):
    """The journal's directory does not exist, or this user may not write there. A restart does not help."""

    exit_code = 2


class JournalHeld(SettingsFault):
    """Another process uses the journal."""


class RootLock:
    """A lock that this process holds until `close`."""

    def __init__(self, directory: Path, descriptor: int, *, is_on_directory: bool, remark: str = "") -> None:
        self.directory = directory
        self.is_on_directory = is_on_directory
        """False if a lock file is locked instead of the directory."""
        self.remark = remark
        """Reason why the directory itself is not locked, if an operator should know it; otherwise empty."""
        self._descriptor: int | None = descriptor

    def note(self, text: str) -> None:
        """Write facts about this process into the lock file, where other processes read them with `owner_note`."""
        if self._descriptor is not None and not self.is_on_directory:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def lock_root(directory: Path, state_directory: Path | None = None) -> RootLock:
    """Lock a directory for this process, without writing in it.

    The lock is on the directory itself, so it also excludes daemons with other state directories. Any user who can read
    the directory can lock it, too. A lock of another user is ignored: a lock file in the state directory, named by
    device and inode of the directory, then excludes the daemons that share this state directory.

    Parameters
    ----------
    directory : must exist.
    state_directory : for the lock file where the directory cannot be locked: another user has locked it, or its file
        system has no locks (NFS has none for directories).

    Raises
    ------
    SettingsFault
        If another temwatch of this user or of root holds the lock.
    StorageFault
        If the directory cannot be opened or locked, or the kernel does not name the process that holds the lock.
    """
    descriptor = _open(directory, os.O_RDONLY | os.O_DIRECTORY)
    remark = ""
    try:
        refusal = _try_lock(descriptor)
        if refusal is None:
            return RootLock(directory, descriptor, is_on_directory=True)
        if refusal.errno in _HELD:
            remark = _remark_on_holder(directory, _owner(descriptor))
        status = os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return _lock_in(state_directory, directory, f"{status.st_dev:x}-{status.st_ino:x}", remark)


def require_unwatched(directory: Path, daemon: int | None) -> str:
    """Raise the fault that `lock_root` would raise because another process has locked a directory. Locks nothing.

    Parameters
    ----------
    daemon : id of a process whose lock is ignored.

    Returns
    -------
    A remark for an operator if a process of another user has locked it; otherwise an empty text.
    """
    descriptor = _open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        owner = _owner(descriptor)
    finally:
        os.close(descriptor)
    return "" if owner in (None, daemon) else _remark_on_holder(directory, owner)


def owner_note(journal: Path) -> str:
    """Return the note of a journal's last owner, or an empty text. Valid only while a process owns the journal."""
    try:
        return _lock_file(journal).read_text(errors="replace").strip()
    except OSError:
        return ""


def journal_owner(journal: Path) -> int | None:
    """Return the id of the process that uses a journal; None if there is none or the kernel does not report it."""
    try:
        with _lock_file(journal).open("rb") as file:
            return _owner(file.fileno())
    except OSError:
        return None


def _lock_file(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.lock")


def lock_journal(journal: Path) -> RootLock:
    """Lock a journal for this process, with a lock file beside it: SQLite uses its own locks on the journal itself.

    Raises
    ------
    JournalHeld
        If another process uses it.
    UnusableJournalDirectory
        If no file can be created beside it until an operator creates the directory or changes its permissions.
    StorageFault
        If the lock file cannot be created for another reason.
    """
    try:
        descriptor = os.open(_lock_file(journal), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise _lock_file_fault(journal, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        who = f" (process {owner})" if owner else ""
        if error.errno in _HELD:
            hint = "stop the other one, or give this one a journal of its own"
            raise JournalHeld("journal.path", f"{printable(journal)} is used by another temwatch{who}", hint) from error
        hint = "keep the journal on a local disk"
        raise SettingsFault("journal.path", f"{printable(journal)} is on a file system without locks", hint) from error
    lock = RootLock(journal.parent, descriptor, is_on_directory=False)
    lock.note("")  # deletes the note of the previous owner
    return lock


def require_lockable(journal: Path) -> None:
    """Raise the fault that `lock_journal` would raise because of the journal's directory. Creates and locks nothing."""
    try:
        _require_creatable(_lock_file(journal))
    except OSError as error:
        raise _lock_file_fault(journal, error) from error


def _require_creatable(path: Path) -> None:
    """Raise the OSError of opening a file for writing that is created if it is missing."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        if os.statvfs(path.parent).f_flag & os.ST_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS)) from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _lock_file_fault(journal: Path, error: OSError) -> StorageFault | UnusableJournalDirectory:
    if error.errno not in _NEEDS_AN_OPERATOR:
        return storage_fault(printable(_lock_file(journal)), "open it", error)
    problem = f"no file can be created in {printable(journal.parent)}: {error.strerror}"
    hint = "create the directory and let the service's user write there"
    return UnusableJournalDirectory("journal.path", problem, hint)


def _lock_in(state_directory: Path | None, directory: Path, name: str, remark: str) -> RootLock:
    if state_directory is None:
        hint = "give the daemon a state directory on a local disk"
        raise SettingsFault(printable(directory), remark or "its file system has no locks", hint)
    descriptor = _open(state_directory / f"{name}.lock", os.O_RDWR | os.O_CREAT)
    try:
        refusal = _try_lock(descriptor)
        if refusal is None:
            return RootLock(directory, descriptor, is_on_directory=False, remark=remark)
        if refusal.errno in _HELD:
            raise _watched_fault(directory, _owner(descriptor))
        hint = "keep the journal on a local disk"
        raise SettingsFault(printable(directory), f"neither it nor {printable(state_directory)} can be locked", hint)
    except BaseException:
        os.close(descriptor)
        raise


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o640)
    except OSError as error:
        fault = reading_fault if flags & os.O_DIRECTORY else storage_fault
        raise fault(printable(path), "open it", error) from error


def _try_lock(descriptor: int) -> OSError | None:
    """Lock an open file; return the error if it is locked already or its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error
    return None


def _remark_on_holder(directory: Path, owner: int | None) -> str:
    """Return a remark if another user's process has locked a directory; otherwise raise a fault."""
    if owner is None or not _exists(owner):
        hint = "stop the process that locks it; the daemon retries"
        raise StorageFault(printable(directory), "is locked by a process that the kernel does not name", hint)
    user = _user_of(owner)
    if user in {os.geteuid(), 0}:
        raise _watched_fault(directory, owner)
    who = "another user" if user is None else f"user {user}"
    return (
        f"process {owner} of {who} locks the directory, and temwatch works regardless: "
        "if that process is a temwatch, stop one of the two"
    )


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _user_of(process: int) -> int | None:
    """Return the effective user id of a process; None if /proc hides it. It hides only processes of other users."""
    try:
        # The owner of /proc/PID is useless: it is root for every process that forbids core dumps.
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[2]) for line in lines if line.startswith("Uid:")), None)


def watched_twice_fault(directory: Path) -> SettingsFault:
    """Return the fault of a directory that two watches of one configuration name, by different paths."""
    hint = "remove one of the two watches; a metafile belongs to one watch"
    problem = "is watched by another temwatch, or by another watch of this one under a second name"
    return SettingsFault(printable(directory), problem, hint)


def _watched_fault(directory: Path, owner: int | None) -> Fault:
    if owner == os.getpid():
        return watched_twice_fault(directory)
    who = f" (process {owner})" if owner else ""
    hint = "stop the other one, or let one of them watch another directory"
    return SettingsFault(printable(directory), f"is watched by another temwatch{who}", hint)


def _owner(descriptor: int) -> int | None:
    """Return the id of the process that holds the lock on an open file; None if the kernel does not report it."""
    status = os.fstat(descriptor)
    try:
        holders = lock_holders(_PROC_LOCKS.read_text(), status.st_dev, status.st_ino)
    except OSError:
        return None
    return min(holders, key=lambda process: _user_of(process) not in {os.geteuid(), 0}, default=None)


def lock_holders(proc_locks: str, device: int, inode: int) -> list[int]:
    """Return the ids of the processes that hold a lock on a file, from the text of /proc/locks.

    On btrfs and some overlays, stat reports another device number than /proc/locks. Then all locks on files with the
    same inode number count.

    >>> lock_holders("1: FLOCK  ADVISORY  WRITE 1234 fe:00:245923 0 EOF", os.makedev(0xFE, 0), 245923)
    [1234]
    >>> lock_holders("1: FLOCK  ADVISORY  WRITE 1234 00:2b:245923 0 EOF", os.makedev(0xFE, 0), 245923)
    [1234]
    >>> lock_holders("1: POSIX  ADVISORY  WRITE 1234 fe:00:245923 0 EOF", os.makedev(0xFE, 0), 245923)
    []
    """
    exact: list[int] = []
    alike: list[int] = []
    for line in proc_locks.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}") and int(fields[4]) > 0:
            is_exact = fields[5] == f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
            (exact if is_exact else alike).append(int(fields[4]))
    return exact or alike
