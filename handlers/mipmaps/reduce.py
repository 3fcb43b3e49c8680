"""Mipmap levels of one image as arrays: what makes a level of level 0. Pure.

Level n of an image is its reduction by 2^n in x and y. Every level is defined by level 0 itself, never by a rounded
level between: `area_mean`, `block_functions` and `resize` hold the ways of making one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np

from handlers.images.pixels import Grey
from handlers.images.reduction import MEAN, IntensityRange, Reduction, level_size
from handlers.mipmaps.area_mean import mean_levels
from handlers.mipmaps.block_functions import max_levels, median_levels, min_levels, mode_levels
from handlers.mipmaps.resize import FILTERS

Reducer = Callable[[Grey, frozenset[int], IntensityRange | None], Iterator[tuple[int, Grey]]]

FUNCTIONS: Mapping[str, Reducer] = MappingProxyType(
    {"mean": mean_levels, "median": median_levels, "min": min_levels, "max": max_levels, "mode": mode_levels}
)
"""What a pixel is of its block, by name."""
REDUCERS: Mapping[str, Mapping[str, Reducer]] = MappingProxyType(
    {"block_reduce": FUNCTIONS, "PIL": FILTERS, "render": MappingProxyType({"mean": mean_levels})}
)
"""Method -> function -> how, for all that `reduction.METHODS` names. With "render" the pixels of level 0 come from
render-ws, and are reduced as any others."""


def reduce_levels(
    image: Grey, levels: Iterable[int], reduction: Reduction = MEAN, to_8bit: IntensityRange | None = None
) -> Iterator[tuple[int, Grey]]:
    """Each of the levels with its image, lowest first, whatever their order.

    Parameters
    ----------
    image : (H, W), uint8 or uint16: level 0.
    levels : 1 or more each.
    to_8bit : where given, 16-bit images become 8-bit ones, scaled from this range after they were reduced. 8-bit
        images stay as they are.

    Raises
    ------
    ValueError
        If the image is not grey with 8 or 16 bits, a level is below 1 or empty, or the range is.

    >>> image = np.array([[0, 1, 9], [2, 3, 9]], np.uint8)
    >>> [(level, reduced.tolist()) for level, reduced in reduce_levels(image, [1])]
    [(1, [[2]])]
    """
    wanted = frozenset(levels)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an image of shape {image.shape} and type {image.dtype} is not grey with 8 or 16 bits")
    height, width = image.shape
    if wanted and (min(wanted) < 1 or 0 in level_size(width, height, max(wanted))):
        raise ValueError(f"levels {sorted(wanted)} of a {width}x{height} image: empty, or below 1")
    if to_8bit and not 0 <= to_8bit[0] < to_8bit[1] <= 65535:
        raise ValueError(f"{to_8bit} is not an intensity range")
    reducer = REDUCERS[reduction.method][reduction.function]
    return reducer(image, wanted, to_8bit if image.dtype == np.uint16 else None)
