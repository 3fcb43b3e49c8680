"""Random numbers, noise and scattered places that depend only on a seed and integer coordinates."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]
BLOCK = 8
"""Side of a block of points. The points of a block share one selection of nearby nuclei."""
COARSE = 4
"""Blocks along the side of a coarse square. Its points share one selection of nearby thick cells."""
SPACING = 32
"""Mean distance of nuclei, points: 260 nm, the width of a thin axon."""
WARP = 44
"""Largest distance by which warping moves a point, points."""
SECTION_THICKNESS = 5.6
"""Distance of sections in z, points: 45 nm."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A section through a block of tissue."""

    seed: int
    z: float
    """Depth, points."""


def round_down(length: int) -> int:
    """Round down to a multiple of a coarse square's side."""
    return length // (BLOCK * COARSE) * BLOCK * COARSE


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of points. Arrays of points have the shape (blocks, points of a block)."""

    x: int
    y: int
    width: int
    height: int

    def grown(self, by: int) -> "Box":
        """Return the box, larger by `by` points on each side."""
        return Box(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def to_blocks(self, image: Floats) -> Floats:
        """Convert (H, W) to (blocks, points of a block)."""
        parted = image.reshape(self.height // BLOCK, BLOCK, self.width // BLOCK, BLOCK)
        return parted.transpose(0, 2, 1, 3).reshape(-1, BLOCK * BLOCK)

    def from_blocks(self, blocks: Floats) -> Floats:
        """Convert (blocks, points of a block) to (H, W)."""
        parted = blocks.reshape(self.height // BLOCK, self.width // BLOCK, BLOCK, BLOCK)
        return parted.transpose(0, 2, 1, 3).reshape(self.height, self.width)

    def coarse(self, blocks: Floats) -> Floats:
        """Return the value at the middle of each coarse square, (rows, columns)."""
        side = BLOCK * COARSE
        return self.from_blocks(blocks)[side // 2 :: side, side // 2 :: side]


def hash_numbers(seed: int, salt: int, *places: Indices | Hashes) -> Hashes:
    """Return a 32-bit hash of each tuple of integers, with the mixing steps of MurmurHash3."""
    mixed = np.full(1, (seed * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF, np.uint32)
    for place in places:
        mixed = (mixed ^ place.astype(np.uint32)) * np.uint32(0xCC9E2D51)
        mixed ^= mixed >> np.uint32(15)
        mixed = mixed * np.uint32(0x85EBCA6B)
        mixed ^= mixed >> np.uint32(13)
    mixed = mixed * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))


def chance(seed: int, salt: int, *places: Indices | Hashes) -> Floats:
    """Return the hash as a number in [0, 1)."""
    return (hash_numbers(seed, salt, *places) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _spline(start: float, count: int, spacing: float) -> tuple[int, Floats]:
    """Return the first lattice index and the weights (count, lattice indices) of a cubic B-spline from `start`."""
    at = (start + np.arange(count)) / spacing
    whole = np.floor(at).astype(np.int64)
    t = at - whole
    first = int(whole[0]) - 1
    weights = np.zeros((count, int(whole[-1]) - first + 3), np.float32)
    each = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, weight in enumerate(each):
        weights[np.arange(count), whole - 1 - first + k] = weight / 6
    return first, weights


def noise(cut: Cut, salt: int, box: Box, spacing: float, depth: float) -> Floats:
    """Return smooth noise, (H, W), of mean 0 and deviation about 1; grains are `spacing` wide and `depth` high."""
    first_x, in_x = _spline(box.x, box.width, spacing)
    first_y, in_y = _spline(box.y, box.height, spacing)
    first_z, in_z = _spline(cut.z, 1, depth)
    shape = (in_z.shape[1], in_y.shape[1], in_x.shape[1])
    iz, iy, ix = np.indices(shape).reshape(3, -1)
    lattice = chance(cut.seed, salt, ix + first_x, iy + first_y, iz + first_z).reshape(shape) * 2 - 1
    values: Floats = in_y @ np.tensordot(in_z[0], lattice, 1) @ in_x.T * np.float32(5)
    return values


@dataclass(frozen=True, slots=True)
class Scatter:
    """One random place in each cell of a cubic lattice, in three layers around the section; arrays are (n,)."""

    number: Hashes
    x: Floats
    y: Floats
    """Relative to the corner of the piece."""
    z: Floats
    """Height above the section."""
    first_column: int
    first_row: int
    rows: int
    columns: int


def scatter(cut: Cut, salt: int, spacing: int, box: Box, around: int) -> Scatter:
    """Return random places in a box and up to `around` points outside it."""
    wide = box.grown(around)
    columns = np.arange(wide.x // spacing, (wide.x + wide.width) // spacing + 1)
    rows = np.arange(wide.y // spacing, (wide.y + wide.height) // spacing + 1)
    middle = int(np.floor(cut.z / spacing))
    layers = np.arange(middle - 1, middle + 2)
    iz, iy, ix = (place.ravel() for place in np.meshgrid(layers, rows, columns, indexing="ij"))
    dx, dy, dz = (chance(cut.seed, salt + axis, ix, iy, iz) * spacing for axis in range(3))
    return Scatter(
        number=hash_numbers(cut.seed, salt + 3, ix, iy, iz),
        x=(ix * spacing - box.x).astype(np.float32) + dx,
        y=(iy * spacing - box.y).astype(np.float32) + dy,
        z=(iz * spacing - cut.z).astype(np.float32) + dz,
        first_column=int(columns[0]),
        first_row=int(rows[0]),
        rows=len(rows),
        columns=len(columns),
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Points in warped coordinates, relative to the corner of the piece; arrays are (blocks, points)."""

    u: Floats
    v: Floats


def warped(cut: Cut, box: Box) -> Places:
    """Return the warped coordinates of all points of a box."""

    def bent(along: Floats, salt: int) -> Floats:
        bends = ((11.0, 56, 40.0), (4.2, 18, 20.0), (0.8, 6, 10.0))
        for k, (reach, spacing, depth) in enumerate(bends):
            along = along + np.float32(reach) * noise(cut, salt + k, box, spacing, depth)
        return box.to_blocks(along)

    return Places(
        u=bent(np.arange(box.width, dtype=np.float32)[None, :], 30),
        v=bent(np.arange(box.height, dtype=np.float32)[:, None], 33),
    )
