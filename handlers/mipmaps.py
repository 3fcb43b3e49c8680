"""Mipmap levels of one image as arrays: sizes, reduction, bit depth. Pure.

Level n of an image is its reduction by 2^n in x and y. Every level is made from level 0 itself: the mean keeps exact
integer block sums from level to level, so that rounding happens once per pixel and never adds up.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from skimage.measure import block_reduce

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A grey image, (H, W), axis 0 is y."""
Sums = npt.NDArray[np.unsignedinteger]
"""Sums of the level-0 pixels under each pixel of a level, (H, W)."""
IntensityRange = tuple[int, int]
"""The 16-bit values that become 0 and 255; what lies outside becomes the nearer of the two."""
Reduction = Callable[[Grey, frozenset[int], IntensityRange | None], Iterator[tuple[int, Grey]]]

FULL_RANGE: IntensityRange = (0, 65535)
BIAS_LIMIT = 0.09
"""Mean error of a level, in grey values, from which on its rounding is spread over the image; 0.1 is promised."""
PIECE = 1 << 20
"""Pixels among which a rounding error is spread."""


def level_size(width: int, height: int, level: int) -> tuple[int, int]:
    """Width and height of a mipmap level: an odd last row or column is dropped, as render does. May be 0.

    >>> level_size(2760, 2330, 1), level_size(2760, 2330, 3)
    ((1380, 1165), (345, 291))
    """
    return width >> level, height >> level


def reduce_levels(
    image: Grey, levels: Iterable[int], method: str = "mean", to_8bit: IntensityRange | None = None
) -> Iterator[tuple[int, Grey]]:
    """Each of the levels with its image, lowest first, whatever their order.

    Parameters
    ----------
    image : (H, W), uint8 or uint16: level 0.
    levels : 1 or more each.
    method : a key of METHODS.
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
    return METHODS[method](image, wanted, to_8bit if image.dtype == np.uint16 else None)


def mean_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the means of their 2^n x 2^n blocks of level 0, rounded once, without bias."""
    brightest, depth = int(np.iinfo(image.dtype).max), image.dtype
    sums: Sums = image
    for level in range(1, max(levels, default=0) + 1):
        sums = _sums_of_four(sums, smallest_type(brightest * 4**level + 4**level // 2))
        if level in levels:
            yield level, rounded(sums, 4**level, depth, to_8bit)


def min_levels(image: Grey, levels: frozenset[int], to_8bit: IntensityRange | None) -> Iterator[tuple[int, Grey]]:
    """Levels whose pixels are the smallest of their blocks: a mask of two values keeps these two, and no clear pixel
    of level 0 is ever covered by an opaque one."""
    darkest = image
    for level in range(1, max(levels, default=0) + 1):
        height, width = darkest.shape
        darkest = block_reduce(darkest[: height // 2 * 2, : width // 2 * 2], (2, 2), np.min)  # type: ignore[no-untyped-call]
        if level in levels:
            yield level, rounded(darkest, 1, darkest.dtype, to_8bit) if to_8bit else darkest


METHODS: Mapping[str, Reduction] = MappingProxyType({"mean": mean_levels, "min": min_levels})
"""How a level is made of level 0, by name."""


def rounded(sums: Sums, pixels: int, depth: np.dtype[np.unsignedinteger], to_8bit: IntensityRange | None) -> Grey:
    """The means that the sums stand for, scaled where a range is given, as integers of the wanted depth.

    To the nearest integer. Ties go up and down in turn like the fields of a checkerboard: up alone would brighten a
    level 1 by 0.125. Where rounding to the nearest still shifts the mean of the image (an even grey of 100.25 would
    become 100 everywhere) the error is carried from pixel to pixel instead; each then is the integer below or above
    its mean.

    Parameters
    ----------
    sums : of `pixels` level-0 pixels each.
    depth : of the result, unless a range is given: that makes it uint8.
    """
    factor, divisor = _ratio(pixels, to_8bit)
    shares = _scaled(sums, pixels, factor, divisor, to_8bit) if to_8bit else sums
    nearest = _to_nearest(shares, divisor)
    bias = int(nearest.sum(dtype=np.uint64)) / nearest.size - int(shares.sum(dtype=np.uint64)) / divisor / nearest.size
    result = nearest if abs(bias) <= BIAS_LIMIT else _carried(shares, divisor)
    grey: Grey = result.astype(np.uint8 if to_8bit else depth)
    return grey


def smallest_type(largest: int) -> np.dtype[np.unsignedinteger]:
    """The smallest unsigned integer type that holds a value, 16 bits at least."""
    if largest > np.iinfo(np.uint32).max:
        return np.dtype(np.uint64)
    return np.dtype(np.uint32) if largest > np.iinfo(np.uint16).max else np.dtype(np.uint16)


def _sums_of_four(sums: Sums, wide: np.dtype[np.unsignedinteger]) -> Sums:
    """Sums of 2 x 2 neighbours, an odd last row or column left out."""
    height, width = (size // 2 * 2 for size in sums.shape)
    rows = np.add(sums[0:height:2, :width], sums[1:height:2, :width], dtype=wide)
    return rows[:, 0::2] + rows[:, 1::2]


def _ratio(pixels: int, to_8bit: IntensityRange | None) -> tuple[int, int]:
    """(factor, divisor) that make a grey value of a sum, in lowest terms but for an even divisor."""
    low, high = to_8bit or (0, 255)
    shared = math.gcd(255, high - low)
    factor, divisor = 255 // shared, (high - low) // shared * pixels
    return (factor, divisor) if divisor % 2 == 0 else (2 * factor, 2 * divisor)


def _scaled(sums: Sums, pixels: int, factor: int, divisor: int, to_8bit: IntensityRange) -> Sums:
    """What the sums exceed the range's lower end by, no more than its upper end does, times factor."""
    low, high = (limit * pixels for limit in to_8bit)
    wide = smallest_type((high - low) * factor + divisor)
    above: Sums = np.clip(sums, low, high) - sums.dtype.type(low)
    scaled: Sums = above.astype(wide, copy=False) * wide.type(factor)
    return scaled


def _to_nearest(shares: Sums, divisor: int) -> Sums:
    """shares / divisor to the nearest integer; ties up where row + column is even, down where it is odd."""
    nearest = shares + shares.dtype.type(divisor // 2)
    nearest[0::2, 1::2] -= 1
    nearest[1::2, 0::2] -= 1
    if divisor & (divisor - 1) == 0:
        nearest >>= divisor.bit_length() - 1
    else:
        nearest //= divisor
    return nearest


def _carried(shares: Sums, divisor: int) -> Sums:
    """shares / divisor as the integer below or above, such that the sum of the image is right.

    What one pixel is rounded off is carried to the next. They are taken in a fixed shuffled order, which leaves no
    stripes, and piece by piece, which bounds the memory for it.
    """
    flat, result = shares.ravel(), np.empty(shares.size, np.uint64)
    order = np.random.default_rng(0).permutation(min(shares.size, PIECE))
    for start in range(0, shares.size, PIECE):
        piece = flat[start : start + PIECE]
        turns = order[order < piece.size]
        whole = (np.cumsum(piece[turns], dtype=np.uint64) + np.uint64(divisor // 2)) // np.uint64(divisor)
        result[start + turns] = np.diff(whole, prepend=np.uint64(0))
    return result.reshape(shares.shape)
