"""Rows of a PNG, decoded from the first to the last while the file is read."""

from collections.abc import Generator, Iterator
from typing import Final

import numpy as np
from isal import isal_zlib

from handlers.errors import InvalidImage
from handlers.images.formats.png_filters import Bytes, compiled_filters, unfilter
from handlers.images.formats.png_header import CHUNK_START, CHUNKS_AT, PngHeader, max_chunks, too_many_chunks
from handlers.images.pixels import Grey
from handlers.ranged_file import Ranged

PIECE_BYTES: Final = 256 << 10
"""Bytes of the file that are read at once."""
BAND_BYTES: Final = 192 << 10
"""Decoded bytes at once: few enough to stay in the second-level cache."""
_TRUNCATED: Final = "is truncated: its PNG data end before its last row"


class PngRows:
    """The rows of a grey PNG of 8 or 16 bits, which can be read once, in their order. A `Ranged`.

    Pixels have the byte order of this machine. Damage is detected by the checksums of the chunks and of the data.

    Parameters
    ----------
    image : the file, which is read as far as its rows are asked for.
    """

    def __init__(self, image: Ranged, header: PngHeader) -> None:
        self._image = image
        self._pixel_bytes = header.bits // 8
        self._row_bytes = header.width * self._pixel_bytes
        self.size = header.height * self._row_bytes
        self._position = 0
        self._above: Bytes = np.zeros(self._row_bytes, np.uint8)
        self._filtered = np.empty((max(1, BAND_BYTES // self._row_bytes), 1 + self._row_bytes), np.uint8)
        self._inflater = isal_zlib.decompressobj()
        self._packed = _packed(image)
        self._waiting = b""

    @staticmethod
    def can_do(header: PngHeader) -> bool:
        """Whether there is compiled code, and the rows of such an image can be decoded one after the other."""
        return header.has_whole_rows and compiled_filters() is not None

    def pread(self, length: int, offset: int) -> bytes:
        """Return bytes of whole rows. Raises as `pread_into`."""
        piece = bytearray(min(length, max(0, self.size - offset)))
        return bytes(piece[: self.pread_into(memoryview(piece), offset)])

    def pread_into(self, place: memoryview, offset: int) -> int:
        """Decode the next rows, as many as fit; return the number of their bytes, 0 at the end.

        Raises
        ------
        InvalidImage
            If the file is truncated or damaged.
        ValueError
            If these are not the next rows, or not whole ones.
        Fault, OSError
            As the file.
        """
        if offset != self._position or len(place) % self._row_bytes:
            raise ValueError(f"expected whole rows from byte {self._position} on, got {len(place)} from {offset} on")
        count = min(len(self._filtered), len(place) // self._row_bytes, (self.size - offset) // self._row_bytes)
        if count == 0:
            return 0
        filtered = self._filtered[:count]
        self._inflate(filtered.reshape(-1).data)
        rows: Bytes = np.frombuffer(place, np.uint8, count * self._row_bytes).reshape(count, self._row_bytes)
        unfilter(filtered, self._above, rows, self._pixel_bytes)
        self._above[:] = rows[-1]
        if self._pixel_bytes == 2:
            pixels = rows.view(np.uint16)
            pixels[...] = pixels.view(">u2")
        self._position += count * self._row_bytes
        if self._position == self.size:
            self._finish()
        return count * self._row_bytes

    def digest(self) -> bytes:
        """Return the digest of the file."""
        return self._image.digest()

    def _inflate(self, place: memoryview) -> None:
        while place:
            piece = self._decompressed(len(place))
            if not piece:
                raise InvalidImage(_TRUNCATED)
            place[: len(piece)] = piece
            place = place[len(piece) :]

    def _decompressed(self, most: int) -> bytes:
        """Return decompressed bytes; none at the end of the data."""
        while not self._inflater.eof:
            given = self._waiting or next(self._packed, b"")
            try:
                piece = self._inflater.decompress(given, most)
            except isal_zlib.error as error:  # type: ignore[misc]  # declared as an exception, and is a class
                raise InvalidImage(f"has broken PNG data: {error}") from error
            self._waiting = self._inflater.unconsumed_tail
            if piece:
                return piece
            if not given and not self._inflater.eof:
                raise InvalidImage(_TRUNCATED)
        return b""

    def _finish(self) -> None:
        """Check what follows the last row: the checksum of the data, and the remaining chunks."""
        self._decompressed(1)  # further rows are ignored, as by other decoders
        for _ in self._packed:
            pass


def png_rows(image: Ranged, header: PngHeader) -> Grey:
    """Return all rows of a PNG, (H, W). Raises as `PngRows.pread_into`."""
    rows = PngRows(image, header)
    pixels = np.empty((header.height, header.width), np.uint8 if header.bits == 8 else np.uint16)
    place, offset = pixels.reshape(-1).view(np.uint8).data, 0
    while offset < len(place):
        offset += rows.pread_into(place[offset:], offset)
    return pixels


def _packed(image: Ranged) -> Iterator[bytes]:
    """Yield the compressed pixels piece by piece. Raises InvalidImage if a chunk is damaged, or there are too many."""
    at, has_begun, has_ended = CHUNKS_AT, False, False
    start = _read(image, CHUNK_START.size, at)
    for _ in range(max_chunks(image.size)):
        if len(start) < CHUNK_START.size:
            return
        length, kind = CHUNK_START.unpack(start)
        at += CHUNK_START.size
        if kind == b"IEND":
            return
        if kind != b"IDAT":
            has_ended = has_begun
            start = _read(image, CHUNK_START.size, at + length + 4)
        elif has_ended:
            raise InvalidImage("has broken PNG data: another chunk is between those with pixels")
        else:
            start = yield from _content(image, at, length)
            has_begun = True
        at += length + 4
    raise too_many_chunks(image.size)


def _content(image: Ranged, at: int, length: int) -> Generator[bytes, None, bytes]:
    """Yield the content of a chunk, and return the start of the next chunk."""
    checksum, left = isal_zlib.crc32(b"IDAT"), length
    while left > PIECE_BYTES:
        piece = _exactly(image, PIECE_BYTES, at + length - left)
        checksum, left = isal_zlib.crc32(piece, checksum), left - len(piece)
        yield piece
    end = _exactly(image, left + 4 + CHUNK_START.size, at + length - left)
    if left:
        yield end[:left]
    if isal_zlib.crc32(end[:left], checksum).to_bytes(4, "big") != end[left : left + 4]:
        raise InvalidImage("is damaged: the checksum of a PNG chunk differs")
    return end[left + 4 :]


def _exactly(image: Ranged, length: int, offset: int) -> bytes:
    """Return bytes of a file. Raises InvalidImage if the file ends before."""
    found = _read(image, length, offset)
    if len(found) < length:
        raise InvalidImage(_TRUNCATED)
    return found


def _read(image: Ranged, length: int, offset: int) -> bytes:
    """Return bytes of a file, fewer at its end."""
    found = image.pread(length, offset)
    while len(found) < length and (more := image.pread(length - len(found), offset + len(found))):
        found += more
    return found
