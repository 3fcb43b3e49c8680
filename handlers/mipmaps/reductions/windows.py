"""Windows of Pillow's filters: the weights of the pixels of level 0 from which a pixel of a level is made. Pure.

They are computed with the same operations as in Pillow, since levels depend on the last bit.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

EDGE = 3
"""Number of pixels at each end of a line whose windows may be truncated."""
PRECISION = 22
"""Bits of the integer weights of 8-bit pixels."""
Weights = npt.NDArray[np.float64]


def first_of(reach: float, number: int) -> int:
    """Return the first pixel of a window, relative to the beginning of the pixel's block; its length is `length_of`."""
    return (1 << number) // 2 - length_of(reach, number) // 2


def length_of(reach: float, number: int) -> int:
    """Return the number of pixels in a window.

    >>> first_of(3.0, 1), length_of(3.0, 1)
    (-5, 12)
    """
    return round(2 * reach * (1 << number))


@functools.lru_cache(maxsize=128)
def window(name: str, number: int, length: int, pixel: int) -> Weights:
    """Return the weights of the window of a pixel of level `number`; 0 beyond the ends of the line.

    Parameters
    ----------
    name : name of the filter.
    length : length of the line of level 0, pixels.
    pixel : index of the pixel in the line of the level.

    Source: `precompute_coeffs` in Resample.c of Pillow.

    >>> window("BILINEAR", 1, 8, 1).tolist(), window("BILINEAR", 1, 8, 0).tolist()
    ([0.125, 0.375, 0.375, 0.125], [0.0, 0.42857142857142855, 0.42857142857142855, 0.14285714285714285])
    """
    weigh, reach = FILTERS[name]
    side, taps = 1 << number, length_of(reach, number)
    center, begin = (pixel + 0.5) * side, pixel * side + first_of(reach, number)
    weights = np.zeros(taps)
    total = 0.0
    for tap in range(max(0, -begin), min(taps, length - begin)):
        weights[tap] = weight = weigh((begin + tap - center + 0.5) / side)
        total += weight  # sum() would be more precise than Pillow is
    weights /= total
    weights.flags.writeable = False
    return weights


def kinds(name: str, number: int, length: int) -> Weights:
    """Return the weights of the first EDGE pixels of a line, of a pixel between, and of the last EDGE pixels."""
    width = length >> number
    pixels = (*range(EDGE), between(number, length), *range(width - EDGE, width))
    return np.array([window(name, number, length, min(max(pixel, 0), width - 1)) for pixel in pixels])


def of_columns(name: str, number: int, length: int, columns: range) -> Weights:
    """Return the weights of some columns for each tap, (taps, columns); 0 beyond the last column of the level."""
    width = length >> number
    weights = np.zeros((length_of(FILTERS[name][1], number), len(columns)))
    for index, column in enumerate(columns):
        if column < width:
            is_edge = column < EDGE or column >= width - EDGE
            weights[:, index] = window(name, number, length, column if is_edge else between(number, length))
    return weights


def between(number: int, length: int) -> int:
    """Return a pixel of a line whose window is not truncated, if there is one."""
    return min(EDGE, (length >> number) - 1)


def as_integers(weights: Weights) -> npt.NDArray[np.int32]:
    """Return weights for 8-bit pixels, rounded half away from zero.

    >>> as_integers(np.array([0.5, -0.25, 2.0**-23, -(2.0**-23)])).tolist()
    [2097152, -1048576, 1, -1]
    """
    scaled = weights * (1 << PRECISION)
    return np.where(weights < 0, -0.5 + scaled, 0.5 + scaled).astype(np.int32)


def _box(place: float) -> float:
    return 1.0 if -0.5 < place <= 0.5 else 0.0


def _bilinear(place: float) -> float:
    return max(0.0, 1.0 - abs(place))


def _hamming(place: float) -> float:
    angle = abs(place) * math.pi
    return math.sin(angle) / angle * (_FLOAT_54 + _FLOAT_46 * math.cos(angle))


_FLOAT_54, _FLOAT_46 = float(np.float32(0.54)), float(np.float32(0.46))
"""The constants of Pillow, which are 32-bit floats."""


def _bicubic(place: float) -> float:
    x, a = abs(place), -0.5
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a


def _lanczos(place: float) -> float:
    return _sinc(place) * _sinc(place / 3)


def _sinc(place: float) -> float:
    angle = place * math.pi
    return math.sin(angle) / angle


FILTERS: Mapping[str, tuple[Callable[[float], float], float]] = MappingProxyType(
    {
        "BOX": (_box, 0.5),
        "BILINEAR": (_bilinear, 1.0),
        "HAMMING": (_hamming, 1.0),
        "BICUBIC": (_bicubic, 2.0),
        "LANCZOS": (_lanczos, 3.0),
    }
)
"""Filter -> (weight of a position, number of blocks that a window reaches to each side). No window has a position 0,
since blocks have even sides."""
