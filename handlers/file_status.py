"""Status of an open file, without the time of its last access.

Each read changes this time. So after a read, `fstat` on a network mount (NFS, FUSE) sends a request to the file server,
and the caller waits for the answer. `statx` without this time is answered from the client's cache.
"""

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

_AT_EMPTY_PATH: Final = 0x1000
"""The status of the descriptor itself."""
_FACTS: Final = 0x01 | 0x02 | 0x40 | 0x80 | 0x100 | 0x200
"""Type, mode, mtime, ctime, inode, size."""
_LAYOUT: Final = struct.Struct("=28xH2xQQ48xqI4xqI132x")
"""Of `struct statx`, the same on all architectures: mode, inode, size, ctime and mtime."""
_NOT_HERE: Final = (errno.ENOSYS, errno.EPERM)
"""Errors of a kernel or a sandbox without `statx`."""


class FileStatus(NamedTuple):
    """Facts of a file, named as in `os.stat_result`."""

    st_mode: int
    st_size: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_ino: int


def status_of(descriptor: int) -> FileStatus:
    """Return the status of an open file. Raises OSError."""
    facts = bytearray(_LAYOUT.size)
    statx = _statx()
    if statx is None or not statx(descriptor, facts):
        found = os.fstat(descriptor)
        return FileStatus(found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    mode, inode, size, ctime_s, ctime_ns, mtime_s, mtime_ns = _LAYOUT.unpack(facts)
    return FileStatus(mode, size, mtime_s * 10**9 + mtime_ns, ctime_s * 10**9 + ctime_ns, inode)


Statx = Callable[[int, bytearray], bool]
"""Fills the bytes with the facts of a descriptor; returns False where there is no such system call."""


@functools.cache
def _statx() -> Statx | None:
    """Return the function of the C library; None if it has none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if function is None:
        return None
    buffer = ctypes.c_char * _LAYOUT.size

    def statx(descriptor: int, facts: bytearray) -> bool:
        if function(descriptor, b"", _AT_EMPTY_PATH, _FACTS, buffer.from_buffer(facts)) == 0:
            return True
        number = ctypes.get_errno()
        if number in _NOT_HERE:
            return False
        raise OSError(number, os.strerror(number))

    return statx
