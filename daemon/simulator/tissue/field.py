"""Compute images of the synthetic tissue: membranes, mitochondria, myelin, vesicles and synapses.

The field is a pure function of (seed, x, y, z), so overlapping tiles show the same tissue in every order and process,
and consecutive sections show the same cells, slightly changed.

Thin cells are the regions of a power diagram of nuclei scattered in three dimensions, cut at depth z; thick cells are
ellipsoids over them. Smooth noise first warps the coordinates, so that straight borders become wavy membranes. The
content of a cell follows from its hash number.

The field is evaluated at *points*, every second image pixel, and interpolated: it has no finer structure, and this
takes a quarter of the time. Lengths in this package are in points (8 nm at 4 nm per pixel) unless stated otherwise;
grey values range from 0 (black) to 255 (white).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from daemon.simulator.tissue.lattice import (
    BLOCK,
    Box,
    Cut,
    Floats,
    round_down,
)
from daemon.simulator.tissue.shading import grey_values

PIXELS_PER_POINT = 2
_PIECE = 72 * BLOCK
"""Largest side that is evaluated at once, so that its arrays fit the processor's cache."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """A section through the block.

    Parameters
    ----------
    seed : number of the block, from 0 to 2**32 - 1.
    z : depth of the section, points; see SECTION_THICKNESS.
    """

    seed: int = 0
    z: float = 0.0

    def window(self, x: int, y: int, width: int, height: int) -> Floats:
        """Return the grey values (height, width) of the section's pixels from (x, y); they may be negative."""
        left, top = x // PIXELS_PER_POINT, y // PIXELS_PER_POINT
        right, bottom = (x + width - 1) // PIXELS_PER_POINT + 2, (y + height - 1) // PIXELS_PER_POINT + 2
        pixels = _twice_as_fine(self.points(left, top, right - left, bottom - top))
        dx, dy = x - left * PIXELS_PER_POINT, y - top * PIXELS_PER_POINT
        return pixels[dy : dy + height, dx : dx + width]

    def points(self, x: int, y: int, width: int, height: int) -> Floats:
        """Return the grey values (height, width) at the points from (x, y)."""
        cut = Cut(self.seed, self.z)
        left, top = round_down(x), round_down(y)
        grey = np.empty((-round_down(top - y - height), -round_down(left - x - width)), np.float32)
        for rows in _pieces(grey.shape[0]):
            for columns in _pieces(grey.shape[1]):
                box = Box(left + columns.start, top + rows.start, columns.stop - columns.start, rows.stop - rows.start)
                grey[rows, columns] = box.from_blocks(grey_values(cut, box))
        return grey[y - top : y - top + height, x - left : x - left + width]


def _pieces(length: int) -> Iterator[slice]:
    """Yield slices of at most _PIECE, about equally long, that start at coarse squares."""
    count = -(-length // _PIECE)
    edges = [-round_down(-length * k // count) for k in range(count + 1)]
    yield from map(slice, edges[:-1], edges[1:])


def _twice_as_fine(points: Floats) -> Floats:
    """Interpolate linearly between points: (H, W) -> (2H - 2, 2W - 2)."""
    half = np.float32(0.5)
    pixels = np.empty((2 * points.shape[0] - 2, 2 * points.shape[1] - 2), np.float32)
    between = (points[:, :-1] + points[:, 1:]) * half
    pixels[::2, ::2] = points[:-1, :-1]
    pixels[::2, 1::2] = between[:-1]
    pixels[1::2, ::2] = (points[:-1, :-1] + points[1:, :-1]) * half
    pixels[1::2, 1::2] = (between[:-1] + between[1:]) * half
    return pixels
