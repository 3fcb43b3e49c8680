"""JPEG streams: what the frame's header says, and whether the scans have data for every block of pixels. Pure.

libjpeg decodes a scan that ends early to grey, with a warning that Pillow and libtiff drop. So completeness is found
out here.

Source: ITU-T T.81, annex B.
"""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from handlers.errors import InvalidImage

START, END = b"\xff\xd8", b"\xff\xd9"
TAIL_BYTES: Final = 65536
"""The end marker is looked for in so many last bytes of a file: some writers append to it."""

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_ALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROCESSES: Final = {0xC0: "baseline", 0xC1: "extended", 0xC2: "progressive", 0xC3: "lossless", 0xDE: "hierarchical"}
_READ: Final = frozenset({0xC0, 0xC1, 0xC2})
_MOST_SEGMENTS: Final = 65536
_MARKER_IN_DATA: Final = re.compile(rb"\xff+([^\x00\xff])")

_BAITS: Final = bytes(range(0x55, 0xD5, 2)), bytes(range(0xAA, 0x2A, -2))
"""Put where the data of a scan end. A decoder passes over them if it has all blocks, and draws them if it has not. Each
bit of the one is the opposite of the other's, so what is drawn differs. Neither holds a marker."""


class Frame(NamedTuple):
    """What the header of a frame says."""

    width: int
    height: int
    is_progressive: bool
    data_at: int
    """Where the data of the first scan begin."""


Read = Callable[[int, int], bytes]
"""(offset, length) -> that many bytes of the stream, or fewer at its end."""


def frame_of(read: Read) -> Frame:
    """Return the frame of a grey image of 8 bits, coded as can be decoded.

    Raises
    ------
    InvalidImage
        If it is something else, or the stream ends before its first scan.
    """
    if read(0, 2) != START:
        raise InvalidImage("has JPEG data without a beginning")
    size: tuple[int, int] | None = None
    is_progressive = False
    for marker, at, length in _segments(read, 2):
        if marker in _FRAMES or marker == 0xDE:
            size, is_progressive = _grey_size(marker, read(at, 6)), marker == 0xC2
        elif marker == _SOS and size is not None:
            return Frame(*size, is_progressive, at + length)
        elif marker in (_SOS, _EOI):
            raise InvalidImage("has JPEG data without a frame")
    raise InvalidImage("is cut short: its JPEG header does not end")


def _segments(read: Read, at: int) -> Iterator[tuple[int, int, int]]:
    """Each marker from an offset on, with offset and length of what belongs to it, up to the start of a scan."""
    for _ in range(_MOST_SEGMENTS):
        head = read(at, 4)
        if len(head) < 2 or head[0] != 0xFF:
            raise InvalidImage(
                "is cut short: its JPEG header does not end" if len(head) < 2 else "has a broken JPEG header"
            )
        if head[1] == 0xFF:  # fills up
            at += 1
        elif head[1] in _ALONE:
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


def _grey_size(marker: int, fields: bytes) -> tuple[int, int]:
    if marker not in _READ:
        kind = _PROCESSES.get(marker, "arithmetic-coded or hierarchical")
        raise InvalidImage(f"is a {kind} JPEG, which is not read", "save it as a baseline JPEG, or as TIFF")
    if len(fields) < 6:
        raise InvalidImage("is cut short: its JPEG header does not end")
    bits, components = fields[0], fields[5]
    if components != 1:
        raise InvalidImage(f"holds colours ({components} components), not grey values", "save it as grey")
    if bits != 8:
        raise InvalidImage(f"has {bits} bits per pixel", "JPEG is read with 8; save it as TIFF")
    height, width = int.from_bytes(fields[1:3], "big"), int.from_bytes(fields[3:5], "big")
    if not width or not height:
        raise InvalidImage(f"has an impossible size of {width}x{height} pixels")
    return width, height


def require_end(tail: bytes) -> None:
    """Raise InvalidImage unless the last bytes of the data have the end marker, which coded pixels never hold."""
    if END not in tail:
        raise InvalidImage("is cut short: the end of its JPEG data is missing")


def with_baits(content: bytes) -> tuple[bytes, bytes]:
    """Return the stream twice, with other bytes after each part of its coded data.

    Both decode to the pixels of the stream if all parts are whole, and to different ones if not.

    Raises
    ------
    InvalidImage
        If the end marker, one between parts of the data, or a whole scan is missing.
    """
    ends = list(_data_ends(content, frame_of(lambda at, length: content[at : at + length])))
    limits = [0, *ends, len(content)]
    parts = [content[start:end] for start, end in pairwise(limits)]
    return _BAITS[0].join(parts), _BAITS[1].join(parts)


def _data_ends(content: bytes, frame: Frame) -> Iterator[int]:
    """Each offset where coded data end before a marker."""
    blocks = -(-frame.width // 8) * -(-frame.height // 8)
    at, interval, marker = 2, 0, _SOS
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
            coefficients.update(_whole_coefficients(content[begin : begin + 6]))
            ends = list(_scan_ends(content, at, -(-blocks // interval) - 1 if interval else 0))
            yield from ends
            at = ends[-1]
    if frame.is_progressive and len(coefficients) < 64:
        raise InvalidImage(f"is cut short: its JPEG data have {len(coefficients)} of 64 coefficients in full")


def _whole_coefficients(scan: bytes) -> range:
    """Coefficients of which the scan of one component has the last bits."""
    if len(scan) < 6:
        raise InvalidImage("is cut short: the header of a JPEG scan does not end")
    first, last, low_bit = scan[3], scan[4], scan[5] & 15
    return range(first, last + 1) if low_bit == 0 else range(0)


def _scan_ends(content: bytes, at: int, restarts: int) -> Iterator[int]:
    """Each offset where a part of one scan ends: before its restart markers, and before the marker behind it."""
    for found, match in enumerate(_MARKER_IN_DATA.finditer(content, at)):
        marker = match[1][0]
        yield match.start()
        if not 0xD0 <= marker <= 0xD7:
            if found < restarts:
                raise InvalidImage(f"is cut short: {found} of {restarts} restart markers are in its JPEG data")
            return
        if marker != 0xD0 + found % 8:
            raise InvalidImage("lacks a part of its JPEG data: restart markers are out of order")
    raise InvalidImage("is cut short: the end of its JPEG data is missing")
