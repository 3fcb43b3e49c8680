"""Levels by the minimum, maximum, median or most frequent value of each block. Pure.

Each pixel is a function of its whole 2^n x 2^n block of level 0.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.images.pixels import Grey, IntensityRange, scaled

Blocks = npt.NDArray[Any]
"""(n, H, W), uint8 or uint16: the n pixels of each block along axis 0, in any order."""
BAND = 1 << 21
"""Pixels of level 0 that are sorted at once. More do not fit the cache; with fewer, calls dominate the cost."""


def min_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Yield levels whose pixels are the smallest of their blocks.

    A mask of two values keeps these values, and an opaque pixel never covers a transparent pixel of level 0.
    """
    yield from _level_by_level(np.minimum, image, levels, to_8bit)


def max_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Yield levels whose pixels are the largest of their blocks."""
    yield from _level_by_level(np.maximum, image, levels, to_8bit)


def median_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Yield levels whose pixels are the medians of their blocks: the mean of the middle two values, rounded to even."""
    yield from _from_level_0(median, image, levels, to_8bit)


def mode_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Yield levels of the most frequent values of the blocks, for labels; if several are as frequent, the smallest."""
    yield from _from_level_0(most_frequent, image, levels, to_8bit)


def median(blocks: Blocks) -> Grey:
    """Return the medians along axis 0, whose length is a power of 2; a half is rounded to even.

    >>> median(np.array([[[0, 0]], [[1, 2]], [[2, 3]], [[9, 9]]], np.uint8)).tolist()
    [[2, 2]]
    """
    ordered = in_order(blocks)
    middle = len(blocks) // 2
    total = ordered[middle - 1].astype(np.uint32) + ordered[middle]
    half = total >> 1
    result: Grey = (half + (total & half & 1)).astype(blocks.dtype)
    return result


def most_frequent(blocks: Blocks) -> Grey:
    """Return the most frequent values along axis 0, whose length is a power of 2; if several, the smallest.

    >>> most_frequent(np.array([[[7, 9]], [[3, 4]], [[7, 9]], [[1, 4]]], np.uint8)).tolist()
    [[7, 4]]
    """
    ordered = in_order(blocks)
    value: Grey = ordered[0].copy()
    run = np.ones(value.shape, np.min_scalar_type(len(blocks)))
    longest = run.copy()
    for before, now in pairwise(ordered):
        # Equal values are adjacent, so the first of the longest runs has the smallest value.
        run *= before == now
        run += 1
        np.copyto(value, now, where=run > longest)
        np.maximum(longest, run, out=longest)
    return value


def in_order(blocks: Blocks) -> Blocks:
    """Return the pixels of each block in ascending order along axis 0, whose length is a power of 2.

    All blocks pass one sorting network together: its comparisons are minima and maxima of whole arrays, which is many
    times faster than sorting the blocks one by one.

    Source: Batcher, Sorting networks and their applications (1968), odd-even merging.

    >>> in_order(np.array([[[3]], [[1]], [[2]], [[0]]], np.uint8)).ravel().tolist()
    [0, 1, 2, 3]
    """
    count, *shape = blocks.shape
    ordered = blocks.copy()
    merged = 1
    while merged < count:
        pairs = ordered.reshape(count // (2 * merged), 2 * merged, *shape)
        _exchange(pairs.reshape(-1, 1, 2, merged, *shape))
        distance = merged // 2
        while distance:
            inner = pairs[:, distance:-distance]
            _exchange(inner.reshape(len(pairs), -1, 2, distance, *shape))
            distance //= 2
        merged *= 2
    return ordered


def _exchange(pairs: Blocks) -> None:
    """Put the smaller of two values at index 0 of axis 2, the larger at index 1."""
    low, high = pairs[:, :, 0], pairs[:, :, 1]
    smaller = np.minimum(low, high)
    np.maximum(low, high, out=high)
    low[...] = smaller


def _level_by_level(
    function: np.ufunc, image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None
) -> Iterator[tuple[int, Grey]]:
    """Yield each level, made from the level before: the minimum of four minima is the minimum of all."""
    for level in range(1, max(levels, default=0) + 1):
        height, width = (size // 2 * 2 for size in image.shape)
        first, *others = (image[y:height:2, x:width:2] for y in (0, 1) for x in (0, 1))
        image = first.copy()
        for other in others:
            function(image, other, out=image)
        if level in levels:
            yield level, scaled(image, to_8bit)


def _from_level_0(
    function: Callable[[Blocks], Grey], image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None
) -> Iterator[tuple[int, Grey]]:
    """Yield each level, made from level 0: the median of four medians is not the median of all (likewise the mode)."""
    for level in sorted(levels):
        yield level, scaled(_reduced(image, 2**level, function), to_8bit)


def _reduced(image: Grey, side: int, function: Callable[[Blocks], Grey]) -> Grey:
    """Return a function of each side x side block; an odd last row or column is dropped."""
    height, width = (size // side for size in image.shape)
    reduced = np.empty((height, width), image.dtype)
    rows_at_once = max(1, BAND // (width * side * side))
    for top in range(0, height, rows_at_once):
        bottom = min(height, top + rows_at_once)
        band = image[top * side : bottom * side, : width * side].reshape(bottom - top, side, width, side)
        blocks = band.transpose(1, 3, 0, 2).reshape(side * side, bottom - top, width)
        reduced[top:bottom] = function(blocks)
    return reduced
