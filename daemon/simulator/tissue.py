"""A synthetic block of neuropil for the simulated microscope: membranes, mitochondria, myelin, vesicles, synapses.

The field is a pure function of (seed, x, y, z) and nothing of it is stored. Tiles that overlap therefore show the same
tissue, in whatever order and by whichever process they are cut, and a section shows the cells of the one before it, a
little further on.

How it is made. Thin cells are the pieces of a power diagram of nuclei scattered in three dimensions, cut at depth z;
thick ones are ellipsoids laid over them. Coordinates are first warped by smooth noise, so that straight borders become
wavy membranes. What a cell contains follows from its hash number alone.

The field is evaluated on *points*, one every two image pixels, and interpolated: nothing in it is finer than that,
and it costs a quarter. Lengths in this module are in points (8 nm at 4 nm per pixel) unless they say otherwise; grey
values are 0 for black to 255 for white.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Hashes = npt.NDArray[np.uint32]
Indices = npt.NDArray[np.int64]
_T = TypeVar("_T", bound=np.generic)

PIXELS_PER_POINT = 2
SECTION_THICKNESS = 5.6
"""45 nm, in points: what z grows by from one section to the next."""

_BLOCK = 8
"""Side of a block: the points in it share one choice of nearby nuclei."""
_COARSE = 4
"""Blocks along the side of the squares that share one choice of nearby thick cells."""
_PIECE = 72 * _BLOCK
"""Largest side evaluated at once; its arrays stay in the processor's cache."""
_NEAR_NUCLEI = 7
_NEAR_THICK = 3
_SPACING = 32
"""Mean distance of nuclei: 260 nm, the width of a thin axon."""
_THICK_SPACING = 120
_WARP = 44
"""How far around a piece warping can reach."""
_FAR = np.float32(99)
_MYELIN = np.float32(9)
"""Thickness of a myelin sheath."""


@dataclass(frozen=True, slots=True)
class Tissue:
    """A section through the block.

    Parameters
    ----------
    seed : which block; an integer from 0 to 2**32 - 1.
    z : depth of the section, points; see SECTION_THICKNESS.
    """

    seed: int = 0
    z: float = 0.0

    def window(self, x: int, y: int, width: int, height: int) -> Floats:
        """Grey values (height, width) of the section's pixels from (x, y) on; they may be negative."""
        left, top = x // PIXELS_PER_POINT, y // PIXELS_PER_POINT
        right, bottom = (x + width - 1) // PIXELS_PER_POINT + 2, (y + height - 1) // PIXELS_PER_POINT + 2
        pixels = _twice_as_fine(self.points(left, top, right - left, bottom - top))
        dx, dy = x - left * PIXELS_PER_POINT, y - top * PIXELS_PER_POINT
        return pixels[dy : dy + height, dx : dx + width]

    def points(self, x: int, y: int, width: int, height: int) -> Floats:
        """Grey values (height, width) at the points from (x, y) on."""
        left, top = _down(x), _down(y)
        grey = np.empty((-_down(top - y - height), -_down(left - x - width)), np.float32)
        for rows in _pieces(grey.shape[0]):
            for columns in _pieces(grey.shape[1]):
                box = _Box(left + columns.start, top + rows.start, columns.stop - columns.start, rows.stop - rows.start)
                grey[rows, columns] = box.from_blocks(_grey(self, box))
        return grey[y - top : y - top + height, x - left : x - left + width]


def _down(length: int) -> int:
    """The multiple of a coarse square's side at or below a length."""
    return length // (_BLOCK * _COARSE) * _BLOCK * _COARSE


