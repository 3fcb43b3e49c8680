"""Reducing one image to mipmap levels as arrays, by any method. Pure.

Level n of an image is its reduction by 2^n in x and y. Each level is a function of level 0, and not of another rounded
level. The functions are in `area_mean`, `block_functions` and `resize`.
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
"""Name of a function of block_reduce -> function that makes levels."""
REDUCERS: Mapping[str, Mapping[str, Reducer]] = MappingProxyType(
    {"block_reduce": FUNCTIONS, "PIL": FILTERS, "render": MappingProxyType({"mean": mean_levels})}
)
"""Method -> name of its function -> function that makes levels, for all names in `reduction.METHODS`. With "render",
pixels of level 0 from render-ws are reduced."""


def reduce_levels(
    image: Grey, levels: Iterable[int], reduction: Reduction = MEAN, to_8bit: IntensityRange | None = None
) -> Iterator[tuple[int, Grey]]:
    """Yield each level with its image, the lowest first.

    Parameters
    ----------
    image : level 0, (H, W), uint8 or uint16.
    levels : numbers from 1 on, in any order.
    to_8bit : range from which levels of 16-bit images are scaled to 8 bits after the reduction; None: they keep 16
        bits. Ignored for 8-bit images.

    Raises
    ------
    ValueError
        If the image is not grey with 8 or 16 bits, a level is below 1 or empty, or the range is invalid.

    >>> image = np.array([[0, 1, 9], [2, 3, 9]], np.uint8)
    >>> [(level, reduced.tolist()) for level, reduced in reduce_levels(image, [1])]
    [(1, [[2]])]
    """
    wanted = frozenset(levels)
    if image.ndim != 2 or image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"expected a grey image with 8 or 16 bits, found shape {image.shape} and type {image.dtype}")
    height, width = image.shape
    if wanted and (min(wanted) < 1 or 0 in level_size(width, height, max(wanted))):
        raise ValueError(f"expected levels from 1 on, found {sorted(wanted)} of a {width}x{height} image")
    if to_8bit and not 0 <= to_8bit[0] < to_8bit[1] <= 65535:
        raise ValueError(f"expected two ascending values from 0 to 65535, found {to_8bit}")
    reducer = REDUCERS[reduction.method][reduction.function]
    return reducer(image, wanted, to_8bit if image.dtype == np.uint16 else None)
