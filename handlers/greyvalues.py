"""Grey values: their types, 16 bits made 8, and means rounded once and without bias. Pure."""

import math

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A grey image, (H, W), axis 0 is y."""
Sums = npt.NDArray[np.unsignedinteger]
"""Sums of the level-0 pixels under each pixel of a level, (H, W)."""
IntensityRange = tuple[int, int]
"""The 16-bit values that become 0 and 255; what lies outside becomes the nearer of the two."""

FULL_RANGE: IntensityRange = (0, 65535)
BIAS_LIMIT = 0.09
"""Mean error of a level, in grey values, from which on its rounding is spread over the image; 0.1 is promised."""
PIECE = 1 << 20
"""Pixels among which a rounding error is spread."""


def scaled(image: Grey, to_8bit: IntensityRange | None) -> Grey:
    """16-bit pixels as 8-bit ones, each by itself, rounded half up; as they are where no range is given.

    Equal values stay equal, which `rounded` does not promise: this is for pixels that are values of level 0, or labels.

    >>> scaled(np.array([[0, 128, 129, 65535]], np.uint16), FULL_RANGE).tolist()
    [[0, 0, 1, 255]]
    """
    if to_8bit is None:
        return image
    low, high = to_8bit
    span = high - low
    above = np.clip(np.arange(1 << 16), low, high) - low
    table: npt.NDArray[np.uint8] = ((above * 510 + span) // (2 * span)).astype(np.uint8)
    return table[image]


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
