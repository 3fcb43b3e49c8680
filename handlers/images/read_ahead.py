"""Reading images ahead: the kernel is told which bytes will be read, and fetches many of them at once.

Without this it fetches only a little more than the program has read, so each delay of a disk or file server counts.
docs/decisions/cold-storage.md has the figures.
"""

import functools
import os
import queue
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from handlers.container import Container
from handlers.parcel import Parcel
from handlers.regular_file import NotContained, NotRegular, open_regular

PIECE_BYTES: Final = 128 << 10
"""Bytes of one announcement. The kernel shortens a longer one to its read-ahead limit, on most file systems this."""
THREADS: Final = 2
"""Threads of a process: opening a file waits for its server, and announcing waits if the server has many requests."""


@dataclass(frozen=True, slots=True)
class UpcomingImage(Parcel):
    """A file that a worker of this machine will read soon."""

    path: Path
    root: Container | None
    """Directory that must contain the file after all links are followed; None: any."""
    max_bytes: int
    """Number of first bytes to read ahead at most."""


def announce(descriptor: int, end: int) -> None:
    """Have the kernel fetch the bytes of an open file before `end` into its cache. Does not wait for them."""
    if end == 0 or _is_cached(descriptor, end):
        return
    with suppress(OSError):  # it is only advice: the file is read in any case
        for offset in range(0, end, PIECE_BYTES):
            os.posix_fadvise(descriptor, offset, min(PIECE_BYTES, end - offset), os.POSIX_FADV_WILLNEED)


def announce_image(image: UpcomingImage) -> None:
    """Announce a file. Raises as `open_regular`. Blocks while its directory does not answer."""
    descriptor, status = open_regular(image.path, root=image.root)
    try:
        announce(descriptor, min(status.st_size, image.max_bytes))
    finally:
        os.close(descriptor)


def read_ahead(images: Iterable[UpcomingImage]) -> None:
    """Announce files in threads of this process. If a file cannot be opened, its own job reports that."""
    for image in images:
        _start_threads()
        _waiting.put(image)


def _is_cached(descriptor: int, end: int) -> bool:
    """Whether first, middle and last byte before `end` are in the cache; False if the kernel cannot report it.

    The kernel may fetch the page of a byte that was asked for, so this becomes True by itself when it is repeated.
    """
    byte = bytearray(1)
    try:
        return all(os.preadv(descriptor, (byte,), offset, os.RWF_NOWAIT) for offset in (0, end // 2, end - 1))
    except OSError:
        return False


_waiting: queue.SimpleQueue[UpcomingImage] = queue.SimpleQueue()


@functools.cache
def _start_threads() -> None:
    for _ in range(THREADS):
        threading.Thread(target=_announce_all, name="read ahead", daemon=True).start()


def _announce_all() -> None:
    while True:
        image = _waiting.get()
        with suppress(OSError, NotRegular, NotContained):
            announce_image(image)
