"""Reducing images to levels: fillers, which fill the levels of one image after another, by any function or filter.

Level n of an image is its reduction by 2^n in x and y. Each level is a function of level 0, and not of another rounded
level. A filler is given the rows of a file, or a decoded image.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Protocol

from handlers.images.opened import Opened
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.reduction import MEAN, Reduction
from handlers.mipmaps.reductions.area_mean import means
from handlers.mipmaps.reductions.block_functions import BAND, max_levels, median_levels, min_levels, mode_levels
from handlers.mipmaps.reductions.mean_kernel import GreyRange
from handlers.mipmaps.reductions.resize import FILTERS, OF_NEIGHBOURS
from handlers.mipmaps.reductions.resize_kernel import CompiledResize
from handlers.mipmaps.reductions.strips import STRIP_BYTES, Runs, Seen, Strip, strip_rows

Reducer = Callable[[Grey, frozenset[int], IntensityRange | None], Iterator[tuple[int, Grey]]]

REDUCERS: Mapping[str, Reducer] = MappingProxyType(
    {"median": median_levels, "min": min_levels, "max": max_levels, "mode": mode_levels, **FILTERS}
)
"""Function or filter of `reduction.METHODS` -> function that makes levels. The mean has fillers of its own."""


class LevelFiller(Protocol):
    """Fills the levels of one image after another."""

    def add_image(self, image: Grey) -> None:
        """Fill the levels from level 0, (H, W), contiguous."""

    def add_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> None:
        """Fill the levels from the rows of an open file. Raises EOFError if the file is too short, and OSError.

        Parameters
        ----------
        seen : called with each piece of the file after it is read.
        grey_range : if given, all pixels of level 0 are added to it.
        """

    def biased(self) -> list[int]:
        """Return the levels of the last image whose mean error exceeds the limit."""


def filler(
    width: int,
    height: int,
    bits: int,
    outputs: Mapping[int, Grey],
    to_8bit: IntensityRange | None,
    reduction: Reduction = MEAN,
) -> LevelFiller:
    """Return the fastest filler of levels for images of one size and a reduction.

    Parameters
    ----------
    bits : bits per pixel of level 0, 8 or 16.
    outputs : level -> array for its pixels, in the size and type of the level.
    to_8bit : the 16-bit values that become 0 and 255; None: 16-bit images keep 16 bits.
    """
    if reduction.function == MEAN.function:
        return means(width, height, bits, outputs, to_8bit)
    if CompiledResize.can_do(reduction, width, height):
        return CompiledResize(width, height, bits, outputs, to_8bit if bits == 16 else None, reduction.function)
    return ByStrips(width, height, bits, outputs, to_8bit, reduction)


class ByStrips:
    """The filler of levels by any function except the mean.

    A strip contains whole blocks; if pixels depend on neighbouring blocks, all rows.
    """

    def __init__(
        self,
        width: int,
        height: int,
        bits: int,
        outputs: Mapping[int, Grey],
        to_8bit: IntensityRange | None,
        reduction: Reduction,
    ) -> None:
        self._outputs, self._to_8bit = dict(outputs), to_8bit
        self._reduce = REDUCERS[reduction.function]
        self._strip = Strip(width, bits, min(_rows_of(reduction, width * bits // 8, max(outputs), height), height))

    def add_image(self, image: Grey) -> None:
        """Fill the levels from level 0, (H, W)."""
        for top in range(0, len(image), self._strip.rows):
            self._fill(top, image[top : top + self._strip.rows])

    def add_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> None:
        """Fill the levels from the rows of an open file. Raises EOFError if the file is too short, and OSError."""
        for top, rows in self._strip.read(image, runs, seen):
            if grey_range is not None:
                grey_range.add(rows)
            self._fill(top, rows)

    def biased(self) -> list[int]:
        """Return no levels: only means are corrected for bias."""
        return []

    def _fill(self, top: int, rows: Grey) -> None:
        possible = frozenset(level for level in self._outputs if len(rows) >> level)
        for level, part in self._reduce(rows, possible, self._to_8bit):
            self._outputs[level][top >> level : (top >> level) + len(part)] = part


def _rows_of(reduction: Reduction, row_bytes: int, highest: int, height: int) -> int:
    """Return the number of rows of a strip."""
    if reduction.function in OF_NEIGHBOURS:
        return height
    return strip_rows(row_bytes, highest, BAND if reduction.function in ("median", "mode") else STRIP_BYTES)
