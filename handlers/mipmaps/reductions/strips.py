"""Reading level 0 strip by strip into the same memory, since new pages of memory cost more than the arithmetic."""

import mmap
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from handlers.images.opened import Opened, pread_into
from handlers.images.pixels import Grey

Runs = Sequence[tuple[int, int]]
"""Runs of rows in a file, from the first row of the image to the last: (offset in bytes, number of rows)."""
Seen = Callable[[int, memoryview], object]
"""Called with the offset and the bytes of each piece of a file after it is read, while it is in the cache."""
CUT_SHORT = "the file became shorter while it was read"
STRIP_BYTES = 512 * 1024
"""Bytes of a strip for numpy: with fewer, calls cost more than the sums; with more, rows do not stay in the cache."""
_LINE = 64
_APART = 2048


class Strip:
    """Memory for some rows of images of one width and depth.

    Parameters
    ----------
    width : width of an image, pixels.
    bits : bits per pixel, 8 or 16.
    rows : number of rows that the memory holds.
    """

    def __init__(self, width: int, bits: int, rows: int) -> None:
        self.rows = rows
        self._width = width
        self._type = np.dtype(np.uint8 if bits == 8 else np.uint16)
        self._row_bytes = width * self._type.itemsize
        self._memory = np.empty(rows * self._row_bytes + mmap.PAGESIZE + _LINE, np.uint8)
        self._address = self._memory.ctypes.data

    def read(self, image: Opened, runs: Runs, seen: Seen) -> Iterator[tuple[int, Grey]]:
        """Yield (number of the first row, rows) each time the strip is full, and for the last rows.

        Parameters
        ----------
        seen : called with each piece of the file after it is read.

        Raises
        ------
        EOFError
            If the file ends before the last row.
        OSError
            If the file cannot be read.
        """
        place, filled, top = self._memory, 0, 0
        for start, count in runs:
            offset, left = start, count
            while left:
                place = place if filled else self._away_from(offset)
                rows = min(left, self.rows - filled)
                begin, length = filled * self._row_bytes, rows * self._row_bytes
                piece = place[begin : begin + length].data
                _read_into(image, piece, offset)
                seen(offset, piece)
                offset, left, filled = offset + length, left - rows, filled + rows
                if filled == self.rows:
                    yield top, self._image(place, filled)
                    top, filled = top + filled, 0
        if filled:
            yield top, self._image(place, filled)

    def _away_from(self, offset: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Return the memory from an address to which the file is copied fast: see `away_from` of area_mean.c."""
        aligned = -self._address % _LINE
        wanted = (offset + _APART) // _LINE * _LINE
        return self._memory[aligned + (wanted - self._address - aligned) % mmap.PAGESIZE :]

    def _image(self, place: np.ndarray[tuple[int], np.dtype[np.uint8]], rows: int) -> Grey:
        image: Grey = place[: rows * self._row_bytes].view(self._type).reshape(rows, self._width)
        return image


def strip_rows(row_bytes: int, level: int, strip_bytes: int = STRIP_BYTES) -> int:
    """Return the number of rows of level 0 in a strip: a multiple of the rows of a block of the level."""
    return max(1, strip_bytes // row_bytes >> level) << level


def _read_into(image: Opened, place: memoryview, offset: int) -> None:
    while place:
        count = pread_into(image, place, offset)
        if count == 0:
            raise EOFError(CUT_SHORT)
        place, offset = place[count:], offset + count
