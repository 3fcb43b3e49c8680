"""Compressed or tiled pixels of a TIFF, decoded a few strips or one row of tiles at a time."""

from bisect import bisect_right
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from handlers.images.formats.tiff_header import TiffLayout
from handlers.images.formats.tiff_pixels import tiff_pixels
from handlers.ranged_file import Ranged

BAND_BYTES: Final = 4 << 20
"""Least number of decoded bytes of a band, where the image has as many: each band costs a call of the decoder."""


class DecodedRows:
    """The rows of an image from the first to the last, of which one band is decoded at a time. A `Ranged`.

    Parameters
    ----------
    image : the file, which is read as far as its rows are asked for.
    layout : of an image with 8 or 16 bits per pixel.
    """

    def __init__(self, image: Ranged, layout: TiffLayout) -> None:
        self._image = image
        self._row_bytes = layout.width * layout.bits // 8
        self._bands = _bands(layout, max(1, BAND_BYTES // self._row_bytes))
        self._tops = [top for top, _ in self._bands]
        self._band: tuple[int, npt.NDArray[np.uint8]] | None = None
        self.size = layout.height * self._row_bytes

    def pread(self, length: int, offset: int) -> bytes:
        """Return decoded bytes of one band from an offset on. Raises as `pread_into`."""
        piece = bytearray(min(length, max(0, self.size - offset)))
        return bytes(piece[: self.pread_into(memoryview(piece), offset)])

    def pread_into(self, place: memoryview, offset: int) -> int:
        """Copy decoded bytes of one band from an offset on; return their number, 0 at the end.

        Raises
        ------
        InvalidImage, EOFError
            As `tiff_pixels`.
        Fault, OSError
            As the file.
        """
        if offset >= self.size:
            return 0
        index = bisect_right(self._tops, offset // self._row_bytes) - 1
        begin = offset - self._tops[index] * self._row_bytes
        piece = self._decoded(index)[begin : begin + len(place)]
        place[: len(piece)] = piece.data
        return len(piece)

    def digest(self) -> bytes:
        """Return the digest of the file."""
        return self._image.digest()

    def _decoded(self, index: int) -> npt.NDArray[np.uint8]:
        if self._band is None or self._band[0] != index:
            self._band = None
            self._band = index, tiff_pixels(self._image, self._bands[index][1]).reshape(-1).view(np.uint8)
        return self._band[1]


def _bands(layout: TiffLayout, min_rows: int) -> list[tuple[int, TiffLayout]]:
    """Return parts of an image that are images by themselves, each with its first row."""
    across = -(-layout.width // layout.piece_width)
    pieces_high = -(-min_rows // layout.piece_height)
    bands = []
    for top in range(0, layout.height, pieces_high * layout.piece_height):
        first = top // layout.piece_height * across
        pieces = slice(first, first + pieces_high * across)
        height = min(pieces_high * layout.piece_height, layout.height - top)
        part = replace(layout, height=height, offsets=layout.offsets[pieces], lengths=layout.lengths[pieces])
        bands.append((top, part))
    return bands
