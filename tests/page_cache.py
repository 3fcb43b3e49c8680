"""Find which pages of a file are in the kernel's page cache, and drop a file from it."""

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.waiting import wait_for

ATTEMPT_S = 1.0
"""Time after which an announcement counts as ignored."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def drop(path: Path) -> None:
    """Write a file to its disk and drop it from the cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cached_share(path: Path, start: int = 0, end: int | None = None) -> float:
    """Return the share of the pages between two bytes of a file that the cache holds. Reads none of them."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as memory:
        pages = -(-len(memory) // mmap.PAGESIZE)
        held = ctypes.create_string_buffer(pages)
        place = ctypes.c_char.from_buffer(memory)
        try:
            if _libc.mincore(ctypes.addressof(place), len(memory), held) != 0:
                raise OSError(ctypes.get_errno(), "mincore", str(path))
        finally:
            del place
        last = pages if end is None else end // mmap.PAGESIZE
        chosen = held.raw[start // mmap.PAGESIZE : last]
    return sum(page & 1 for page in chosen) / len(chosen)


def until_read_ahead(path: Path, end: int | None = None, timeout_s: float = 90.0) -> Iterator[None]:
    """Repeat the body of a loop until the cache holds most of a file, or of its part before a byte.

    To announce a file is only advice: the kernel ignores it while it has no free memory, as at a container's limit.
    `announce` itself ignores a file once the pages that it examines are cached, and examining them may cache them. So
    each attempt begins without a cached page.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        drop(path)
        yield
        with suppress(AssertionError):
            wait_for(lambda: cached_share(path, 0, end) > 0.5, "read ahead", ATTEMPT_S)
            return
    raise AssertionError(f"not within {timeout_s:g} s: most of {path} is read ahead")
