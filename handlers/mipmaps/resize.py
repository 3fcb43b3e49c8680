"""Levels by Pillow's resize and its six filters. Does no input or output."""

import functools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image

from handlers.images.pixels import Grey, IntensityRange, scaled


def resized_levels(
    image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None, *, resample: Image.Resampling
) -> Iterator[tuple[int, Grey]]:
    """Yield levels that Pillow resizes from level 0 in one step, so that nothing is rounded or shifted twice.

    `box` drops the rows and columns that fill no block. A filter that reaches beyond its block still uses them.
    """
    # Where a filter overshoots (BICUBIC, LANCZOS), Pillow clips 16-bit values byte by byte, so they go through floats.
    as_float = image.dtype == np.uint16 and resample != Image.Resampling.NEAREST
    level0 = Image.fromarray(image.astype(np.float32) if as_float else image)
    height, width = image.shape
    for level in sorted(levels):
        size = width >> level, height >> level
        box = (0, 0, size[0] << level, size[1] << level)
        small = np.asarray(level0.resize(size, resample, box=box))
        if as_float:
            small = np.clip(np.rint(small), 0, np.iinfo(image.dtype).max).astype(image.dtype)
        yield level, scaled(small, to_8bit)


FILTERS: Mapping[str, Callable[..., Iterator[tuple[int, Grey]]]] = MappingProxyType(
    {
        name: functools.partial(resized_levels, resample=Image.Resampling[name])
        for name in ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
    }
)
"""Pillow's name of a filter -> function that makes levels by it."""
