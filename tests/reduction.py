"""Reference levels, reduced from a whole image. A worker must make the same levels from strips by compiled code."""

from collections.abc import Iterable, Iterator

import numpy as np

from handlers.images.pixels import Grey, IntensityRange
from handlers.images.reduction import MEAN, Reduction
from handlers.mipmaps.reductions.area_mean import means, unbiased
from handlers.mipmaps.reductions.reduce import REDUCERS


def reduce_levels(
    image: Grey, levels: Iterable[int], reduction: Reduction = MEAN, to_8bit: IntensityRange | None = None
) -> Iterator[tuple[int, Grey]]:
    """Yield each level with its image, the lowest first. The range is ignored for 8-bit images."""
    to_8bit = to_8bit if image.dtype == np.uint16 else None
    if reduction.function == MEAN.function:
        return _mean_levels(image, sorted(levels), to_8bit)
    return REDUCERS[reduction.function](image, frozenset(levels), to_8bit)


def _mean_levels(image: Grey, levels: list[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    height, width = image.shape
    outputs = {n: np.empty((height >> n, width >> n), np.uint8 if to_8bit else image.dtype) for n in levels}
    reducer = means(width, height, image.itemsize * 8, outputs, to_8bit)
    reducer.add_image(np.ascontiguousarray(image))
    biased = reducer.biased()
    for level, output in outputs.items():
        yield level, unbiased(image, level, to_8bit) if level in biased else output
