"""Objects as open files: they are read into memory by ranges, so that decoders get a file with a descriptor."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from handlers.errors import ImageChanging, ImageFault
from handlers.objects.requests import Objects, OtherObject
from handlers.place import ObjectPlace
from handlers.text import byte_size

RANGE_BYTES = 4 << 20
MOST_BYTES = 4 << 30
"""Limit of an object that is read. The largest image, with 16 bits and metadata, is smaller."""


class _Kept(threading.local):
    """Descriptors of the objects that a thread has read; None outside `reading_once`."""

    files: dict[ObjectPlace, int] | None = None


_kept = _Kept()


@contextmanager
def reading_once() -> Iterator[None]:
    """Context in which this thread reads each object once, however often it is opened."""
    if _kept.files is not None:
        yield
        return
    _kept.files = {}
    try:
        yield
    finally:
        descriptors = list(_kept.files.values())
        _kept.files = None
        for descriptor in descriptors:
            os.close(descriptor)


@contextmanager
def open_object(place: ObjectPlace, objects: Objects | None = None) -> Iterator[BinaryIO]:
    """Open an object for reading. All bytes are of the same content of the object.

    Raises
    ------
    FileNotFoundError
        If the object does not exist.
    ImageFault
        If the object is larger than any image.
    ImageChanging
        If the object is replaced while it is read.
    StoreFault
        If the object cannot be read.
    """
    files = _kept.files
    if files is None:
        descriptor = _read(place, objects or Objects(place.bucket))
        with os.fdopen(descriptor, "rb") as file:
            yield file
        return
    if place not in files:
        files[place] = _read(place, objects or Objects(place.bucket))
    with open(f"/proc/self/fd/{files[place]}", "rb") as file:  # noqa: PTH123  a new position in the same file
        yield file


def _read(place: ObjectPlace, objects: Objects) -> int:
    """Return the descriptor of a file in memory with the content of an object."""
    found = objects.stat(place)
    if found is None:
        raise FileNotFoundError(2, "No such object", str(place))
    if found.size > MOST_BYTES:
        problem = f"has {byte_size(found.size)}, expected at most {byte_size(MOST_BYTES)} of an image"
        raise ImageFault(str(place), problem, "replace the object by the image itself")
    descriptor = os.memfd_create("object", os.MFD_CLOEXEC)
    try:
        for start in range(0, found.size, RANGE_BYTES):
            piece = objects.range(place, start, min(start + RANGE_BYTES, found.size), found.etag)
            os.pwrite(descriptor, piece, start)
    except OtherObject as fault:
        os.close(descriptor)
        raise ImageChanging(str(place), fault.problem, fault.hint) from fault
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
