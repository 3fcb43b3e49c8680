"""A level's file comes into its place: written beside it, read back, renamed, and looked at once more; whole or not at
all.

docs/decisions/atomic-writes.md says why each step is there. System calls are made as they are: for a small tile it is
Python's own files and paths that take the time.
"""

import errno
import functools
import hashlib
import itertools
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from handlers.errors import ImageFault, ImagesMissing, SettingsFault, StorageFault, storage_fault
from handlers.images.decode import verify_level
from handlers.images.encode import PLAIN_START_BYTES, Encoding, Page
from handlers.images.header import inspect_image

READ_BACK_BYTES = 64 * 1024
"""At once: what was read is compared while it is in the cache."""
STALE_S = 3600.0
"""A temporary file that has not changed for this long is nobody's, whoever made it."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC


def put_in_place(level: int, path: Path, page: Page, encoding: Encoding) -> None:
    """Writes a level's file, verified. Its name is durable after `sync_directories`.

    Raises
    ------
    StorageFault
        If the disk or mount fails, or what was written reads back differently. What the place held before it holds
        still, unless the difference showed after the rename.
    SettingsFault
        If the name is longer than the disk takes.
    """
    is_plain = encoding.is_plain
    try:
        temporary = f"{path.parent}/{_temporary_name(path.name)}"
        try:
            _write_durably(temporary, page.content)
            _require_same(path, temporary, page, encoding, is_plain)
            os.replace(temporary, path)  # noqa: PTH105  no path of it is wanted
        except BaseException:
            _remove(temporary)
            raise
        _require_in_place(path, page, is_plain)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise SettingsFault("mipmaps.output_dir", f"makes names too long for the disk: {path}") from error
        raise storage_fault(str(path), f"write level {level}", error) from error
    except (ImageFault, ImagesMissing) as fault:
        raise _reads_differently(path, str(fault)) from fault


def sync_directories(directories: Iterable[Path]) -> None:
    """Makes renames survive a power cut: the journal is about to say that the levels are there. Raises StorageFault.

    Once for all levels of a tile: what a file system has to write for one of them it writes for all.
    """
    for directory in directories:
        try:
            _sync(directory)
        except OSError as error:
            raise storage_fault(str(directory), "write the names of the levels", error) from error


def _require_same(path: Path, temporary: str, page: Page, encoding: Encoding, is_plain: bool) -> None:
    """Returns if what was written for a path reads back.

    A plain file holds the very pixels, so its bytes are compared; any other is decoded.
    """
    if is_plain:
        if not _holds(temporary, page.content):
            raise _reads_differently(path, "its bytes differ")
        return
    height, width = page.pixels.shape
    found = verify_level(Path(temporary), width, height, page.mode)
    if encoding.lossless and not np.array_equal(found, page.pixels):
        raise _reads_differently(path, "its pixels differ")


def _require_in_place(path: Path, page: Page, is_plain: bool) -> None:
    """Returns if the file at its final place is of the length, and has the header, of the one that was read back."""
    if is_plain:
        start, file_bytes = _start_and_length(path)
        is_same = start == page.content[:PLAIN_START_BYTES]
        found = f"{file_bytes} bytes that begin with {start[:16]!r}"
    else:
        info = inspect_image(path)
        height, width = page.pixels.shape
        is_same = (info.width, info.height, info.mode) == (width, height, page.mode)
        file_bytes, found = info.file_bytes, f"{info}"
    if not is_same or file_bytes != len(page.content):
        raise _reads_differently(path, found)


def _start_and_length(path: Path) -> tuple[bytes, int]:
    descriptor = os.open(path, _READ)
    try:
        return os.pread(descriptor, PLAIN_START_BYTES, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def _holds(path: str, content: bytes | bytearray) -> bool:
    """Whether a file consists of these bytes."""
    piece, expected, offset = bytearray(min(READ_BACK_BYTES, len(content) + 1)), memoryview(content), 0
    descriptor = os.open(path, _READ)
    try:
        while count := os.readv(descriptor, (piece,)):
            found = piece if count == len(piece) else piece[:count]
            if found != expected[offset : offset + count]:  # a bytearray compares by memcmp, a memoryview does not
                return False
            offset += count
    finally:
        os.close(descriptor)
    return offset == len(content)


def _reads_differently(path: Path, how: str) -> StorageFault:
    return StorageFault(str(path), f"reads back differently from what was written: {how}", "look at the disk's health")


def _write_durably(path: str, content: bytes | bytearray) -> None:
    descriptor = _created(path)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _created(path: str) -> int:
    """Descriptor of a new file; its directory is made if need be, and rid of what dead writers left."""
    directory = path.rpartition("/")[0]
    try:
        _sweep(directory)
        return os.open(path, _CREATE, 0o666)
    except FileNotFoundError:
        Path(directory).mkdir(parents=True, exist_ok=True)
        return os.open(path, _CREATE, 0o666)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, _READ | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems without it
            raise
    finally:
        os.close(descriptor)


def _remove(temporary: str) -> None:
    """Removes a temporary file; where that fails it is left to `_sweep`, and the fault under way is the one told."""
    try:
        os.unlink(temporary)  # noqa: PTH108  as above
    except OSError:
        return


_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<maker>[0-9a-f]{8}-(?P<pid>\d+)-\d+)-\d+\.tmp")


def _temporary_name(name: str) -> str:
    """A name beside the final one, which says who writes; no other writer has it."""
    short = name if len(os.fsencode(name)) <= 180 else hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{short}.{_own_name(os.getpid())}-{next(_counter)}.tmp"


@functools.lru_cache(maxsize=1)
def _own_name(pid: int) -> str | None:
    """`_maker` of this process; asked once, but again after a fork."""
    return _maker(pid)


def _maker(pid: int) -> str | None:
    """Machine, process id and start time: a process as no other was or will be. None if there is no such process.

    One that has ended, and whose parent has not asked how, is none: of a pool that was killed nobody asks at once.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{_machine()}-{pid}-{fields[18]}"


@functools.cache
def _machine() -> str:
    """Where a process id means what it means here: this host, this process namespace."""
    text = f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@functools.lru_cache(maxsize=4096)
def _sweep(directory: str) -> None:
    """Removes what writers who are dead left in a directory.

    Once for each process and directory: a directory may hold all tiles of a section, and after the death of a worker
    the pool is made of new processes.
    """
    with os.scandir(directory) as entries:
        leftovers = [entry for entry in entries if entry.name.startswith(".") and _is_leftover(entry)]
    for entry in leftovers:
        _remove(entry.path)


def _is_leftover(entry: os.DirEntry[str]) -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if match is None:
        return False
    if match["maker"].startswith(f"{_machine()}-"):
        return _maker(int(match["pid"])) != match["maker"]
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_S
    except OSError:
        return False
