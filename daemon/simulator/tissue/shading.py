"""Compute grey values of the tissue: membranes, mitochondria, vesicles, myelin and synapses."""

from dataclasses import dataclass

import numpy as np

from daemon.simulator.tissue.cells import (
    FAR,
    Ellipsoids,
    Kinds,
    ellipsoids_of,
    kinds_of,
    thick_cells,
    thin_cells,
)
from daemon.simulator.tissue.lattice import (
    BLOCK,
    SECTION_THICKNESS,
    SPACING,
    WARP,
    Box,
    Cut,
    Floats,
    Indices,
    Places,
    Scatter,
    chance,
    noise,
    scatter,
    warped,
)


@dataclass(frozen=True, slots=True)
class _Scene:
    """The cell and noise at each point of a piece; arrays are (blocks, points)."""

    cell: Indices
    """Index of its kind."""
    other: Indices
    """Index of the kind of the nearest other cell."""
    border: Floats
    """Distance to that cell."""
    where: Places
    fine: Floats
    middle: Floats
    coarse: Floats
    """Noise that several structures share."""


def grey_values(cut: Cut, box: Box) -> Floats:
    """Return the grey values (blocks, points) of a piece."""
    nuclei = scatter(cut, 1, SPACING, box, WARP + 3 * SPACING)
    ellipsoids = ellipsoids_of(cut, box)
    kinds = kinds_of(cut, nuclei, ellipsoids)
    scene = _scene(cut, box, nuclei, ellipsoids)
    grey = kinds.tone[scene.cell] + (scene.fine + scene.middle) * np.float32(4)
    grey += box.to_blocks(noise(cut, 63, box, 500, 60)) * np.float32(3)
    outside = _draw_mitochondria(grey, kinds, scene)
    _draw_vesicles(grey, cut, box, kinds, scene, outside)
    _draw_myelin(grey, kinds, scene)
    _draw_synapses(grey, cut, kinds, scene)
    grey -= 76 * _bell(scene.border, 1.25)
    return grey


def _scene(cut: Cut, box: Box, nuclei: Scatter, ellipsoids: Ellipsoids) -> _Scene:
    where = warped(cut, box)
    thin, thick = thin_cells(cut, box, nuclei, where), thick_cells(box, ellipsoids, where)
    is_thick = thick.inside > 0
    is_by_thick = -thick.inside < thin.border
    over = thick.cell + len(nuclei.number)
    fine, middle, coarse = (
        box.to_blocks(noise(cut, salt, box, spacing, 6)) for salt, spacing in ((60, 2.6), (61, 6), (62, 20))
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
    """Return 0 below 0, 1 above 1 and a smooth transition in between."""
    t: Floats = np.clip(x, 0, 1)
    return t * t * (3 - 2 * t)


def _bell(x: Floats, width: float) -> Floats:
    """Return a Gaussian: 1 at 0, and 1/e at `width`."""
    bell: Floats = np.exp(-np.square(x * np.float32(1 / width)))
    return bell


def _draw_mitochondria(grey: Floats, kinds: Kinds, scene: _Scene) -> Floats:
    """Draw mitochondria into the grey values; return the distance from the nearest one, negative inside."""
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


def _draw_vesicles(grey: Floats, cut: Cut, box: Box, kinds: Kinds, scene: _Scene, outside: Floats) -> None:
    is_room = kinds.is_bouton[scene.cell] & (scene.border > 3) & (outside > 2) & (scene.coarse > np.float32(-0.9))
    at = np.nonzero(is_room)
    columns_of_blocks = box.width // BLOCK
    x = box.x + at[0] % columns_of_blocks * BLOCK + at[1] % BLOCK
    y = box.y + at[0] // columns_of_blocks * BLOCK + at[1] // BLOCK
    nearest = np.minimum(_to_dot(cut, 70, x, y, 10, 0.85), _to_dot(cut, 75, x, y, 13, 0.7))
    share = _step(scene.border[at] - 3) * _step(outside[at] - 2) * _step(scene.coarse[at] + np.float32(0.9))
    grey[at] -= share * (36 * _bell(nearest - 2, 0.8) - 7 * _bell(nearest, 1.2))


def _to_dot(cut: Cut, salt: int, x: Indices, y: Indices, spacing: int, share: float) -> Floats:
    """Return the distance of points from the dot of their lattice square; FAR without a dot. Rows are staggered."""
    row = y // spacing
    x = x + row % 2 * (spacing // 2)
    column = x // spacing
    depth = np.full(1, int(cut.z // SECTION_THICKNESS))
    at_x, at_y, lot = (chance(cut.seed, salt + k, column, row, depth) for k in range(3))
    radius, room = np.float32(2.6), np.float32(spacing - 5.2)
    dx = (x - column * spacing).astype(np.float32) - radius - at_x * room
    dy = (y - row * spacing).astype(np.float32) - radius - at_y * room
    return np.where(lot < share, np.sqrt(dx**2 + dy**2), FAR)


def _draw_myelin(grey: Floats, kinds: Kinds, scene: _Scene) -> None:
    depth = kinds.sheath[scene.cell] - scene.border
    at = np.nonzero(depth > 0)
    wraps = 72 + 14 * np.sin(scene.border[at] * np.float32(2 * np.pi / 3))
    grey[at] += _step(depth[at]) * (wraps - grey[at])


def _draw_synapses(grey: Floats, cut: Cut, kinds: Kinds, scene: _Scene) -> None:
    """Draw a postsynaptic density on one side of a quarter of the borders."""
    at = np.nonzero(scene.border < 8)
    mine, theirs = scene.cell[at], scene.other[at]
    lot = chance(cut.seed, 90, kinds.number[mine] ^ kinds.number[theirs])
    is_after = (lot < 0.25) & (kinds.number[mine] > kinds.number[theirs])
    is_bare = (kinds.sheath[mine] == 0) & (kinds.sheath[theirs] == 0)
    density = _bell(scene.border[at], 3.2) * _step(scene.coarse[at] + np.float32(0.6))
    grey[at] -= (is_after & is_bare) * np.float32(44) * density
