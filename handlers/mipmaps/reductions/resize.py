"""Levels by the six filters of Pillow's resize. No input or output."""

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from handlers.images.pixels import Grey, IntensityRange, scaled


def resized_levels(
    image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None, *, resample: Image.Resampling
) -> Iterator[tuple[int, Grey]]:
    """Yield levels that Pillow resizes from level 0 in one step, so that pixels are rounded once.

    `box` drops the rows and columns that fill no block. A filter that reaches beyond its block still uses them.
    """
    # If a filter overshoots (BICUBIC, LANCZOS), Pillow clips 16-bit values byte by byte. So they are resized as floats.
    as_float = image.dtype == np.uint16
    level0 = Image.fromarray(image.astype(np.float32) if as_float else image)
    height, width = image.shape
    for level in sorted(levels):
        size = width >> level, height >> level
        box = (0, 0, size[0] << level, size[1] << level)
        small = np.asarray(level0.resize(size, resample, box=box))
        if as_float:
            small = np.clip(np.rint(small), 0, np.iinfo(image.dtype).max).astype(image.dtype)
        yield level, scaled(small, to_8bit)


def nearest_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Yield levels of the pixels to the lower right of the middle of each block, as Pillow's NEAREST."""
    height, width = image.shape
    for level in sorted(levels):
        middle, side = 1 << (level - 1), 1 << level
        lines = image[middle::side][: height >> level, : width >> level << level]
        yield level, scaled(_right_of_pairs(lines) if level == 1 else lines[:, middle::side], to_8bit)


def _right_of_pairs(lines: Grey) -> Grey:
    """Return every second pixel of each row, from the second on; the number of columns is even.

    Taking the upper bytes of 16-bit pairs is three times as fast in numpy as copying every second byte.
    """
    if lines.itemsize > 1:
        return lines[:, 1::2]
    return (lines.view("<u2") >> 8).astype(np.uint8)


OF_NEIGHBOURS = ("BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
"""Filters that reach beyond a pixel's block."""
FILTERS: Mapping[str, Callable[..., Iterator[tuple[int, Grey]]]] = MappingProxyType(
    {
        "NEAREST": nearest_levels,
        **{
            name: functools.partial(resized_levels, resample=Image.Resampling[name]) for name in ("BOX", *OF_NEIGHBOURS)
        },
    }
)
"""Pillow's name of a filter -> function that makes levels."""
