"""JPEG streams: the header of the frame, and whether the scans have data for every block of pixels. Pure.

libjpeg decodes the missing part of a truncated scan to grey, with a warning that Pillow and libtiff drop. So this
module checks that the data are complete.

Source: ITU-T T.81, annex B.
"""

import io
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, pairwise
from typing import BinaryIO, Final, NamedTuple, cast

from handlers.errors import InvalidImage

START, END = b"\xff\xd8", b"\xff\xd9"
TAIL_BYTES: Final = 65536
"""Last bytes of a file in which the end marker is searched: some writers append to the file."""

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROCESSES: Final = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xDE: "hierarchical"}
_SUPPORTED: Final = frozenset({0xC0, 0xC1, 0xC2})
MAX_SEGMENTS: Final = 1024
"""Limit of segments and fill bytes of one header. A JPEG with a colour profile and thumbnails has about 50."""
MAX_SCANS: Final = 32
"""Limit of scans: each costs a pass over all pixels. Encoders write at most ten scans of a grey image."""
_MARKER_IN_DATA: Final = re.compile(rb"\xff+([^\x00\xff])")

_FILLERS: Final = bytes(range(0x55, 0xD5, 2)), bytes(range(0xAA, 0x2A, -2))
"""Bytes to insert where the data of a scan end. A decoder ignores a filler if it has all blocks, and decodes it if
blocks are missing. All bits of the two fillers differ, so the decoded pixels differ. Neither contains a marker."""


