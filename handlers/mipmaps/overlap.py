"""Measuring the positions of a tile's neighbours in their overlap at level 3."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from handlers.errors import Fault
from handlers.images.decode import read_image
from handlers.images.pixels import Grey
from handlers.images.reduction import level_size
from handlers.parcel import Parcel
from handlers.place import Place

LEVEL: Final = 3
"""Level that is compared: coarse enough to average out the camera's noise, fine enough for the edges of membranes."""
SCALE: Final = 2**LEVEL
FINENESS: Final = 16
"""Steps per pixel of level 3, each half a pixel of level 0."""
MAX_PX, WIDEST_PX = 256, 96
"""Largest window that is compared, along the overlap and across it, in pixels of level 3."""
NARROWEST_PX: Final = 8
MAX_ERROR: Final = 0.9
"""Largest error of windows that show the same. Unrelated windows had errors of at least 0.98 in tests, and the same
tissue with heavy noise 0.85."""
MIN_CONTRAST: Final = 2.0
"""Smallest standard deviation of a window's Laplacian, on the scale 0 to 255. Rounding alone gives 1.3, and its steps
in an even shading look the same in both windows. Tissue has at least 5."""
_Floats = npt.NDArray[np.float32]


class Side(IntEnum):
    """The side of a tile on which a neighbour lies; the journal stores the number."""

    LEFT = 1
    TOP = 2
    RIGHT = 3
    BOTTOM = 4


@dataclass(frozen=True, slots=True)
class Neighbour(Parcel):
    """A raster neighbour of a tile."""

    side: Side
    level3: Place
    """Place of its level 3, which may not exist yet."""
    width: int
    """Width of the neighbour's level 0; `height`: its height."""
    height: int
    x: float
    """Position of the neighbour minus that of the tile by their tile specs, in level-0 pixels; `y` likewise."""
    y: float


@dataclass(frozen=True, slots=True)
class Overlap(Parcel):
    """Measured position of a neighbour."""

    side: Side
    x: float
    """Measured position of the neighbour minus that by the tile specs, in level-0 pixels; `y` likewise."""
    y: float
    error: float
    """RMS difference of the two aligned windows, relative to their contrast: 0 is equal, 1 is unrelated."""


def compare_with(neighbour: Neighbour, level3: Grey) -> Overlap | None:
    """Measure the position of a neighbour; None if its level 3 does not exist yet or contrast is too low. Blocking.

    Both tiles of a pair call this function: the tile that is made last finds the level of the other.

    Parameters
    ----------
    level3 : level 3 of the tile itself, (H, W).
    """
    try:
        other, _ = read_image(neighbour.level3, *level_size(neighbour.width, neighbour.height, LEVEL))
    except (Fault, OSError):
        return None  # an invalid file is reported when it is made, or by verify
    seen = displacement(level3, other, neighbour.x / SCALE, neighbour.y / SCALE)
    if seen is None:
        return None
    x, y, error = seen
    return Overlap(neighbour.side, x * SCALE - neighbour.x, y * SCALE - neighbour.y, error)


def displacement(image: Grey, other: Grey, x: float, y: float) -> tuple[float, float, float] | None:
    """Return the measured position (x, y) of another image, and the error; None if too little is common.

    Parameters
    ----------
    image, other : (H, W) each.
    x, y : expected position of the other image minus that of the image, pixels.

    Source of the method: Guizar-Sicairos, Thurman and Fienup (2008), in scikit-image. Laplacians are compared: they
    contain no shading, and their correlation has a narrow peak.
    """
    place = round(x), round(y)
    for _ in range(2):  # the second time at the position that was found, so that the windows show the same
        windows = _windows(image, other, *place)
        if windows is None:
            return None
        curved = [_curvature(window) for window in windows]
        if min(each.std() for each in curved) < MIN_CONTRAST:
            return None
        shift, error = _registered(*map(_faded, curved))
        found = place[0] + shift[1], place[1] + shift[0]
        again = round(found[0]), round(found[1])
        if again == place:
            break
        place = again
    return (*found, error) if error <= MAX_ERROR else None


def _windows(image: Grey, other: Grey, x: int, y: int) -> tuple[Grey, Grey] | None:
    """Return windows of both images that show the same if the other is at x, y; None if the overlap is too small.

    Of three windows along the overlap, that with the highest contrast is used, since the others may show empty resin.
    """
    left, right = max(0, x), min(image.shape[1], x + other.shape[1])
    top, bottom = max(0, y), min(image.shape[0], y + other.shape[0])
    if min(right - left, bottom - top) < NARROWEST_PX:
        return None
    columns, rows = _ranges(left, right, bottom - top), _ranges(top, bottom, right - left)
    pairs = [(image[a:b, c:d], other[a - y : b - y, c - x : d - x]) for a, b in rows for c, d in columns]
    return max(pairs, key=lambda pair: min(pair[0].std(), pair[1].std()))


def _ranges(start: int, end: int, across: int) -> list[tuple[int, int]]:
    """Return at most three ranges within a range, at most as long as a window, of lengths with a fast transform."""
    length, limit = end - start, MAX_PX if end - start >= across else WIDEST_PX
    taken = min(length, limit)
    taken -= (taken - 2) % 4
    spare = length - taken
    starts = {start + spare // 2} if spare < taken or limit == WIDEST_PX else {start, start + spare // 2, start + spare}
    return [(first, first + taken) for first in sorted(starts)]


def _curvature(window: Grey) -> _Floats:
    """Return the Laplacian of a window on the scale 0 to 255. It is one pixel smaller on each side."""
    grey = window.astype(np.float32)
    if window.itemsize == 2:
        grey /= 257
    curved: _Floats = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return curved


def _faded(curved: _Floats) -> _Floats:
    """Return a window without its mean, multiplied by a Hann window, which is 0 outside the edges."""
    height, width = curved.shape
    faded: _Floats = (curved - curved.mean()) * _fading(height)[:, np.newaxis] * _fading(width)
    return faded


@functools.lru_cache(maxsize=16)
def _fading(length: int) -> _Floats:
    return np.hanning(length + 2)[1:-1].astype(np.float32)


def _registered(image: _Floats, other: _Floats) -> tuple[tuple[float, float], float]:
    """Return the shift (y, x) of the other image, and the error."""
    shift, error, _ = _registration()(image, other, upsample_factor=FINENESS, normalization=None)
    return (float(shift[0]), float(shift[1])), float(error)


@functools.cache
def _registration() -> Callable[..., Any]:
    """Return the function of scikit-image; its import takes 0.3 s and 30 MB, which few workers need."""
    from skimage.registration import phase_cross_correlation

    found: Callable[..., Any] = phase_cross_correlation
    return found
