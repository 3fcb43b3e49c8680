"""Raster neighbours of tiles, and the displacement of each tile by its overlaps with them. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from handlers.acquisition.acquisition import Tile
from handlers.acquisition.formats.rasters import section_cells
from handlers.acquisition.geometry import Point
from handlers.mipmaps.measure import Measured
from handlers.mipmaps.overlap import LEVEL, Neighbour, Overlap, Side
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.quality.numbers import Floats

_STEPS: Final[Mapping[Side, tuple[int, int]]] = MappingProxyType(
    {Side.LEFT: (-1, 0), Side.TOP: (0, -1), Side.RIGHT: (1, 0), Side.BOTTOM: (0, 1)}
)
"""Column and row of the neighbour on a side, minus those of the tile."""
SURROUNDINGS: Final = 3
"""Largest distance, in columns and rows, of the tiles with which a tile's displacement is compared."""
_OF_PAIR: Final = tuple(f"{side}_stage_{name}" for side in ("left", "top") for name in ("x", "y", "error"))
_COLUMNS: Final = (*_OF_PAIR, "stage_x", "stage_y")
_Indices = Mapping[tuple[int, int], int]
"""(column, row) -> index of the tile."""


def indices_of(tiles: Sequence[Tile]) -> dict[tuple[int, int], int]:
    """Return the index of each tile by its column and row in the section; tiles without a grid are absent."""
    return {cell: index for index, cell in enumerate(section_cells(tiles)) if cell is not None}


def neighbours_of(
    tiles: Sequence[Tile], images: Sequence[Level0], positions: Sequence[Point], plan: MipmapPlan
) -> dict[str, tuple[Neighbour, ...]]:
    """Return the raster neighbours of each tile by tile id. Rotated and scaled tiles have none.

    Returns no neighbours if the plan makes no level 3, on which overlaps are compared.

    Parameters
    ----------
    images, positions : images and positions of the tiles, in the same order; positions by the tile specs, level-0 px.
    """
    if plan.levels < LEVEL:
        return {}
    indices = {
        cell: index
        for cell, index in indices_of(tiles).items()
        if not tiles[index].rotation_deg and tiles[index].scale == 1
    }

    def around(index: int, cell: tuple[int, int]) -> Iterator[Neighbour]:
        for side, (dcol, drow) in _STEPS.items():
            there = indices.get((cell[0] + dcol, cell[1] + drow))
            if there is not None:
                image, (x, y), (own_x, own_y) = images[there], positions[there], positions[index]
                yield Neighbour(side, plan.path(LEVEL, image.image), image.width, image.height, x - own_x, y - own_y)

    return {images[index].tile_id: tuple(around(index, cell)) for cell, index in indices.items()}


def stage_columns(
    tiles: Sequence[Tile], tile_ids: Sequence[str], measured: Mapping[str, Measured], former: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Return the columns of stage errors: of the overlap with the left and the upper neighbour, and of each tile.

    Parameters
    ----------
    measured : by tile id, in the order in which the tiles were made. If a pair has two results, the later one counts.
    former : the columns before some tiles were made again, by name. Other tiles keep their values.
    """
    if not former and not any(of_tile.overlaps for of_tile in measured.values()):  # overlaps were not compared
        return {name: np.full(len(tiles), np.nan) for name in _COLUMNS}
    cells, index_of_id = section_cells(tiles), {tile_id: index for index, tile_id in enumerate(tile_ids)}
    indices = {cell: index for index, cell in enumerate(cells) if cell is not None}
    columns = {name: former.get(name, np.full(len(tiles), np.nan)).copy() for name in _OF_PAIR}
    made = {index_of_id[tile_id] for tile_id in measured}
    for (col, row), index in indices.items():
        for side, there in (("left", indices.get((col - 1, row))), ("top", indices.get((col, row - 1)))):
            if index in made or there in made:
                for name in ("x", "y", "error"):
                    columns[f"{side}_stage_{name}"][index] = np.nan
    for tile_id, of_tile in measured.items():
        cell = cells[index_of_id[tile_id]]
        if cell is None:
            continue
        for overlap in of_tile.overlaps:
            dcol, drow = _STEPS[overlap.side]
            there = indices.get((cell[0] + dcol, cell[1] + drow))
            if there is not None:
                _put(columns, index_of_id[tile_id], there, overlap)
    columns["stage_x"], columns["stage_y"] = (
        displacements(indices, columns["left_stage_x"], columns["top_stage_x"]),
        displacements(indices, columns["left_stage_y"], columns["top_stage_y"]),
    )
    return columns


def _put(columns: Mapping[str, Floats], index: int, there: int, overlap: Overlap) -> None:
    """Store an overlap in the row of the right or lower tile of the pair, whose error is relative to the other tile."""
    side = "left" if overlap.side in (Side.LEFT, Side.RIGHT) else "top"
    is_own = overlap.side in (Side.LEFT, Side.TOP)
    row, sign = (index, -1) if is_own else (there, 1)
    columns[f"{side}_stage_x"][row] = sign * overlap.x
    columns[f"{side}_stage_y"][row] = sign * overlap.y
    columns[f"{side}_stage_error"][row] = overlap.error


def displacements(indices: _Indices, left: Floats, top: Floats) -> Floats:
    """Return the displacement of each tile relative to the tiles around it, (n,); NaN without a known overlap.

    The error of an overlap is the difference of two tiles' errors. The errors of tiles are the least-squares solution
    in every connected group of tiles. From each, the median of the errors of the tiles at most SURROUNDINGS columns and
    rows away is subtracted: so a slow drift of the stage is no displacement, and a tile at the edge is not displaced
    because of its only neighbour.

    Parameters
    ----------
    left, top : error relative to the left and the upper neighbour, by index; NaN if unknown.
    """
    errors = _solved(list(_edges(indices, left, top)), len(left))
    off = np.full(len(left), np.nan)
    for (col, row), index in indices.items():
        if not np.isnan(errors[0, index]):
            around = [
                errors[0, there]
                for dcol in range(-SURROUNDINGS, SURROUNDINGS + 1)
                for drow in range(-SURROUNDINGS, SURROUNDINGS + 1)
                if (there := indices.get((col + dcol, row + drow))) is not None and errors[1, there] == errors[1, index]
            ]
            off[index] = errors[0, index] - np.median(around)
    return off


def _edges(indices: _Indices, left: Floats, top: Floats) -> Iterator[tuple[int, int, float]]:
    """Yield each known overlap: index of the left or upper tile, index of the right or lower tile, error."""
    for (col, row), index in indices.items():
        for there, error in ((indices.get((col - 1, row)), left[index]), (indices.get((col, row - 1)), top[index])):
            if there is not None and not np.isnan(error):
                yield there, index, float(error)


def _solved(edges: Sequence[tuple[int, int, float]], count: int) -> npt.NDArray[np.float64]:
    """Return (2, count): the least-squares error of each tile, and the number of its connected group; else NaN."""
    solved = np.full((2, count), np.nan)
    if not edges:
        return solved
    from scipy.sparse import coo_array  # imported only if overlaps were compared, since it takes 0.1 s
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
