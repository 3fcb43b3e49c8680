"""Column and row of tiles in a grid, from their positions and numbers; one raster for several grids. Pure."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handlers.acquisition.acquisition import Tile
from handlers.acquisition.geometry import Point

_TOLERANCE = 0.25
"""Largest distance of a tile from its cell in the raster, in steps."""
_GROUP = 0.4
"""Smallest distance of two columns, as a fraction of the largest: a column may be missing between two others."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Cells of a grid in the order of their positions, counted from the smallest column and row."""

    cells: tuple[tuple[int, int], ...]
    """Column and row of each position."""
    step_x: float | None
    """Distance of two columns, in the unit of the positions; None if there is only one."""
    step_y: float | None


@dataclass(frozen=True, slots=True)
class Raster:
    """Cells of a grid by the numbers of its tiles."""

    cells: Mapping[int, tuple[int, int]]
    """Number of a tile -> its column and row, from 0."""
    step_x: float | None
    """Distance of two columns, in the unit of the positions; None if there is only one."""
    step_y: float | None


def raster_of(positions: Mapping[int, Point]) -> Raster | None:
    """Return the raster of a grid whose tiles are numbered by rows; None if the positions are on no regular grid.

    Tiles may be missing. If there are at least two rows, the numbers show the columns and rows before the first tile;
    otherwise the smallest column and row are 0.

    Parameters
    ----------
    positions : by the numbers of the tiles, in any unit.

    >>> raster_of({0: (0.0, 0.0), 1: (9.0, 0.0), 9: (9.0, 7.0), 8: (0.0, 7.0)}).cells
    {0: (0, 0), 1: (1, 0), 9: (1, 1), 8: (0, 1)}
    >>> raster_of({10: (9.0, 0.0), 18: (9.0, 7.0)}).cells
    {10: (2, 1), 18: (2, 2)}
    """
    found = cells_of(list(positions.values()))
    if found is None:
        return None
    return Raster(_in_whole_grid(dict(zip(positions, found.cells, strict=True))), found.step_x, found.step_y)


def cells_of(positions: Sequence[Point]) -> Cells | None:
    """Return column and row of each position on a regular grid; None if they are on none, or two share a cell.

    >>> cells_of([(5.0, 30.0), (5.0, 20.0), (25.0, 20.0)]).cells
    ((0, 1), (0, 0), (1, 0))
    """
    left, top = min(x for x, _ in positions), min(y for _, y in positions)
    step_x, step_y = _step(x for x, _ in positions), _step(y for _, y in positions)
    found: list[tuple[int, int]] = []
    for x, y in positions:
        across, down = (x - left) / step_x if step_x else 0.0, (y - top) / step_y if step_y else 0.0
        if max(abs(across - round(across)), abs(down - round(down))) > _TOLERANCE:
            return None
        found.append((round(across), round(down)))
    return Cells(tuple(found), step_x, step_y) if len(set(found)) == len(found) else None


def hexagonal_cells(positions: Sequence[Point], groups: Iterable[Sequence[Point]]) -> list[tuple[int, int]] | None:
    """Return column and row of tiles in a hexagonal lattice, both from 0; None if the positions form none.

    Neighbours in a row are two columns apart, and the next row is shifted by one column.

    Parameters
    ----------
    groups : the same positions in groups of neighbours, from which the steps are measured.

    >>> hexagonal_cells([(9.0, 0.0), (0.0, 8.0), (18.0, 8.0), (9.0, 16.0)], [[(9.0, 0.0), (0.0, 8.0), (18.0, 8.0)]])
    [(1, 0), (0, 1), (2, 1), (1, 2)]
    """
    steps = [(_usual_step([x for x, _ in group]), _usual_step([y for _, y in group])) for group in groups]
    steps_x, steps_y = [x for x, _ in steps if x], [y for _, y in steps if y]
    if not steps_x or not steps_y:
        return None
    cols = _numbered([x for x, _ in positions], statistics.median(steps_x))
    rows = _numbered([y for _, y in positions], statistics.median(steps_y))
    if cols is None or rows is None:
        return None
    found = list(zip(cols, rows, strict=True))
    is_shifted = len({(col + row) % 2 for col, row in found}) == 1
    return found if is_shifted and len(set(found)) == len(found) else None


def _usual_step(values: Sequence[float]) -> float | None:
    """Return the distance of two columns or rows from values that scatter about them; None if there is only one."""
    ordered = sorted(values)
    gaps = [after - before for before, after in itertools.pairwise(ordered)]
    apart = _GROUP * max(gaps, default=0.0)
    if not apart:
        return None
    groups = [[ordered[0]]]
    for gap, value in zip(gaps, ordered[1:], strict=True):
        if gap > apart:
            groups.append([])
        groups[-1].append(value)
    means = [statistics.fmean(group) for group in groups]
    usual = statistics.median(after - before for before, after in itertools.pairwise(means))
    return (means[-1] - means[0]) / round((means[-1] - means[0]) / usual)


def _numbered(values: Sequence[float], step: float) -> list[int] | None:
    """Return the column or row of each value, from 0; None if a value lies too far from its column or row."""
    origin = min(values)
    for _ in range(2):  # the step of one group is imprecise: fit it to all values
        numbers = [round((value - origin) / step) for value in values]
        if len(set(numbers)) > 1:
            step = statistics.linear_regression(numbers, values).slope
        origin = statistics.fmean(values) - step * statistics.fmean(numbers)
    numbers = [round((value - origin) / step) for value in values]
    if max(abs((value - origin) / step - number) for value, number in zip(values, numbers, strict=True)) > _TOLERANCE:
        return None
    first = min(numbers)
    return [number - first for number in numbers]


def _step(values: Iterable[float]) -> float | None:
    """Return the smallest distance of two values that is not due to rounding; None if all values are equal."""
    ordered = sorted(values)
    steps = [after - before for before, after in itertools.pairwise(ordered)]
    least = 0.01 * (ordered[-1] - ordered[0])
    return min((step for step in steps if step > max(least, 4.0)), default=None)


def _in_whole_grid(found: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Return the cells counted from the first column and row of the whole grid, if the tile numbers show these."""
    (number, (col, row)), *others = found.items()
    for other, (other_col, other_row) in others:
        rows = other_row - row
        if rows and (other - number - (other_col - col)) % rows == 0:
            columns = (other - number - (other_col - col)) // rows
            first = {each - at_row * columns - at_col for each, (at_col, at_row) in found.items()}
            widest = max(at_col for at_col, _ in found.values())
            if len(first) == 1 and columns > 0 and widest + min(first) % columns < columns and min(first) >= 0:
                down, right = divmod(min(first), columns)
                return {each: (at_col + right, at_row + down) for each, (at_col, at_row) in found.items()}
            break
    return dict(found)


def section_cells(tiles: Sequence[Tile]) -> list[tuple[int, int] | None]:
    """Return column and row of each tile in one raster of the whole section; None for a tile outside any grid.

    Several grids lie side by side, with an empty column between: several may have a tile in column 0 and row 0, and
    tiles of different grids are not neighbours.
    """
    last: dict[str | None, int] = {}
    for tile in tiles:
        if tile.raster_col is not None and tile.raster_row is not None:
            last[tile.grid] = max(last.get(tile.grid, 0), tile.raster_col)
    starts = dict(zip(last, itertools.accumulate((most + 2 for most in last.values()), initial=0), strict=False))
    return [
        None
        if tile.raster_col is None or tile.raster_row is None
        else (starts[tile.grid] + tile.raster_col, tile.raster_row)
        for tile in tiles
    ]
