"""Raster neighbours of tiles, and where each tile is by the overlaps with them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from handlers.acquisition.acquisition import Tile
from handlers.acquisition.geometry import Point
from handlers.acquisition.rasters import section_cells
from handlers.mipmaps.measure import Measured
from handlers.mipmaps.overlap import LEVEL, Neighbour, Overlap, Side
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.quality.numbers import Floats

_STEPS: Final[Mapping[Side, tuple[int, int]]] = MappingProxyType(
    {Side.LEFT: (-1, 0), Side.TOP: (0, -1), Side.RIGHT: (1, 0), Side.BOTTOM: (0, 1)}
)
"""Column and row of the neighbour on a side, less those of the tile."""
SURROUNDINGS: Final = 3
"""Tiles at most so many columns and rows away show where a tile should be."""
_Places = Mapping[tuple[int, int], int]


def places_of(tiles: Sequence[Tile]) -> dict[tuple[int, int], int]:
    """Return each tile's place in the sequence by column and row in the section; tiles without a grid are absent."""
    return {grid: place for place, grid in enumerate(section_cells(tiles)) if grid is not None}


def neighbours_of(
    tiles: Sequence[Tile], images: Sequence[Level0], positions: Sequence[Point], plan: MipmapPlan
) -> dict[str, tuple[Neighbour, ...]]:
    """Return the raster neighbours of each tile, by tile id; none without level 3, nor of turned and scaled tiles.

    Parameters
    ----------
    images, positions : of the tiles, in the same order; positions by the tile specs, level-0 pixels.
    """
    if plan.levels < LEVEL:
        return {}
    places = {
        grid: place
        for grid, place in places_of(tiles).items()
        if not tiles[place].rotation_deg and tiles[place].scale == 1
    }

    def around(place: int, grid: tuple[int, int]) -> Iterator[Neighbour]:
        for side, (dcol, drow) in _STEPS.items():
            there = places.get((grid[0] + dcol, grid[1] + drow))
            if there is not None:
                image, (x, y), (own_x, own_y) = images[there], positions[there], positions[place]
                yield Neighbour(side, plan.path(LEVEL, image.image), image.width, image.height, x - own_x, y - own_y)

    return {images[place].tile_id: tuple(around(place, grid)) for grid, place in places.items()}


def stage_columns(
    tiles: Sequence[Tile], tile_ids: Sequence[str], measured: Mapping[str, Measured], former: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return the columns of stage errors: those of the overlap with the left and upper neighbour, and of each tile.

    Parameters
    ----------
    measured : by tile id, in the order in which the tiles were made: of two results for a pair the later one counts.
    former : the columns before some tiles were made again, by name; those of other tiles stay.
    """
    grids, place_of_id = section_cells(tiles), {tile_id: place for place, tile_id in enumerate(tile_ids)}
    places = {grid: place for place, grid in enumerate(grids) if grid is not None}
    columns = {
        f"{side}_stage_{name}": former.get(f"{side}_stage_{name}", np.full(len(tiles), np.nan)).copy()
        for side in ("left", "top")
        for name in ("x", "y", "error")
    }
    made = {place_of_id[tile_id] for tile_id in measured}
    for (col, row), place in places.items():
        for side, there in (("left", places.get((col - 1, row))), ("top", places.get((col, row - 1)))):
            if place in made or there in made:
                for name in ("x", "y", "error"):
                    columns[f"{side}_stage_{name}"][place] = np.nan
    for tile_id, of_tile in measured.items():
        grid = grids[place_of_id[tile_id]]
        if grid is None:
            continue
        for overlap in of_tile.overlaps:
            dcol, drow = _STEPS[overlap.side]
            there = places.get((grid[0] + dcol, grid[1] + drow))
            if there is not None:
                _put(columns, place_of_id[tile_id], there, overlap)
    columns["stage_x"], columns["stage_y"] = (
        displacements(places, columns["left_stage_x"], columns["top_stage_x"]),
        displacements(places, columns["left_stage_y"], columns["top_stage_y"]),
    )
    return columns


def _put(columns: Mapping[str, Floats], place: int, there: int, overlap: Overlap) -> None:
    """Store an overlap with the tile of the pair that is on the right or below: its error is against the other."""
    side = "left" if overlap.side in (Side.LEFT, Side.RIGHT) else "top"
    is_own = overlap.side in (Side.LEFT, Side.TOP)
    row, sign = (place, -1) if is_own else (there, 1)
    columns[f"{side}_stage_x"][row] = sign * overlap.x
    columns[f"{side}_stage_y"][row] = sign * overlap.y
    columns[f"{side}_stage_error"][row] = overlap.error


def displacements(places: _Places, left: Floats, top: Floats) -> Floats:
    """Return by how much each tile is off, relative to the tiles around it; NaN without a known overlap.

    The errors of the overlaps are differences of two tiles' errors. The errors themselves are the solution with the
    least squares, in every connected group of tiles; the median of the tiles around, at most three columns and rows
    away, is taken off: a slow drift of the stage counts for no tile, and a tile at the edge is not blamed for its only
    neighbour.

    Parameters
    ----------
    left, top : error against the left and the upper neighbour, by place; NaN where unknown.
    """
    errors = _solved(list(_edges(places, left, top)), len(left))
    off = np.full(len(left), np.nan)
    for (col, row), place in places.items():
        if not np.isnan(errors[0, place]):
            around = [
                errors[0, there]
                for dcol in range(-SURROUNDINGS, SURROUNDINGS + 1)
                for drow in range(-SURROUNDINGS, SURROUNDINGS + 1)
                if (there := places.get((col + dcol, row + drow))) is not None and errors[1, there] == errors[1, place]
            ]
            off[place] = errors[0, place] - np.median(around)
    return off


def _edges(places: _Places, left: Floats, top: Floats) -> Iterator[tuple[int, int, float]]:
    """Yield each known overlap: the place on the left or above, that on the right or below, the error between them."""
    for (col, row), place in places.items():
        for there, error in ((places.get((col - 1, row)), left[place]), (places.get((col, row - 1)), top[place])):
            if there is not None and not np.isnan(error):
                yield there, place, float(error)


def _solved(edges: Sequence[tuple[int, int, float]], count: int) -> npt.NDArray[np.float64]:
    """Return by place the errors with the least squares, and the number of the connected group; NaN without edge."""
    solved = np.full((2, count), np.nan)
    if not edges:
        return solved
    from scipy.sparse import coo_array  # 0.1 s, and only where overlaps were compared
    from scipy.sparse.csgraph import connected_components
    from scipy.sparse.linalg import lsqr

    first, second, errors = (np.array(column) for column in zip(*edges, strict=True))
    numbers, ones = np.arange(len(edges)), np.ones(len(edges))
    matrix = coo_array(
        (np.concatenate([-ones, ones]), (np.concatenate([numbers, numbers]), np.concatenate([first, second]))),
        shape=(len(edges), count),
    ).tocsr()
    _, groups = connected_components(coo_array((ones, (first, second)), shape=(count, count)), directed=False)
    known = np.unique(np.concatenate([first, second]))
    solved[0, known] = lsqr(matrix, errors, atol=1e-10, btol=1e-10, iter_lim=20 * count)[0][known]
    solved[1, known] = groups[known]
    return solved
