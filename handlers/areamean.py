"""Levels by area mean, the kernel that every tile of a day goes through. Pure.

Integer block sums are kept exact from level to level, so that rounding happens once per pixel and never adds up.
"""

from collections.abc import Iterator

import numpy as np

from handlers.greyvalues import Grey, IntensityRange, Sums, rounded, smallest_type


def mean_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the means of their 2^n x 2^n blocks of level 0, rounded once, without bias."""
    brightest, depth = int(np.iinfo(image.dtype).max), image.dtype
    sums: Sums = image
    for level in range(1, max(levels, default=0) + 1):
        sums = _sums_of_four(sums, smallest_type(brightest * 4**level + 4**level // 2))
        if level in levels:
            yield level, rounded(sums, 4**level, depth, to_8bit)


def _sums_of_four(sums: Sums, wide: np.dtype[np.unsignedinteger]) -> Sums:
    """Sums of 2 x 2 neighbours, an odd last row or column left out."""
    height, width = (size // 2 * 2 for size in sums.shape)
    rows = np.add(sums[0:height:2, :width], sums[1:height:2, :width], dtype=wide)
    return rows[:, 0::2] + rows[:, 1::2]
