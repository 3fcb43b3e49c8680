"""Levels by another function of each block than its mean: minimum, maximum, median, most frequent value. Pure.

Every pixel is a function of its whole 2^n x 2^n block of level 0. scikit-image's `block_reduce` applies it, to a band
of rows at a time, since functions make copies of the pixels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.images.pixels import Grey, IntensityRange, scaled

BlockFunction = Callable[..., npt.NDArray[Any]]
"""Takes blocks (H, W, side, side) and axis = (2, 3); returns (H, W)."""

BAND = 1 << 20
"""Level-0 pixels that a function is given at once; it may take a hundred bytes for each."""


def min_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the smallest of their blocks: a mask of two values keeps these two, and no clear pixel
    of level 0 is ever covered by an opaque one."""
    yield from _chained(np.min, image, levels, to_8bit)


def max_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the largest of their blocks."""
    yield from _chained(np.max, image, levels, to_8bit)


def median_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the medians of their blocks: the mean of the two in the middle, a half to the even."""
    yield from _from_level_0(median, image, levels, to_8bit)


def mode_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the most frequent values of their blocks, of several the smallest: for label images."""
    yield from _from_level_0(most_frequent, image, levels, to_8bit)


def median(blocks: Grey, axis: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """The medians over some axes as whole numbers; with an even number of pixels a half goes to the even neighbour.

    >>> median(np.array([[0, 1, 2, 9], [0, 2, 3, 9]], np.uint8), (1,)).tolist()
    [2.0, 2.0]
    """
    whole: npt.NDArray[np.float64] = np.rint(np.median(blocks, axis=axis))
    return whole


def most_frequent(blocks: Grey, axis: tuple[int, ...]) -> Grey:
    """The most frequent values over the last axes, of several the smallest.

    >>> most_frequent(np.array([[7, 3, 7, 1], [9, 4, 9, 4]], np.uint8), (1,)).tolist()
    [7, 4]
    """
    pixels = np.sort(blocks.reshape(*blocks.shape[: min(axis)], -1), axis=-1)
    # Equal values lie side by side now. The first of the longest runs is that of the smallest value.
    place = np.arange(pixels.shape[-1], dtype=np.int32)
    begins = np.zeros(pixels.shape, np.int32)
    np.multiply(pixels[..., 1:] != pixels[..., :-1], place[1:], out=begins[..., 1:])
    run_so_far = place - np.maximum.accumulate(begins, axis=-1)
    longest = run_so_far.argmax(axis=-1)
    values: npt.NDArray[Any] = np.take_along_axis(pixels, longest[..., np.newaxis], axis=-1)
    return values[..., 0]


def _chained(
    function: BlockFunction, image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None
) -> Iterator[tuple[int, Grey]]:
    """Each level of the one above, which comes to the same: the smallest of four smallest is the smallest of all."""
    for level in range(1, max(levels, default=0) + 1):
        image = _reduced(image, 2, function)
        if level in levels:
            yield level, scaled(image, to_8bit)


def _from_level_0(
    function: BlockFunction, image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None
) -> Iterator[tuple[int, Grey]]:
    """Each level of level 0: the median of four medians is not the median of all, nor is the most frequent value."""
    for level in sorted(levels):
        yield level, scaled(_reduced(image, 2**level, function), to_8bit)


def _reduced(image: Grey, side: int, function: BlockFunction) -> Grey:
    """A function of each block of side x side pixels; an odd last row or column is left out."""
    from skimage.measure import block_reduce  # the few that need it wait for it

    height, width = (size // side for size in image.shape)
    reduced = np.empty((height, width), image.dtype)
    whole = image[: height * side, : width * side]
    rows = max(1, BAND // (width * side * side))
    for top in range(0, height, rows):
        band = whole[top * side : (top + rows) * side]
        reduced[top : top + rows] = block_reduce(band, (side, side), function)  # type: ignore[no-untyped-call]
    return reduced
