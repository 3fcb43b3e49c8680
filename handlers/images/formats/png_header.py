"""Headers of PNG files, and limits of their chunks. Pure.

Only the header chunk and the first bytes of other chunks are read, so the cost does not depend on their lengths.

Source: PNG specification, third edition, sections 5 and 11.2.1.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from handlers.errors import InvalidImage

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
END: Final = b"IEND\xaeB`\x82"
"""Type and checksum of the last chunk."""
MAX_CHUNKS_BEFORE_PIXELS: Final = 128
MAX_BYTES_BEFORE_PIXELS: Final = 1 << 20
"""Limit of all chunks before the first chunk with pixels: texts, a colour profile."""
MIN_MEAN_CHUNK_BYTES: Final = 256
"""Smallest mean length of chunks: encoders write pixels in chunks of 8 KiB or more, and empty chunks only cost time."""

CHUNKS_AT: Final = 33
"""Offset of the first chunk behind the header."""
CHUNK_START: Final = struct.Struct(">I4s")
"""Length and type of a chunk."""
_MAX_SIDE: Final = 65536
_MAX_CHUNK_BYTES: Final = (1 << 31) - 1
_GREY: Final = 0
_COLOURS: Final = {2: "colours (RGB)", 3: "a colour palette", 4: "colours (LA)", 6: "colours (RGBA)"}
_DECODED_BITS: Final = {1: 1, 2: 8, 4: 8, 8: 8, 16: 16}
"""Bits per grey value -> bits after decoding."""

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes of the file, fewer at its end."""


class PngHeader(NamedTuple):
    """Header of a grey image."""

    width: int
    height: int
    bits: int
    """Bits per pixel after decoding: 1, 8 or 16."""
    has_whole_rows: bool
    """Whether rows follow each other in whole bytes: 8 or 16 bits in the file, and no interlacing."""


def read_png_header(read: Read) -> PngHeader:
    """Return the header of a grey image.

    Raises
    ------
    InvalidImage
        If the header is broken, the image has colours, or its pixels do not start within bounds.
    """
    start = read(0, CHUNKS_AT)
    if len(start) < CHUNKS_AT:
        raise InvalidImage("is truncated: its PNG header does not end")
    length, kind, content, checksum = struct.unpack(">I4s13sI", start[8:])
    if start[:8] != SIGNATURE or (length, kind) != (13, b"IHDR") or checksum != zlib.crc32(kind + content):
        raise InvalidImage("has a broken PNG header")
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", content)
    if colour in _COLOURS:
        raise InvalidImage(f"holds {_COLOURS[colour]}, not grey values", "save it as grey")
    if colour != _GREY or depth not in _DECODED_BITS or any(methods) or interlace > 1:
        raise InvalidImage("has a broken PNG header")
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise InvalidImage(f"has an invalid size of {width}x{height} pixels")
    _require_pixels(read)
    return PngHeader(width, height, _DECODED_BITS[depth], has_whole_rows=depth >= 8 and not interlace)


def _require_pixels(read: Read) -> None:
    """Raise InvalidImage unless the first chunk with pixels starts within bounds."""
    for number, (offset, kind) in enumerate(_chunks(read, CHUNKS_AT)):
        if kind == b"IDAT":
            return
        if kind == b"IEND":
            raise InvalidImage("has no pixels in its PNG data")
        if number >= MAX_CHUNKS_BEFORE_PIXELS or offset > MAX_BYTES_BEFORE_PIXELS:
            limits = f"{MAX_CHUNKS_BEFORE_PIXELS} chunks or {MAX_BYTES_BEFORE_PIXELS} bytes"
            raise InvalidImage(f"should have at most {limits} of metadata before its pixels, has more")
    raise InvalidImage("is truncated: its PNG data end before the pixels")


def max_chunks(file_bytes: int) -> int:
    """Return the largest number of chunks of a file after its header."""
    return MAX_CHUNKS_BEFORE_PIXELS + file_bytes // MIN_MEAN_CHUNK_BYTES


def too_many_chunks(file_bytes: int) -> InvalidImage:
    """Return the error of a file with more chunks."""
    return InvalidImage(f"should have at most {max_chunks(file_bytes)} PNG chunks for its length, has more")


def require_few_chunks(read: Read, file_bytes: int) -> None:
    """Raise InvalidImage if the file has so many small chunks that decoding takes excessive time."""
    limit = ChunkLimit(read, file_bytes)
    limit.passed(file_bytes)


class ChunkLimit:
    """Counts the chunks of a file, as far as its decoder has read.

    Parameters
    ----------
    read : is asked for the beginning of each chunk.
    """

    def __init__(self, read: Read, file_bytes: int) -> None:
        self._read, self._file_bytes = read, file_bytes
        self._found = 0
        self._next: int | None = CHUNKS_AT
        """Offset of the next chunk; None behind the last one."""

    def passed(self, position: int) -> None:
        """Count the chunks that begin before a position. Raises InvalidImage if there are too many small ones."""
        while self._next is not None and self._next + CHUNK_START.size <= position:
            if self._found >= max_chunks(self._file_bytes):
                raise too_many_chunks(self._file_bytes)
            chunk = _chunk_at(self._read, self._next)
            self._found += 1
            self._next = chunk.next_at if chunk else None


def _chunks(read: Read, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and type of each chunk from an offset on, up to the end chunk or the end of the file."""
    at: int | None = offset
    while at is not None and (chunk := _chunk_at(read, at)):
        yield at, chunk.kind
        at = chunk.next_at


class _Chunk(NamedTuple):
    kind: bytes
    next_at: int | None
    """None behind the end chunk."""


def _chunk_at(read: Read, offset: int) -> _Chunk | None:
    """Return the chunk that begins at an offset; None at the end of the file."""
    start = read(offset, CHUNK_START.size)
    if len(start) < CHUNK_START.size:
        return None
    length, kind = CHUNK_START.unpack(start)
    if length > _MAX_CHUNK_BYTES:
        raise InvalidImage("has a broken PNG chunk")
    return _Chunk(kind, None if kind == b"IEND" else offset + 12 + length)
