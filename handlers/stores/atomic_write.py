"""Putting a level's file in place atomically: write it under a temporary name, read it back, rename, check the header.

docs/decisions/atomic-writes.md gives the reason for each step. The code uses system calls directly: for small tiles,
Python's file objects and paths would take most of the time.
"""

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handlers.container import Container
from handlers.errors import Fault, ImageFault, ImagesMissing, SettingsFault, StorageFault, storage_fault
from handlers.images.decode import verify_level
from handlers.images.encode import PLAIN_START_BYTES, Encoding, Page
from handlers.images.header import inspect_image
from handlers.sharing import AS_MADE, Sharing, make_directories
from handlers.stores.temporary import remove, sweep, temporary_name

READ_BACK_BYTES = 64 * 1024
"""Bytes that are read back at once, so that they are compared while they are in the cache."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC
_SYNC_FILE_RANGE_WRITE = 2
_FAILURES = (OSError, ImageFault, ImagesMissing)

Seen = Callable[[bytes | bytearray], object]
"""Called with the bytes of a file, piece by piece."""


def write_beside(
    level: int,
    path: Path,
    page: Page,
    encoding: Encoding,
    container: Container | None = None,
    seen: Seen | None = None,
    sharing: Sharing = AS_MADE,
) -> "LevelBeside":
    """Write a level's file under a temporary name, and compare it after reading it back. Write-back is started.

    Parameters
    ----------
    container : directory of all levels, below which no link is followed; None: links are followed.
    seen : called with the file's bytes as they are read back.
    sharing : modes and group of the file, set before it gets its name, and of new directories.

    Raises
    ------
    StorageFault
        If the disk or mount fails, or the file reads back differently.
    SettingsFault
        If the name is too long for the disk.
    """
    try:
        parent = path.parent
        directory = _open_parent(parent, container, sharing)
        try:
            sweep(str(parent), directory)
            replaces, temporary = _exists(path.name, directory), temporary_name(path.name)
            descriptor = _write_compared(temporary, directory, path, page, encoding, seen, sharing)
        except BaseException:
            os.close(directory)
            raise
    except _FAILURES as error:
        raise _fault(level, path, error) from error
    return LevelBeside(level, path, page, encoding.is_plain, temporary, directory, descriptor, replaces)


@dataclass(slots=True)
class LevelBeside:
    """A `BegunLevel`: a file that has a temporary name and was compared. The caller calls `finish` or `drop`."""

    level: int
    path: Path
    page: Page
    is_plain: bool
    temporary: str
    """Name in the directory."""
    directory: int
    """Descriptor of the directory. Names below it stay valid if the directory is renamed."""
    descriptor: int
    """Descriptor of the file, opened before it was written, so that its sync reports a failed write-back."""
    replaces: bool
    """Whether a file existed before."""

    def finish(self) -> bool:
        """Sync the file, rename it into place, check it there, and return `replaces`.

        The name is durable after `sync_directories`.

        Raises
        ------
        StorageFault
            If the disk or mount fails. The former file is still in place, unless the check after the rename failed.
        """
        name, directory = self.path.name, self.directory
        try:
            try:
                os.fsync(self.descriptor)
                os.replace(self.temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                remove(self.temporary, directory)
                raise
            _require_in_place(self.path, directory, self.page, self.is_plain)
        except _FAILURES as error:
            raise _fault(self.level, self.path, error) from error
        finally:
            self._close()
        return self.replaces

    def drop(self) -> None:
        """Remove the temporary file."""
        remove(self.temporary, self.directory)
        self._close()

    def _close(self) -> None:
        os.close(self.descriptor)
        os.close(self.directory)


def _fault(level: int, path: Path, error: OSError | ImageFault | ImagesMissing) -> Fault:
    """Return the fault of a level that could not be written."""
    if not isinstance(error, OSError):
        return _reads_differently(path, error.problem)
    if error.errno == errno.ENAMETOOLONG:
        problem = f"gives a file name that is too long for the disk: {path}"
        return SettingsFault("mipmaps.output_dir", problem, "shorten the name of the image")
    return storage_fault(str(path), f"write level {level}", error)


def _open_parent(directory: Path, container: Container | None, sharing: Sharing) -> int:
    if container:
        return container.open_directory(directory, create=True, made=sharing.share_directory)
    try:
        return os.open(directory, _READ | os.O_DIRECTORY)
    except FileNotFoundError:
        make_directories(directory, sharing)
        return os.open(directory, _READ | os.O_DIRECTORY)


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _path_of(name: str, directory: int) -> Path:
    """Return a path of a file in an open directory, for functions that take no descriptor."""
    return Path(f"/proc/self/fd/{directory}/{name}")


def _write_compared(
    temporary: str, directory: int, path: Path, page: Page, encoding: Encoding, seen: Seen | None, sharing: Sharing
) -> int:
    """Write the page to a temporary file, compare it, and return the file's descriptor."""
    descriptor = os.open(temporary, _CREATE, 0o666, dir_fd=directory)
    try:
        _write(descriptor, page.content, path, sharing)
        _start_writing_back(descriptor)
        _require_same(path, temporary, directory, page, encoding, seen)
    except BaseException:
        os.close(descriptor)
        remove(temporary, directory)
        raise
    return descriptor


