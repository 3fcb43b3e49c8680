"""The cells of the tissue: the cell at each point, the distance to its border, and the properties of cells."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from daemon.simulator.tissue.lattice import (
    COARSE,
    SPACING,
    WARP,
    Box,
    Cut,
    Floats,
    Hashes,
    Indices,
    Places,
    Scatter,
    chance,
    scatter,
)

_T = TypeVar("_T", bound=np.generic)
_NEAR_NUCLEI = 7
_NEAR_THICK = 3
_THICK_SPACING = 120
FAR = np.float32(99)
MYELIN = np.float32(9)
"""Thickness of a myelin sheath."""


@dataclass(frozen=True, slots=True)
class Thin:
    """The thin cell at each point; arrays are (blocks, points)."""

    nucleus: Indices
    border: Floats
    """Distance to the nearest other cell."""
    other: Indices
    """Nucleus of that cell."""


def thin_cells(cut: Cut, box: Box, nuclei: Scatter, where: Places) -> Thin:
    """Return the thin cell at each point: that of the nearest nucleus in a power diagram."""
    power = nuclei.z**2 - 150 * chance(cut.seed, 20, nuclei.number)
    near = _nearby(box, nuclei, power, where)
    # Squared distances without the term that all candidates share.
    x, y = nuclei.x[near, None], nuclei.y[near, None]
    offset = x**2 + y**2 + power[near, None]
    reach = [offset[:, k] - (2 * x[:, k]) * where.u - (2 * y[:, k]) * where.v for k in range(_NEAR_NUCLEI)]
    chosen, best = _least(reach)
    steepness = _steepness(nuclei, near)
    border, other = np.full_like(best, FAR), np.zeros_like(chosen)
    for k, reach_k in enumerate(reach):
        distance = (reach_k - best) * _pick(steepness[k], chosen)
        distance[chosen == k] = FAR
        np.copyto(other, k, where=distance < border)
        np.minimum(border, distance, out=border)
    return Thin(_pick(near, chosen), border, _pick(near, other))


def _pick(table: npt.NDArray[_T], which: Indices) -> npt.NDArray[_T]:
    """Return the entries (row, which) of a table (rows, n): np.take_along_axis, three times as fast."""
    picked: npt.NDArray[_T] = table.ravel().take(which + np.arange(len(table))[:, None] * table.shape[1], mode="clip")
    return picked


def _nearby(box: Box, nuclei: Scatter, power: Floats, where: Places) -> Indices:
    """Return the nuclei near each block, (blocks, _NEAR_NUCLEI), from a larger selection for each coarse square."""
    u, v = box.coarse(where.u), box.coarse(where.v)
    column = np.floor((u + box.x) / SPACING).astype(np.int64) - nuclei.first_column
    row = np.floor((v + box.y) / SPACING).astype(np.int64) - nuclei.first_row
    dz, dy, dx = (step.ravel() for step in np.meshgrid(range(3), range(-2, 3), range(-2, 3), indexing="ij"))
    around = (row * nuclei.columns + column)[..., None] + (dz * nuclei.rows + dy) * nuclei.columns + dx

    def nearest(candidates: Indices, u: Floats, v: Floats, count: int) -> Indices:
        x, y = nuclei.x[candidates] - u[..., None], nuclei.y[candidates] - v[..., None]
        order = np.argpartition(x * x + y * y + power[candidates], count, axis=-1)
        return np.take_along_axis(candidates, order[..., :count], axis=-1)

    wider = _refined(nearest(around, u, v, 4 * _NEAR_NUCLEI))
    return nearest(wider, where.u.mean(axis=1), where.v.mean(axis=1), _NEAR_NUCLEI)


def _refined(coarse: Indices) -> Indices:
    """Expand selections for coarse squares (rows, columns, n) to their blocks (blocks, n)."""
    return coarse.repeat(COARSE, axis=0).repeat(COARSE, axis=1).reshape(-1, coarse.shape[2])


def _steepness(nuclei: Scatter, near: Indices) -> Floats:
    """Return the distance to a border for each unit of squared distances' difference, (candidates, blocks, candidates).

    The distance is in three dimensions, so that obliquely cut membranes look wider, as in a real section.
    """
    apart = sum(np.square(axis[near].T[:, :, None] - axis[near]) for axis in (nuclei.x, nuclei.y, nuclei.z))
    steepness: Floats = np.float32(0.5) / np.sqrt(np.maximum(apart, np.float32(1e-6)))
    return steepness


def _least(candidates: list[Floats]) -> tuple[Indices, Floats]:
    """Return the index of the array with the least value at each place, and that value."""
    least, which = candidates[0].copy(), np.zeros(candidates[0].shape, np.int64)
    for k, candidate in enumerate(candidates[1:], start=1):
        np.copyto(which, k, where=candidate < least)
        np.minimum(least, candidate, out=least)
    return which, least


@dataclass(frozen=True, slots=True)
class Ellipsoids:
    """Shapes of the thick cells; arrays are (n,)."""

    place: Scatter
    radius: Floats
    cos: Floats
    sin: Floats
    """Direction of the long axis in the section."""
    stretch: Floats
    """Factor by which the long axis is longer and the short axis shorter than the radius."""

    def axes(self, which: Indices, u: Floats, v: Floats) -> tuple[Floats, Floats, Floats]:
        """Return the coordinates of points along the long, short and vertical axes, in units of the semi-axes."""
        x, y = u - self.place.x[which], v - self.place.y[which]
        cos, sin, stretch = self.cos[which], self.sin[which], self.stretch[which]
        radius = self.radius[which]
        along, across = (x * cos + y * sin) / (radius * stretch), (y * cos - x * sin) * (stretch / radius)
        above = np.abs(self.place.z[which] / (3 * radius))
        # A cell that is cut near its top would look like a large dark smear, so it is omitted.
        return along, across, np.where(above < np.float32(0.85), above, FAR)


def ellipsoids_of(cut: Cut, box: Box) -> Ellipsoids:
    """Return the thick cells of a piece and around it."""
    place = scatter(cut, 10, _THICK_SPACING, box, WARP + 2 * _THICK_SPACING)
    turn = 2 * np.pi * chance(cut.seed, 14, place.number)
    small = chance(cut.seed, 15, place.number) < 0.45
    size = chance(cut.seed, 16, place.number)
    return Ellipsoids(
        place=place,
        radius=np.where(small, 20 + 14 * size, 30 + 52 * size**2).astype(np.float32),
        cos=np.cos(turn).astype(np.float32),
        sin=np.sin(turn).astype(np.float32),
        stretch=1 + np.float32(0.55) * chance(cut.seed, 17, place.number),
    )


@dataclass(frozen=True, slots=True)
class Thick:
    """The thick cell nearest to each point; arrays are (blocks, points)."""

    cell: Indices
    inside: Floats
    """Distance to its border: positive inside, negative outside."""


def thick_cells(box: Box, cells: Ellipsoids, where: Places) -> Thick:
    """Return the thick cell that contains each point or is nearest to it."""
    u, v = box.coarse(where.u), box.coarse(where.v)
    a, b, c = cells.axes(np.arange(len(cells.radius)), u[..., None], v[..., None])
    # By distances to borders, not to centres, since a small cell nearby is more important than a large cell far away.
    gap = (np.sqrt(a**2 + b**2 + c**2) - 1) * cells.radius
    near = _refined(np.argpartition(gap, _NEAR_THICK, axis=2)[..., :_NEAR_THICK])
    measured = [_reach(cells, n[:, None], where) for n in near.T]
    chosen, reach = _least([reach for reach, _ in measured])
    slope = np.choose(chosen, [slope for _, slope in measured])
    # The border between two overlapping cells is where their distances from the centres are equal.
    limit = np.full_like(reach, 1)
    for k, (other, _) in enumerate(measured):
        np.minimum(limit, other, out=limit, where=chosen != k)
    limit[reach >= 1] = 1
    return Thick(_pick(near, chosen), (limit - reach) * slope)


def _reach(cells: Ellipsoids, which: Indices, where: Places) -> tuple[Floats, Floats]:
    """Return the distance of points from a cell's centre in units of its border's distance, and that unit in points."""
    along, across, above = cells.axes(which, where.u, where.v)
    reach = np.sqrt(along**2 + across**2 + above**2)
    stretch, radius = cells.stretch[which], cells.radius[which]
    steepness = np.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) + np.float32(0.05)
    return reach, reach * radius / steepness


@dataclass(frozen=True, slots=True)
class Kinds:
    """Properties of the cells of a piece: thin cells in the order of the nuclei, then thick cells; arrays are (n,)."""

    number: Hashes
    tone: Floats
    """Grey value of its plasma."""
    sheath: Floats
    """Thickness of its myelin."""
    is_bouton: npt.NDArray[np.bool_]
    """Contains vesicles."""
    x: Floats
    y: Floats
    z: Floats
    """Centre of its mitochondrion."""
    length: Floats
    width: Floats
    """Semi-axes of the mitochondrion; almost 0 if there is none."""
    cos: Floats
    sin: Floats
    """Direction of its long axis."""


def kinds_of(cut: Cut, nuclei: Scatter, thick: Ellipsoids) -> Kinds:
    """Return the properties of all cells, which depend only on their hash numbers and radii."""
    number = np.concatenate([nuclei.number, thick.place.number])
    is_thick = np.arange(len(number)) >= len(nuclei.number)
    radius = np.concatenate([np.full(len(nuclei.number), 13, np.float32), thick.radius])

    def lot(salt: int) -> Floats:
        return chance(cut.seed, salt, number)

    is_dark = lot(40) < 0.07
    has_sheath = is_thick & (lot(41) < 0.13) & (radius > 28) & (radius < 60)
    is_bouton = (lot(42) < np.where(is_thick, 0.4, 0.15)) & (radius < 50) & ~has_sheath & ~is_dark
    has_mitochondrion = lot(43) < np.where(is_thick, 0.6, 0.13)
    length = np.where(has_mitochondrion, np.clip(radius * (0.35 + 0.3 * lot(44)), 10, 34), 0.01)
    turn = 2 * np.pi * lot(45)
    return Kinds(
        number=number,
        tone=(158 + 20 * (lot(46) - 0.5) - 26 * is_dark).astype(np.float32),
        sheath=has_sheath * MYELIN,
        is_bouton=is_bouton,
        x=np.concatenate([nuclei.x, thick.place.x]) + radius * np.float32(0.5) * (lot(47) - np.float32(0.5)),
        y=np.concatenate([nuclei.y, thick.place.y]) + radius * np.float32(0.5) * (lot(48) - np.float32(0.5)),
        z=np.concatenate([nuclei.z, thick.place.z / 2]),
        length=length.astype(np.float32),
        width=np.where(has_mitochondrion, np.clip(length * (0.45 + 0.4 * lot(49)), 7, 19), 0.01).astype(np.float32),
        cos=np.cos(turn).astype(np.float32),
        sin=np.sin(turn).astype(np.float32),
    )
