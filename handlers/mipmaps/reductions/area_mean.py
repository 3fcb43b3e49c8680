"""Levels by area mean: the default method, in which workers spend most of their time.

Integer block sums stay exact from level to level, so each pixel is rounded once and errors do not add up. All levels
are made from a few rows at a time, while these are in the cache: accessing new memory costs more than the arithmetic.
"""

from collections.abc import Mapping

import numpy as np

from handlers.images.opened import Opened
from handlers.images.pixels import Grey, IntensityRange, Rounding, Sums, smallest_type
from handlers.mipmaps.reductions.mean_kernel import CompiledMeans, GreyRange
from handlers.mipmaps.reductions.strips import Runs, Seen, Strip, strip_rows


def means(
    width: int, height: int, depth: int, outputs: Mapping[int, Grey], to_8bit: IntensityRange | None
) -> "CompiledMeans | MeansByNumpy":
    """Return the fastest filler of levels by mean, for images of one size.

    Parameters
    ----------
    depth : bits per pixel of level 0, 8 or 16.
    outputs : level -> array for its pixels, in the size and type of the level.
    to_8bit : the 16-bit values that become 0 and 255; None: 16-bit images keep 16 bits.
    """
    kind = CompiledMeans if CompiledMeans.can_do(frozenset(outputs)) else MeansByNumpy
    return kind(width, height, depth, outputs, to_8bit)


def unbiased(image: Grey, level: int, to_8bit: IntensityRange | None) -> Grey:
    """Return a level with rounding errors carried from pixel to pixel, so that its mean equals that of the image."""
    brightest, (height, width) = int(np.iinfo(image.dtype).max), image.shape
    sums = np.empty((height >> level, width >> level), _type_for(brightest, level))
    rows_at_once = strip_rows(width * image.itemsize, level)
    for top in range(0, height, rows_at_once):
        part: Sums = image[top : top + rows_at_once]
        for step in range(1, level + 1):
            part = _sums_of_four(part, _type_for(brightest, step))
        sums[top >> level : (top >> level) + len(part)] = part
    return Rounding.of(4**level, to_8bit).carried(sums, np.dtype(np.uint8) if to_8bit else image.dtype)


class MeansByNumpy:
    """The filler of levels by mean in numpy: without compiled code, and for sums of more than 32 bits."""

    def __init__(
        self, width: int, height: int, depth: int, outputs: Mapping[int, Grey], to_8bit: IntensityRange | None
    ) -> None:
        self._brightest = (1 << depth) - 1
        self._outputs = dict(outputs)
        self._rules = {level: Rounding.of(4**level, to_8bit) for level in outputs}
        self._highest = max(outputs, default=0)
        self._strip = Strip(width, depth, min(strip_rows(width * depth // 8, self._highest), height))
        self._row = 0
        self._excess: dict[int, int] = {}

    def add_image(self, image: Grey) -> None:
        """Fill the levels from level 0, (H, W)."""
        self._begin()
        for start in range(0, len(image), self._strip.rows):
            self._add(image[start : start + self._strip.rows])

    def add_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> None:
        """Fill the levels from the rows of an open file. Raises EOFError if the file is too short, and OSError."""
        self._begin()
        for _, rows in self._strip.read(image, runs, seen):
            if grey_range is not None:
                grey_range.add_by_numpy(rows)
            self._add(rows)

    def _begin(self) -> None:
        self._row = 0
        self._excess = dict.fromkeys(self._outputs, 0)

    def _add(self, rows: Grey) -> None:
        sums: Sums = rows
        for level in range(1, self._highest + 1):
            sums = _sums_of_four(sums, _type_for(self._brightest, level))
            if level in self._outputs and len(sums):
                first = self._row >> level
                part = self._outputs[level][first : first + len(sums)]
                self._excess[level] += self._rules[level].to_nearest(sums, part, first)
        self._row += len(rows)

    def biased(self) -> list[int]:
        """Return the levels of the last image whose mean error exceeds the limit."""
        return [
            level
            for level, rule in self._rules.items()
            if rule.is_biased(self._excess[level], self._outputs[level].size)
        ]


def _type_for(brightest: int, level: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest type for the block sums of a level plus the half that is added for rounding."""
    return smallest_type(brightest * 4**level + 4**level // 2)


def _sums_of_four(sums: Sums, wide: np.dtype[np.unsignedinteger]) -> Sums:
    """Return the sums of 2 x 2 neighbours; an odd last row or column is dropped."""
    height, width = (size // 2 * 2 for size in sums.shape)
    rows = np.add(sums[0:height:2, :width], sums[1:height:2, :width], dtype=wide)
    return rows[:, 0::2] + rows[:, 1::2]