def sync_directories(directories: Iterable[Path]) -> None:
    """Make renames survive a power cut, before the journal records the levels. Raises StorageFault.

    It is called once for all levels of a tile, which costs a file system the same as one level.
    """
    for directory in directories:
        try:
            _sync(directory)
        except OSError as error:
            raise storage_fault(str(directory), "write the names of the levels", error) from error


def _require_same(
    path: Path, temporary: str, directory: int, page: Page, encoding: Encoding, seen: Seen | None
) -> None:
    """Raise a fault if the temporary file reads back differently.

    The bytes of an uncompressed file are compared; any other file is decoded.
    """
    if encoding.is_plain:
        if not _holds(temporary, directory, page.content, seen):
            raise _reads_differently(path, "its bytes differ")
        return
    height, width = page.pixels.shape
    found = verify_level(_path_of(temporary, directory), width, height, page.mode)
    if encoding.lossless and not np.array_equal(found, page.pixels):
        raise _reads_differently(path, "its pixels differ")
    if seen:
        seen(page.content)


def _require_in_place(path: Path, directory: int, page: Page, is_plain: bool) -> None:
    """Raise a fault if the file in place has another length or header than the page."""
    if is_plain:
        start, file_bytes = _start_and_length(path.name, directory)
        is_same = start == page.content[:PLAIN_START_BYTES]
        found = f"{file_bytes} bytes that begin with {start[:16]!r}"
    else:
        info = inspect_image(_path_of(path.name, directory))
        height, width = page.pixels.shape
        is_same = (info.width, info.height, info.mode) == (width, height, page.mode)
        file_bytes, found = info.file_bytes, f"{info}"
    if not is_same or file_bytes != len(page.content):
        raise _reads_differently(path, found)


def _start_and_length(name: str, directory: int) -> tuple[bytes, int]:
    descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        return os.pread(descriptor, PLAIN_START_BYTES, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _holds(name: str, directory: int, content: bytes | bytearray, seen: Seen | None = None) -> bool:
    """Whether a file has exactly these bytes. `seen` is called with them while they are in the cache."""
    piece, expected, offset = bytearray(min(READ_BACK_BYTES, len(content) + 1)), memoryview(content), 0
    descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        while count := os.readv(descriptor, (piece,)):
            found = piece if count == len(piece) else piece[:count]
            if found != expected[offset : offset + count]:  # a bytearray compares by memcmp, a memoryview does not
                return False
            if seen:
                seen(found)
            offset += count
    finally:
        os.close(descriptor)
    return offset == len(content)


def _reads_differently(path: Path, how: str) -> StorageFault:
    return StorageFault(str(path), f"reads back differently from what was written: {how}", "check the disk's health")


def _write(descriptor: int, content: bytes | bytearray, path: Path, sharing: Sharing) -> None:
    if sharing is not AS_MADE:
        sharing.share_file(descriptor, str(path))
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _start_writing_back(descriptor: int) -> None:
    """Have the kernel begin to write a file to its disk. The later sync waits for the end."""
    if (start := _sync_file_range()) is not None:
        start(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)  # the sync reports its failure


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """Return the system call as a function; None if the C library lacks it."""
    call = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, _READ | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # the file system does not sync directories
            raise
    finally:
        os.close(descriptor)