def _pieces(length: int) -> Iterator[slice]:
    """Slices of at most _PIECE, about equally long, that begin on coarse squares."""
    count = -(-length // _PIECE)
    edges = [-_down(-length * k // count) for k in range(count + 1)]
    yield from map(slice, edges[:-1], edges[1:])


def _twice_as_fine(points: Floats) -> Floats:
    """Linear interpolation half way between points: (H, W) -> (2H - 2, 2W - 2)."""
    half = np.float32(0.5)
    pixels = np.empty((2 * points.shape[0] - 2, 2 * points.shape[1] - 2), np.float32)
    between = (points[:, :-1] + points[:, 1:]) * half
    pixels[::2, ::2] = points[:-1, :-1]
    pixels[::2, 1::2] = between[:-1]
    pixels[1::2, ::2] = (points[:-1, :-1] + points[1:, :-1]) * half
    pixels[1::2, 1::2] = (between[:-1] + between[1:]) * half
    return pixels


@dataclass(frozen=True, slots=True)
class _Box:
    """A rectangle of points: corner and size. Point arrays are kept as (blocks, points of a block)."""

    x: int
    y: int
    width: int
    height: int

    def grown(self, by: int) -> "_Box":
        return _Box(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)

    def to_blocks(self, image: Floats) -> Floats:
        """(H, W) -> (blocks, points of a block)."""
        parted = image.reshape(self.height // _BLOCK, _BLOCK, self.width // _BLOCK, _BLOCK)
        return parted.transpose(0, 2, 1, 3).reshape(-1, _BLOCK * _BLOCK)

    def from_blocks(self, blocks: Floats) -> Floats:
        """(blocks, points of a block) -> (H, W)."""
        parted = blocks.reshape(self.height // _BLOCK, self.width // _BLOCK, _BLOCK, _BLOCK)
        return parted.transpose(0, 2, 1, 3).reshape(self.height, self.width)

    def coarse(self, blocks: Floats) -> Floats:
        """The value at the middle of each coarse square, (rows, columns)."""
        side = _BLOCK * _COARSE
        return self.from_blocks(blocks)[side // 2 :: side, side // 2 :: side]


# Chance: hash numbers of integer places, and smooth noise made of them.


def _hash(seed: int, salt: int, *places: Indices | Hashes) -> Hashes:
    """A 32-bit number for each tuple of integers, spread evenly (the mixing steps are MurmurHash3's)."""
    mixed = np.full(1, (seed * 0x9E3779B1 + salt * 0x85EBCA77) & 0xFFFFFFFF, np.uint32)
    for place in places:
        mixed = (mixed ^ place.astype(np.uint32)) * np.uint32(0xCC9E2D51)
        mixed ^= mixed >> np.uint32(15)
        mixed = mixed * np.uint32(0x85EBCA6B)
        mixed ^= mixed >> np.uint32(13)
    mixed = mixed * np.uint32(0xC2B2AE35)
    return mixed ^ (mixed >> np.uint32(16))


def _chance(seed: int, salt: int, *places: Indices | Hashes) -> Floats:
    """The hash as a number in [0, 1)."""
    return (_hash(seed, salt, *places) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def _spline(start: float, count: int, spacing: float) -> tuple[int, Floats]:
    """First lattice index, and the weights (count, lattice indices) of a cubic B-spline at start, start + 1, ..."""
    at = (start + np.arange(count)) / spacing
    whole = np.floor(at).astype(np.int64)
    t = at - whole
    first = int(whole[0]) - 1
    weights = np.zeros((count, int(whole[-1]) - first + 3), np.float32)
    each = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, weight in enumerate(each):
        weights[np.arange(count), whole - 1 - first + k] = weight / 6
    return first, weights


def _noise(tissue: Tissue, salt: int, box: _Box, spacing: float, depth: float) -> Floats:
    """Smooth noise (H, W) of mean 0 and deviation near 1, its grain `spacing` wide in x and y and `depth` in z."""
    first_x, in_x = _spline(box.x, box.width, spacing)
    first_y, in_y = _spline(box.y, box.height, spacing)
    first_z, in_z = _spline(tissue.z, 1, depth)
    shape = (in_z.shape[1], in_y.shape[1], in_x.shape[1])
    iz, iy, ix = np.indices(shape).reshape(3, -1)
    lattice = _chance(tissue.seed, salt, ix + first_x, iy + first_y, iz + first_z).reshape(shape) * 2 - 1
    noise: Floats = in_y @ np.tensordot(in_z[0], lattice, 1) @ in_x.T * np.float32(5)
    return noise


@dataclass(frozen=True, slots=True)
class _Scatter:
    """One random place in each box of a cubic lattice, three layers of it around the section; arrays are (n,)."""

    number: Hashes
    x: Floats
    y: Floats
    """Relative to the corner of the piece."""
    z: Floats
    """Above the section."""
    first_column: int
    first_row: int
    rows: int
    columns: int


def _scatter(tissue: Tissue, salt: int, spacing: int, box: _Box, around: int) -> _Scatter:
    wide = box.grown(around)
    columns = np.arange(wide.x // spacing, (wide.x + wide.width) // spacing + 1)
    rows = np.arange(wide.y // spacing, (wide.y + wide.height) // spacing + 1)
    middle = int(np.floor(tissue.z / spacing))
    layers = np.arange(middle - 1, middle + 2)
    iz, iy, ix = (place.ravel() for place in np.meshgrid(layers, rows, columns, indexing="ij"))
    dx, dy, dz = (_chance(tissue.seed, salt + axis, ix, iy, iz) * spacing for axis in range(3))
    return _Scatter(
        number=_hash(tissue.seed, salt + 3, ix, iy, iz),
        x=(ix * spacing - box.x).astype(np.float32) + dx,
        y=(iy * spacing - box.y).astype(np.float32) + dy,
        z=(iz * spacing - tissue.z).astype(np.float32) + dz,
        first_column=int(columns[0]),
        first_row=int(rows[0]),
        rows=len(rows),
        columns=len(columns),
    )


# Cells: which one a point lies in, and how far from its border.


@dataclass(frozen=True, slots=True)
class _Where:
    """Points in warped coordinates, relative to the corner of the piece; arrays are (blocks, points)."""

    u: Floats
    v: Floats


def _warped(tissue: Tissue, box: _Box) -> _Where:
    def bent(along: Floats, salt: int) -> Floats:
        bends = ((11.0, 56, 40.0), (4.2, 18, 20.0), (0.8, 6, 10.0))
        for k, (reach, spacing, depth) in enumerate(bends):
            along = along + np.float32(reach) * _noise(tissue, salt + k, box, spacing, depth)
        return box.to_blocks(along)

    return _Where(
        u=bent(np.arange(box.width, dtype=np.float32)[None, :], 30),
        v=bent(np.arange(box.height, dtype=np.float32)[:, None], 33),
    )


@dataclass(frozen=True, slots=True)
class _Thin:
    """The thin cell at each point; arrays are (blocks, points)."""

    nucleus: Indices
    border: Floats
    """Distance to the next cell."""
    other: Indices
    """Nucleus of that cell."""


def _thin_cells(tissue: Tissue, box: _Box, nuclei: _Scatter, where: _Where) -> _Thin:
    power = nuclei.z**2 - 150 * _chance(tissue.seed, 20, nuclei.number)
    near = _nearby(box, nuclei, power, where)
    # Squared distances without the term that all candidates share.
    x, y = nuclei.x[near, None], nuclei.y[near, None]
    offset = x**2 + y**2 + power[near, None]
    reach = [offset[:, k] - (2 * x[:, k]) * where.u - (2 * y[:, k]) * where.v for k in range(_NEAR_NUCLEI)]
    chosen, best = _least(reach)
    steepness = _steepness(nuclei, near)
    border, other = np.full_like(best, _FAR), np.zeros_like(chosen)
    for k, reach_k in enumerate(reach):
        distance = (reach_k - best) * _pick(steepness[k], chosen)
        distance[chosen == k] = _FAR
        np.copyto(other, k, where=distance < border)
        np.minimum(border, distance, out=border)
    return _Thin(_pick(near, chosen), border, _pick(near, other))


def _pick(table: npt.NDArray[_T], which: Indices) -> npt.NDArray[_T]:
    """Entry (row, which) of a table (rows, n) for indices (rows, points): np.take_along_axis, three times as fast."""
    picked: npt.NDArray[_T] = table.ravel().take(which + np.arange(len(table))[:, None] * table.shape[1], mode="clip")
    return picked


def _nearby(box: _Box, nuclei: _Scatter, power: Floats, where: _Where) -> Indices:
    """The nuclei (blocks, _NEAR_NUCLEI) that matter in each block: first a wider choice for each coarse square."""
    u, v = box.coarse(where.u), box.coarse(where.v)
    column = np.floor((u + box.x) / _SPACING).astype(np.int64) - nuclei.first_column
    row = np.floor((v + box.y) / _SPACING).astype(np.int64) - nuclei.first_row
    dz, dy, dx = (step.ravel() for step in np.meshgrid(range(3), range(-2, 3), range(-2, 3), indexing="ij"))
    around = (row * nuclei.columns + column)[..., None] + (dz * nuclei.rows + dy) * nuclei.columns + dx

    def nearest(candidates: Indices, u: Floats, v: Floats, count: int) -> Indices:
        x, y = nuclei.x[candidates] - u[..., None], nuclei.y[candidates] - v[..., None]
        order = np.argpartition(x * x + y * y + power[candidates], count, axis=-1)
        return np.take_along_axis(candidates, order[..., :count], axis=-1)

    wider = _refined(nearest(around, u, v, 4 * _NEAR_NUCLEI))
    return nearest(wider, where.u.mean(axis=1), where.v.mean(axis=1), _NEAR_NUCLEI)


def _refined(coarse: Indices) -> Indices:
    """Choices for coarse squares (rows, columns, n) as choices for their blocks (blocks, n)."""
    return coarse.repeat(_COARSE, axis=0).repeat(_COARSE, axis=1).reshape(-1, coarse.shape[2])


def _steepness(nuclei: _Scatter, near: Indices) -> Floats:
    """Distance from a border per difference of squared distances, (candidates, blocks, candidates).

    Taken in three dimensions, it widens membranes that are cut at a slant, as in a real section.
    """
    apart = sum(np.square(axis[near].T[:, :, None] - axis[near]) for axis in (nuclei.x, nuclei.y, nuclei.z))
    steepness: Floats = np.float32(0.5) / np.sqrt(np.maximum(apart, np.float32(1e-6)))
    return steepness


def _least(candidates: list[Floats]) -> tuple[Indices, Floats]:
    """Which of equal-shaped arrays is least at each place, and its value there."""
    least, which = candidates[0].copy(), np.zeros(candidates[0].shape, np.int64)
    for k, candidate in enumerate(candidates[1:], start=1):
        np.copyto(which, k, where=candidate < least)
        np.minimum(least, candidate, out=least)
    return which, least


@dataclass(frozen=True, slots=True)
class _Ellipsoids:
    """Shapes of the thick cells; arrays are (n,)."""

    place: _Scatter
    radius: Floats
    cos: Floats
    sin: Floats
    """Direction of the long axis in the section."""
    stretch: Floats
    """The long axis is longer, and the short one shorter, by this factor."""

    def axes(self, which: Indices, u: Floats, v: Floats) -> tuple[Floats, Floats, Floats]:
        """Place of points along the long, short and vertical axes, in units of the semi-axes."""
        x, y = u - self.place.x[which], v - self.place.y[which]
        cos, sin, stretch = self.cos[which], self.sin[which], self.stretch[which]
        radius = self.radius[which]
        along, across = (x * cos + y * sin) / (radius * stretch), (y * cos - x * sin) * (stretch / radius)
        above = np.abs(self.place.z[which] / (3 * radius))
        # One that the section only grazes would be a large dark smear, and is left out.
        return along, across, np.where(above < np.float32(0.85), above, _FAR)


def _ellipsoids(tissue: Tissue, box: _Box) -> _Ellipsoids:
    place = _scatter(tissue, 10, _THICK_SPACING, box, _WARP + 2 * _THICK_SPACING)
    turn = 2 * np.pi * _chance(tissue.seed, 14, place.number)
    small = _chance(tissue.seed, 15, place.number) < 0.45
    size = _chance(tissue.seed, 16, place.number)
    return _Ellipsoids(
        place=place,
        radius=np.where(small, 20 + 14 * size, 30 + 52 * size**2).astype(np.float32),
        cos=np.cos(turn).astype(np.float32),
        sin=np.sin(turn).astype(np.float32),
        stretch=1 + np.float32(0.55) * _chance(tissue.seed, 17, place.number),
    )


@dataclass(frozen=True, slots=True)
class _Thick:
    """The thick cell in or near which each point lies; arrays are (blocks, points)."""

    cell: Indices
    inside: Floats
    """Distance to its border: positive inside, negative outside."""


def _thick_cells(box: _Box, cells: _Ellipsoids, where: _Where) -> _Thick:
    u, v = box.coarse(where.u), box.coarse(where.v)
    a, b, c = cells.axes(np.arange(len(cells.radius)), u[..., None], v[..., None])
    # Distances to borders rather than to centres: a small cell nearby matters more than a large one far off.
    gap = (np.sqrt(a**2 + b**2 + c**2) - 1) * cells.radius
    near = _refined(np.argpartition(gap, _NEAR_THICK, axis=2)[..., :_NEAR_THICK])
    measured = [_reach(cells, n[:, None], where) for n in near.T]
    chosen, reach = _least([reach for reach, _ in measured])
    slope = np.choose(chosen, [slope for _, slope in measured])
    # Where two overlap, their border runs where their reaches are equal.
    limit = np.full_like(reach, 1)
    for k, (other, _) in enumerate(measured):
        np.minimum(limit, other, out=limit, where=chosen != k)
    limit[reach >= 1] = 1
    return _Thick(_pick(near, chosen), (limit - reach) * slope)


def _reach(cells: _Ellipsoids, which: Indices, where: _Where) -> tuple[Floats, Floats]:
    """Distance of points from a cell's centre, 1 at its border; and points per unit of it."""
    along, across, above = cells.axes(which, where.u, where.v)
    reach = np.sqrt(along**2 + across**2 + above**2)
    stretch, radius = cells.stretch[which], cells.radius[which]
    steepness = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) + np.float32(0.05)
    return reach, reach * radius / steepness


@dataclass(frozen=True, slots=True)
class _Kinds:
    """What every cell of a piece is like: the thin ones in the order of the nuclei, then the thick; arrays are (n,)."""

    number: Hashes
    tone: Floats
    """Grey value of its plasma."""
    sheath: Floats
    """Thickness of its myelin."""
    is_bouton: npt.NDArray[np.bool_]
    """Holds vesicles."""
    x: Floats
    y: Floats
    z: Floats
    """Centre of its mitochondrion."""
    length: Floats
    width: Floats
    """Semi-axes of the mitochondrion; next to nothing for none."""
    cos: Floats
    sin: Floats
    """Direction of its long axis."""


def _kinds(tissue: Tissue, nuclei: _Scatter, thick: _Ellipsoids) -> _Kinds:
    number = np.concatenate([nuclei.number, thick.place.number])
    is_thick = np.arange(len(number)) >= len(nuclei.number)
    radius = np.concatenate([np.full(len(nuclei.number), 13, np.float32), thick.radius])

    def chance(salt: int) -> Floats:
        return _chance(tissue.seed, salt, number)

    is_dark = chance(40) < 0.07
    has_sheath = is_thick & (chance(41) < 0.13) & (radius > 28) & (radius < 60)
    is_bouton = (chance(42) < np.where(is_thick, 0.4, 0.15)) & (radius < 50) & ~has_sheath & ~is_dark
    has_mitochondrion = chance(43) < np.where(is_thick, 0.6, 0.13)
    length = np.where(has_mitochondrion, np.clip(radius * (0.35 + 0.3 * chance(44)), 10, 34), 0.01)
    turn = 2 * np.pi * chance(45)
    return _Kinds(
        number=number,
        tone=(158 + 20 * (chance(46) - 0.5) - 26 * is_dark).astype(np.float32),
        sheath=has_sheath * _MYELIN,
        is_bouton=is_bouton,
        x=np.concatenate([nuclei.x, thick.place.x]) + radius * np.float32(0.5) * (chance(47) - np.float32(0.5)),
        y=np.concatenate([nuclei.y, thick.place.y]) + radius * np.float32(0.5) * (chance(48) - np.float32(0.5)),
        z=np.concatenate([nuclei.z, thick.place.z / 2]),
        length=length.astype(np.float32),
        width=np.where(has_mitochondrion, np.clip(length * (0.45 + 0.4 * chance(49)), 7, 19), 0.01).astype(np.float32),
        cos=np.cos(turn).astype(np.float32),
        sin=np.sin(turn).astype(np.float32),
    )


# Looks: grey values of what is where.


@dataclass(frozen=True, slots=True)
class _Scene:
    """What is at each point of a piece; arrays are (blocks, points)."""

    cell: Indices
    """Index of its kind."""
    other: Indices
    """Index of the kind of the nearest other cell."""
    border: Floats
    """Distance to that cell."""
    where: _Where
    fine: Floats
    middle: Floats
    coarse: Floats
    """Noises that several structures share."""


def _grey(tissue: Tissue, box: _Box) -> Floats:
    """Grey values (blocks, points) of a piece."""
    nuclei = _scatter(tissue, 1, _SPACING, box, _WARP + 3 * _SPACING)
    ellipsoids = _ellipsoids(tissue, box)
    kinds = _kinds(tissue, nuclei, ellipsoids)
    scene = _scene(tissue, box, nuclei, ellipsoids)
    grey = kinds.tone[scene.cell] + (scene.fine + scene.middle) * np.float32(4)
    grey += box.to_blocks(_noise(tissue, 63, box, 500, 60)) * np.float32(3)
    outside = _draw_mitochondria(grey, kinds, scene)
    _draw_vesicles(grey, tissue, box, kinds, scene, outside)
    _draw_myelin(grey, kinds, scene)
    _draw_synapses(grey, tissue, kinds, scene)
    grey -= 76 * _bell(scene.border, 1.25)
    return grey


def _scene(tissue: Tissue, box: _Box, nuclei: _Scatter, ellipsoids: _Ellipsoids) -> _Scene:
    where = _warped(tissue, box)
    thin, thick = _thin_cells(tissue, box, nuclei, where), _thick_cells(box, ellipsoids, where)
    is_thick = thick.inside > 0
    is_by_thick = -thick.inside < thin.border
    over = thick.cell + len(nuclei.number)
    fine, middle, coarse = (
        box.to_blocks(_noise(tissue, salt, box, spacing, 6)) for salt, spacing in ((60, 2.6), (61, 6), (62, 20))
    )
    return _Scene(
        cell=np.where(is_thick, over, thin.nucleus),
        other=np.where(is_thick, thin.nucleus, np.where(is_by_thick, over, thin.other)),
        border=np.where(is_thick, thick.inside, np.minimum(thin.border, -thick.inside)),
        where=where,
        fine=fine,
        middle=middle,
        coarse=coarse,
    )


def _step(x: Floats) -> Floats:
    """0 below 0, 1 above 1, smooth between."""
    t: Floats = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _bell(x: Floats, width: float) -> Floats:
    """1 at 0, falling to 1/e at `width`."""
    bell: Floats = np.exp(-np.square(x * np.float32(1 / width)))
    return bell


def _draw_mitochondria(grey: Floats, kinds: _Kinds, scene: _Scene) -> Floats:
    """Draws them into the grey values; returns the distance from the nearest one, negative inside."""
    cell, length, width = scene.cell, kinds.length, kinds.width
    x, y = scene.where.u - kinds.x[cell], scene.where.v - kinds.y[cell]
    cos, sin = kinds.cos[cell], kinds.sin[cell]
    along, across = x * cos + y * sin, y * cos - x * sin
    height = (kinds.z / (2 * length)) ** 2
    reach = np.sqrt((along * (1 / length)[cell]) ** 2 + (across * (1 / width)[cell]) ** 2 + height[cell])
    outside = (reach - 1) * width[cell] + scene.middle * np.float32(0.7)
    np.maximum(outside, (3 + kinds.sheath)[cell] - scene.border, out=outside)
    at = np.nonzero(outside < 3)
    near, shade = outside[at], grey[at]
    shade += _step(near * np.float32(-0.5)) * (104 + scene.fine[at] * 4 - shade)
    folds = np.sin(along[at] + scene.coarse[at] * np.float32(2.2) + across[at] * np.float32(0.12))
    shade -= 30 * np.maximum(folds, 0) ** 2 * _step(near * np.float32(-0.5) - 1)
    grey[at] = shade - 46 * _bell(near, 1.1)
    return outside


def _draw_vesicles(grey: Floats, tissue: Tissue, box: _Box, kinds: _Kinds, scene: _Scene, outside: Floats) -> None:
    is_room = kinds.is_bouton[scene.cell] & (scene.border > 3) & (outside > 2) & (scene.coarse > np.float32(-0.9))
    at = np.nonzero(is_room)
    columns_of_blocks = box.width // _BLOCK
    x = box.x + at[0] % columns_of_blocks * _BLOCK + at[1] % _BLOCK
    y = box.y + at[0] // columns_of_blocks * _BLOCK + at[1] // _BLOCK
    nearest = np.minimum(_to_dot(tissue, 70, x, y, 10, 0.85), _to_dot(tissue, 75, x, y, 13, 0.7))
    share = _step(scene.border[at] - 3) * _step(outside[at] - 2) * _step(scene.coarse[at] + np.float32(0.9))
    grey[at] -= share * (36 * _bell(nearest - 2, 0.8) - 7 * _bell(nearest, 1.2))


def _to_dot(tissue: Tissue, salt: int, x: Indices, y: Indices, spacing: int, share: float) -> Floats:
    """Distance of points to the dot in their lattice square, far where it has none; rows are staggered."""
    row = y // spacing
    x = x + row % 2 * (spacing // 2)
    column = x // spacing
    depth = np.full(1, int(tissue.z // SECTION_THICKNESS))
    at_x, at_y, lot = (_chance(tissue.seed, salt + k, column, row, depth) for k in range(3))
    radius, room = np.float32(2.6), np.float32(spacing - 5.2)
    dx = (x - column * spacing).astype(np.float32) - radius - at_x * room
    dy = (y - row * spacing).astype(np.float32) - radius - at_y * room
    return np.where(lot < share, np.sqrt(dx**2 + dy**2), _FAR)


def _draw_myelin(grey: Floats, kinds: _Kinds, scene: _Scene) -> None:
    depth = kinds.sheath[scene.cell] - scene.border
    at = np.nonzero(depth > 0)
    wraps = 72 + 14 * np.sin(scene.border[at] * np.float32(2 * np.pi / 3))
    grey[at] += _step(depth[at]) * (wraps - grey[at])


def _draw_synapses(grey: Floats, tissue: Tissue, kinds: _Kinds, scene: _Scene) -> None:
    """Draws a density on one side of a quarter of the borders."""
    at = np.nonzero(scene.border < 8)
    mine, theirs = scene.cell[at], scene.other[at]
    lot = _chance(tissue.seed, 90, kinds.number[mine] ^ kinds.number[theirs])
    is_after = (lot < 0.25) & (kinds.number[mine] > kinds.number[theirs])
    is_bare = (kinds.sheath[mine] == 0) & (kinds.sheath[theirs] == 0)
    density = _bell(scene.border[at], 3.2) * _step(scene.coarse[at] + np.float32(0.6))
    grey[at] -= (is_after & is_bare) * np.float32(44) * density
