"""Objects as open files: read by ranges, of which only the last ones stay in memory.

All ranges are of one version of the object. Decoders get a file without a descriptor.
"""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import xxhash

from handlers.errors import ImageChanging, ImageFault, StoreFault
from handlers.objects.requests import Objects, OtherObject
from handlers.place import ObjectPlace
from handlers.ranged_file import RangedFile
from handlers.text import byte_size

RANGE_BYTES = 4 << 20
KEPT_BYTES = 4 * RANGE_BYTES
"""Limit of the ranges that a thread keeps: small objects stay whole, of a large image only where its reader is."""
MAX_BYTES = 4 << 30
"""Limit of an object that is read. The largest image, with 16 bits and metadata, is smaller."""


class _Ranges:
    """The ranges that were read last, of one object or several."""

    def __init__(self) -> None:
        self._ranges: OrderedDict[tuple[ObjectPlace, int], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, place: ObjectPlace, start: int, end: int, read: Callable[[int, int], bytes]) -> bytes:
        """Return a range, which `read` reads if it was dropped."""
        key = place, start
        if (found := self._ranges.get(key)) is not None:
            self._ranges.move_to_end(key)
            return found
        while self._ranges and self._bytes + end - start > KEPT_BYTES:
            self._bytes -= len(self._ranges.popitem(last=False)[1])
        self._ranges[key] = found = read(start, end)
        self._bytes += len(found)
        return found


class ObjectContent:
    """One version of an object, read by ranges. A `Ranged`.

    Raises
    ------
    FileNotFoundError
        If there is no such object.
    ImageFault
        If it is larger than any image.
    StoreFault
        If the store cannot be asked.
    """

    def __init__(self, place: ObjectPlace, objects: Objects, ranges: _Ranges) -> None:
        found = objects.stat(place)
        if found is None:
            raise FileNotFoundError(2, "No such object", str(place))
        if found.size > MAX_BYTES:
            problem = f"has {byte_size(found.size)}, expected at most {byte_size(MAX_BYTES)} of an image"
            raise ImageFault(str(place), problem, "replace the object by the image itself")
        self.size = found.size
        self._place, self._objects, self._found, self._ranges = place, objects, found, ranges
        self._hash, self._hashed = xxhash.xxh3_128(), 0

    def pread(self, length: int, offset: int) -> bytes:
        """Return bytes from an offset on, fewer at the end. Raises as `pread_into`."""
        found = io.BytesIO()  # to join the pieces would keep all their ranges
        for piece in self._pieces(offset, offset + length):
            found.write(piece)
        return found.getvalue()

    def pread_into(self, place: memoryview, offset: int) -> int:
        """Copy bytes from an offset on, fewer at the end; return their number.

        Raises
        ------
        ImageChanging
            If the object was replaced since it was opened.
        FileNotFoundError
            If it was deleted.
        StoreFault
            If it cannot be read.
        """
        filled = 0
        for piece in self._pieces(offset, offset + len(place)):
            place[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def digest(self) -> bytes:
        """Return the XXH3-128 of all bytes. Ranges are hashed as they are read; the others are read now."""
        while self._hashed < self.size:
            self._range(self._hashed)
        return self._hash.digest()

    def _pieces(self, start: int, end: int) -> Iterator[memoryview]:
        end = min(end, self.size)
        while start < end:
            first = start // RANGE_BYTES * RANGE_BYTES
            piece = memoryview(self._range(first))[start - first : end - first]
            yield piece
            start += len(piece)

    def _range(self, start: int) -> bytes:
        content = self._ranges.get(self._place, start, min(start + RANGE_BYTES, self.size), self._read)
        if start == self._hashed:
            self._hash.update(content)
            self._hashed += len(content)
        return content

    def _read(self, start: int, end: int) -> bytes:
        try:
            content = self._objects.range(self._place, start, end, self._found)
        except OtherObject as fault:
            raise ImageChanging(str(self._place), fault.problem, fault.hint) from fault
        if len(content) != end - start:
            problem = f"expected {end - start} bytes from {start} on, got {len(content)}"
            raise StoreFault(str(self._place), problem, "check the store, and proxies in front of it")
        return content


class _Versions:
    """Objects that are opened several times, each in one version."""

    def __init__(self) -> None:
        self._contents: dict[ObjectPlace, ObjectContent] = {}
        self._ranges = _Ranges()

    def content(self, place: ObjectPlace, objects: Objects | None) -> ObjectContent:
        """Return an object; the first call opens it."""
        if place not in self._contents:
            self._contents[place] = ObjectContent(place, objects or Objects(place.bucket), self._ranges)
        return self._contents[place]


class _Kept(threading.local):
    """What this thread keeps open."""

    versions: _Versions | None = None


_kept = _Kept()


@contextmanager
def reading_once() -> Iterator[None]:
    """Context in which this thread reads one version of each object, and keeps ranges between two openings."""
    if _kept.versions is not None:
        yield
        return
    _kept.versions = _Versions()
    try:
        yield
    finally:
        _kept.versions = None


@contextmanager
def open_object(place: ObjectPlace, objects: Objects | None = None) -> Iterator[BinaryIO]:
    """Open an object for reading, all of one version.

    Reading raises as `ObjectContent.pread_into`.

    Raises
    ------
    FileNotFoundError, ImageFault, StoreFault
        As `ObjectContent`.
    """
    versions = _kept.versions or _Versions()
    with RangedFile(versions.content(place, objects)) as file:
        yield cast("BinaryIO", file)
