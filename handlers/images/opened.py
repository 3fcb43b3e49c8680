"""Open images, read at offsets: files by their descriptors, objects by ranges."""

import os
from typing import BinaryIO, NamedTuple

from handlers.file_status import status_of
from handlers.ranged_file import Ranged

Opened = int | Ranged
"""Descriptor of a file, or the content of an object, whose ranges are all of one version."""


class Run(NamedTuple):
    """Rows of pixels that follow each other in a file without gaps."""

    offset: int
    """Offset of the first row in the file."""
    rows: int


def opened(file: BinaryIO) -> Opened:
    """Return by what an open image is read."""
    content: Ranged | None = getattr(file, "content", None)  # of a RangedFile
    return file.fileno() if content is None else content


def size_of(image: Opened) -> int:
    """Return the length in bytes."""
    return status_of(image).st_size if isinstance(image, int) else image.size


def pread(image: Opened, length: int, offset: int) -> bytes:
    """Return bytes from an offset on, perhaps fewer."""
    return os.pread(image, length, offset) if isinstance(image, int) else image.pread(length, offset)


def pread_into(image: Opened, place: memoryview, offset: int) -> int:
    """Copy bytes from an offset on, and return their number, 0 at the end alone."""
    return os.preadv(image, [place], offset) if isinstance(image, int) else image.pread_into(place, offset)
