"""Locks on watched directories and journals. The kernel releases them when the process dies, however it dies."""

import errno
import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from handlers.errors import Fault, SettingsFault, StorageFault, storage_fault
from handlers.text import printable

_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN})
_NEEDS_A_PERSON = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS})
_PROC_LOCKS = Path("/proc/locks")


class UnusableJournalDirectory(SettingsFault):
    """The journal's directory does not exist, or this user may not write there. A restart does not help."""

    exit_code = 2


class JournalHeld(SettingsFault):
    """Another process uses the journal."""


class RootLock:
    """A lock that this process holds until `close`."""

    def __init__(self, directory: Path, descriptor: int, *, is_on_directory: bool) -> None:
        self.directory = directory
        self.is_on_directory = is_on_directory
        """False where the file system has no locks: then a file in the state directory is locked in its stead."""
        self._descriptor: int | None = descriptor

    def note(self, text: str) -> None:
        """Write facts about this process into the lock file, where other processes read them with `owner_note`."""
        if self._descriptor is not None and not self.is_on_directory:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)

    def close(self) -> None:
        """Release the lock. May be called again."""
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
    """Takes a directory for this process, without writing in it.

    Parameters
    ----------
    directory : must be there.
    state_directory : where a lock file may lie if the directory's file system has no locks (NFS grants none on a
        directory). Such a file keeps apart the daemons that share the state directory, and no others.

    Raises
    ------
    SettingsFault
        If another process owns it.
    StorageFault
        If it cannot be opened, or can be locked in neither way.
    """
    descriptor = _open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _flock(descriptor, directory):
            return RootLock(directory, descriptor, is_on_directory=True)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return _lock_beside(directory, state_directory)


def owner_note(journal: Path) -> str:
    """Return the note of a journal's last owner, or an empty text. Valid only while a process owns the journal."""
    try:
        return _lock_file(journal).read_text(errors="replace").strip()
    except OSError:
        return ""


def journal_owner(journal: Path) -> int | None:
    """Return the process that uses a journal; None if there is none, or the kernel does not report it."""
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
        If another process works with it.
    UnusableJournalDirectory
        If no file can be created beside it before a person changes something.
    StorageFault
        If the lock file cannot be made for another reason.
    """
    try:
        descriptor = _open(_lock_file(journal), os.O_RDWR | os.O_CREAT)
    except StorageFault as fault:
        if getattr(fault.__cause__, "errno", None) in _NEEDS_A_PERSON:
            hint = "create the directory and let the service's user write there"
            problem = f"no file can be created in {printable(journal.parent)}: {fault.__cause__.strerror}"  # type: ignore[union-attr]
            raise UnusableJournalDirectory("journal.path", problem, hint) from fault
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        who = f" (process {owner})" if owner else ""
        if error.errno in _HELD:
            hint = "each daemon has a journal of its own"
            raise JournalHeld("journal.path", f"{printable(journal)} is used by another temwatch{who}", hint) from error
        hint = "keep the journal on a local disk"
        raise SettingsFault("journal.path", f"{printable(journal)} is on a file system without locks", hint) from error
    lock = RootLock(journal.parent, descriptor, is_on_directory=False)
    lock.note("")  # deletes the note of the previous owner
    return lock


def _lock_beside(directory: Path, state_directory: Path | None) -> RootLock:
    if state_directory is None:
        hint = "give the daemon a state directory on a local disk"
        raise SettingsFault(printable(directory), "its file system has no locks", hint)
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
    descriptor = _open(state_directory / f"{name}.lock", os.O_RDWR | os.O_CREAT)
    try:
        if _flock(descriptor, directory):
            return RootLock(directory, descriptor, is_on_directory=False)
        hint = "keep the journal on a local disk"
        raise SettingsFault(printable(directory), f"neither it nor {printable(state_directory)} can be locked", hint)
    except BaseException:
        os.close(descriptor)
        raise


def _open(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise storage_fault(printable(path), "open it to lock it", error) from error


def _flock(descriptor: int, directory: Path) -> bool:
    """Whether the lock was had; False if there are no locks here.

    Raises
    ------
    Fault
        If another process holds it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            raise _owned(directory, descriptor) from error
        return False
    return True


def _owned(directory: Path, descriptor: int) -> Fault:
    owner = _owner(descriptor)
    if owner == os.getpid():
        hint = "drop one of the two watches; a metafile belongs to one"
        problem = "is watched by another temwatch, or by another watch of this one under a second name"
        return SettingsFault(printable(directory), problem, hint)
    who = f" (process {owner})" if owner else ""
    hint = "stop the other one, or let one of them watch another directory"
    return SettingsFault(printable(directory), f"is watched by another temwatch{who}", hint)


def _owner(descriptor: int) -> int | None:
    """Return the process that holds the lock on an open file, where the kernel reports it."""
    status = os.fstat(descriptor)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = _PROC_LOCKS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()  # 1: FLOCK  ADVISORY  WRITE 1234 fe:00:245923 0 EOF
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5] == place and int(fields[4]) > 0:
            return int(fields[4])
    return None