class Frame(NamedTuple):
    """Header of a frame."""

    width: int
    height: int
    is_progressive: bool
    data_at: int
    """Offset of the first scan's data."""


Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the stream, fewer at its end."""


def frame_of(read: Read, max_segments: int = MAX_SEGMENTS) -> Frame:
    """Return the frame of a grey 8-bit image in a supported coding.

    Raises
    ------
    InvalidImage
        If the image is of another kind, or the stream ends before its first scan.
    """
    if read(0, 2) != START:
        raise InvalidImage("has JPEG data without a start marker")
    size: tuple[int, int] | None = None
    is_progressive = False
    for marker, at, length in _segments(read, 2, max_segments):
        if marker in _FRAMES or marker == 0xDE:
            size, is_progressive = _grey_size(marker, read(at, 6)), marker == 0xC2
        elif marker == _SOS and size is not None:
            return Frame(*size, is_progressive, at + length)
        elif marker in (_SOS, _EOI):
            raise InvalidImage("has JPEG data without a frame")
    raise InvalidImage("is truncated: its JPEG header does not end")


def _segments(read: Read, at: int, most: int = MAX_SEGMENTS) -> Iterator[tuple[int, int, int]]:
    """Yield each marker from an offset on, with offset and length of its parameters, up to the end marker."""
    for _ in range(most):
        head = read(at, 4)
        if len(head) < 2 or head[0] != 0xFF:
            raise InvalidImage(
                "is truncated: its JPEG header does not end" if len(head) < 2 else "has a broken JPEG header"
            )
        if head[1] == 0xFF:  # a fill byte
            at += 1
        elif head[1] in _WITHOUT_LENGTH:
            at += 2
        elif head[1] == _EOI:
            yield _EOI, at + 2, 0
            return
        else:
            length = int.from_bytes(head[2:4], "big")
            if length < 2:
                raise InvalidImage("has a broken JPEG header")
            yield head[1], at + 4, length - 2
            at += 2 + length
    raise InvalidImage(f"should have at most {most} segments in a JPEG header, has more")


def _grey_size(marker: int, fields: bytes) -> tuple[int, int]:
    if marker not in _SUPPORTED:
        kind = _PROCESSES.get(marker, "arithmetic-coded or hierarchical")
        raise InvalidImage(f"is a {kind} JPEG, which is not supported", "save it as a baseline JPEG, or as TIFF")
    if len(fields) < 6:
        raise InvalidImage("is truncated: its JPEG header does not end")
    bits, components = fields[0], fields[5]
    if components != 1:
        raise InvalidImage(f"holds colours ({components} components), not grey values", "save it as grey")
    if bits != 8:
        raise InvalidImage(f"has {bits} bits per pixel", "save it as TIFF: JPEG is supported with 8 bits only")
    height, width = int.from_bytes(fields[1:3], "big"), int.from_bytes(fields[3:5], "big")
    if not width or not height:
        raise InvalidImage(f"has an invalid size of {width}x{height} pixels")
    return width, height


def require_end(tail: bytes) -> None:
    """Raise InvalidImage unless the last bytes of the data contain the end marker, which coded pixels never do."""
    if END not in tail:
        raise InvalidImage("is truncated: the end of its JPEG data is missing")


def with_fillers(content: bytes) -> Iterator[BinaryIO]:
    """Yield two files of the stream, with one of two fillers after every part of its coded data.

    If all parts are complete, both decode to the pixels of the stream itself; if not, to different pixels.

    Raises
    ------
    InvalidImage
        If the end marker, a restart marker or a scan is missing.
    """
    ends = array("q", _data_ends(content, frame_of(lambda at, length: content[at : at + length])))
    return (cast("BinaryIO", _Filled(content, ends, filler)) for filler in _FILLERS)


class _Filled:
    """A file that inserts a filler at some offsets of a stream, in ascending order, while Pillow reads it."""

    def __init__(self, content: bytes, at: Sequence[int], filler: bytes) -> None:
        self._content, self._at, self._filler = memoryview(content), at, filler
        self.seek(0)

    def seek(self, offset: int) -> None:
        """Return to the beginning."""
        if offset:
            raise io.UnsupportedOperation(f"seek to {offset}")
        self._position, self._rest = 0, memoryview(b"")
        limits = pairwise(chain((0,), self._at, (len(self._content),)))
        parts = chain.from_iterable((memoryview(self._filler), self._content[start:end]) for start, end in limits)
        self._parts = islice(parts, 1, None)  # no filler at the beginning

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int) -> bytes:
        """Return bytes, fewer at the end."""
        found = bytearray()
        while len(found) < size and (part := self._rest or next(self._parts, self._rest)):
            missing = size - len(found)
            found += part[:missing]
            self._rest = part[missing:]
        self._position += len(found)
        return bytes(found)


def _data_ends(content: bytes, frame: Frame) -> Iterator[int]:
    """Yield each offset where coded data end before a marker."""
    blocks = -(-frame.width // 8) * -(-frame.height // 8)
    at, interval, marker, scans = 2, 0, _SOS, 0
    coefficients: set[int] = set()
    while marker != _EOI:
        for marker, begin, length in _segments(lambda at, length: content[at : at + length], at):
            at = begin + length
            if marker == _DRI:
                interval = int.from_bytes(content[begin : begin + 2], "big")
            if marker in (_SOS, _EOI):
                break
        else:
            raise InvalidImage("has a broken JPEG header")
        if marker == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise InvalidImage(f"should have at most {MAX_SCANS} JPEG scans, has more")
            coefficients.update(_completed_coefficients(content[begin : begin + 6]))
            ends = list(_scan_ends(content, at, -(-blocks // interval) - 1 if interval else 0))
            yield from ends
            at = ends[-1]
    if frame.is_progressive and len(coefficients) < 64:
        raise InvalidImage(f"is truncated: its JPEG data have {len(coefficients)} of 64 complete coefficients")


def _completed_coefficients(scan: bytes) -> range:
    """Return the coefficients whose last bit a scan contains."""
    if len(scan) < 6:
        raise InvalidImage("is truncated: the header of a JPEG scan does not end")
    first, last, low_bit = scan[3], scan[4], scan[5] & 15
    return range(first, last + 1) if low_bit == 0 else range(0)


def _scan_ends(content: bytes, at: int, restarts: int) -> Iterator[int]:
    """Yield each offset where a part of a scan ends: before each restart marker, and before the next other marker."""
    for found, match in enumerate(_MARKER_IN_DATA.finditer(content, at)):
        marker = match[1][0]
        yield match.start()
        if not 0xD0 <= marker <= 0xD7:
            if found < restarts:
                raise InvalidImage(f"is truncated: its JPEG data have {found} of {restarts} restart markers")
            return
        if marker != 0xD0 + found % 8:
            raise InvalidImage("lacks a part of its JPEG data: its restart markers are out of order")
    raise InvalidImage("is truncated: the end of its JPEG data is missing")
