"""A synthetic block of neuropil for the simulated microscope: membranes, mitochondria, myelin, vesicles, synapses.

The field is a pure function of (seed, x, y, z) and nothing of it is stored. Tiles that overlap therefore show the same tissue,
in whatever order and by whichever process they are cut, and a section shows the cells of the one before it, a little further on.

How it is made. Cells are the pieces of a power diagram of nuclei scattered in three dimensions, cut at depth z. Coordinates are
first warped by smooth noise, so that straight borders become wavy membranes. Nuclei inside one of some large ellipsoids
belong together: these are the thick processes. What a cell contains follows from its hash number alone.

The field is evaluated on *points*, one every two image pixels, and interpolated: nothing in it is finer than a membrane, and
it costs a quarter. Lengths in this module are in points (8 nm at 4 nm per pixel) unless they say otherwise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint32]

PIXELS_PER_POINT = 2
_BLOCK = 8
"""Points along the side of a block: the points that share one choice of nearby nuclei."""
_PIECE = 64 * _BLOCK
"""Largest side evaluated at once; its arrays stay in the processor's cache."""
_NEARBY = 7
"""Nuclei that a block looks at. Six leave a visible break about once in a million points, seven none that we found."""
_SPACING = 34
"""Mean distance of nuclei: 270 nm, the width of a thin axon."""
_PROCESS_SPACING = 130
_WARP = 42.0
"""Bound on how far warping moves a point, which is how far around a piece nuclei are needed."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """A section through the block.

    Parameters
    ----------
    seed : which block; any integer from 0 to 2**32 - 1.
    z : depth of the section in points. Sections of 45 nm are 5.6 apart.
    """

    seed: int = 0
    z: float = 0.0

    def window(self, x: int, y: int, width: int, height: int) -> Floats:
        """Grey values (height, width) of the section pixels from (x, y) on; 0 is black, 255 white; mean near 140.

        x and y may be negative or large: the field has no border.
        """
        left, top = x // PIXELS_PER_POINT, y // PIXELS_PER_POINT
        right, bottom = (x + width - 1) // PIXELS_PER_POINT + 2, (y + height - 1) // PIXELS_PER_POINT + 2
        doubled = _twice_as_fine(self.points(left, top, right - left, bottom - top))
        dx, dy = x - left * PIXELS_PER_POINT, y - top * PIXELS_PER_POINT
        return doubled[dy : dy + height, dx : dx + width]

    def points(self, x: int, y: int, width: int, height: int) -> Floats:
        """Grey values (height, width) at the points from (x, y) on."""
        left, top = x // _BLOCK * _BLOCK, y // _BLOCK * _BLOCK
        grey = np.empty((_up_to_block(y + height - top), _up_to_block(x + width - left)), np.float32)
        for rows in _pieces(grey.shape[0]):
            for columns in _pieces(grey.shape[1]):
                size = (columns.stop - columns.start, rows.stop - rows.start)
                grey[rows, columns] = _Piece(self, left + columns.start, top + rows.start, *size).grey()
        return grey[y - top : y - top + height, x - left : x - left + width]


def _up_to_block(length: int) -> int:
    return -(-length // _BLOCK) * _BLOCK


def _pieces(length: int) -> Iterator[slice]:
    for start in range(0, length, _PIECE):
        yield slice(start, min(start + _PIECE, length))


def _twice_as_fine(points: Floats) -> Floats:
    """Linear interpolation half way between points: (H, W) -> (2H - 2, 2W - 2)."""
    fine = np.empty((2 * points.shape[0] - 2, 2 * points.shape[1] - 2), np.float32)
    corner, right, below = points[:-1, :-1], points[:-1, 1:], points[1:, :-1]
    fine[::2, ::2] = corner
    fine[::2, 1::2] = (corner + right) * np.float32(0.5)
    fine[1::2, ::2] = (corner + below) * np.float32(0.5)
    fine[1::2, 1::2] = (fine[1::2, ::2] + (right + points[1:, 1:]) * np.float32(0.5)) * np.float32(0.5)
    return fine


# Chance: hash numbers of integer places, and smooth noise made of them.


def _hash(seed: int, salt: int, *places: npt.NDArray[np.int64] | Hashes) -> Hashes:
    """A 32-bit number for each tuple of integers, as good as random (the mixing steps are those of MurmurHash3)."""
    mixed = np.full(1, (seed * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF, np.uint32)
    for place in places:
        mixed = (mixed ^ place.astype(np.uint32)) * np.uint32(0xCC9E2D51)
        mixed ^= mixed >> np.uint32(15)
        mixed = mixed * np.uint32(0x85EBCA6B)
        mixed ^= mixed >> np.uint32(13)
    mixed = mixed * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))


def _chance(seed: int, salt: int, *places: npt.NDArray[np.int64] | Hashes) -> Floats:
    """The hash as a number in [0, 1)."""
    return (_hash(seed, salt, *places) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _spline(start: float, count: int, spacing: float) -> tuple[int, Floats]:
    """First lattice index and weights (count, lattice points) of a cubic B-spline at start, start + 1, ..."""
    at = (start + np.arange(count)) / spacing
    whole = np.floor(at).astype(np.int64)
    t = at - whole
    first = int(whole[0]) - 1
    weights = np.zeros((count, int(whole[-1]) - first + 3), np.float32)
    each = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, weight in enumerate(each):
        weights[np.arange(count), whole - 1 - first + k] = weight / 6
    return first, weights


# Nuclei: what the cells grow around.


@dataclass(frozen=True, slots=True)
class _Nuclei:
    """Nuclei around a piece, positions relative to its corner; all arrays are (n,) in the order of their lattice."""

    x: Floats
    y: Floats
    z: Floats
    """Above the section."""
    power: Floats
    """Square of the radius in the power diagram."""
    cell: Hashes
    """Number of the cell that the nucleus belongs to; several may belong to one."""
    centre_x: Floats
    centre_y: Floats
    centre_z: Floats
    """Centre of the cell."""
    radius: Floats
    """Mean radius of the cell."""
    first: tuple[int, int]
    """Lattice column and row of the first."""
    shape: tuple[int, int, int]
    """Lattice layers, rows, columns."""


def _lattice(start: float, stop: float, spacing: int) -> npt.NDArray[np.int64]:
    return np.arange(int(np.floor(start / spacing)), int(np.floor(stop / spacing)) + 1)


def _scattered(tissue: Tissue, salt: int, spacing: int, x: int, y: int, width: int, height: int, layers: int) -> tuple[
    tuple[npt.NDArray[np.int64], ...], tuple[Floats, ...]
]:
    """Lattice places and jittered positions, one per lattice box, that lie in or around the box given."""
    columns, rows = _lattice(x, x + width, spacing), _lattice(y, y + height, spacing)
    middle = int(np.floor(tissue.z / spacing))
    places = np.meshgrid(np.arange(middle - layers, middle + layers + 1), rows, columns, indexing="ij")
    iz, iy, ix = (place.ravel() for place in places)
    at = [_chance(tissue.seed, salt + axis, ix, iy, iz) for axis in range(3)]
    px = ((ix * spacing - x).astype(np.float32)) + at[0] * spacing
    py = ((iy * spacing - y).astype(np.float32)) + at[1] * spacing
    pz = ((iz * spacing - tissue.z).astype(np.float32)) + at[2] * spacing
    return (ix, iy, iz), (px, py, pz)
