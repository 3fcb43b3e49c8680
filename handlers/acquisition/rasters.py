"""Rasters of grids of tiles: from their numbers and places, and several as one. Pure."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handlers.acquisition.acquisition import Tile
from handlers.acquisition.geometry import Point

_TOLERANCE = 0.25
"""Largest distance of a tile from its place in the raster, in steps."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Columns and rows of places, in their order, counted from the smallest ones."""

    places: tuple[tuple[int, int], ...]
    step_x: float | None
    """Distance of two columns, in the unit of the places; None if there is one."""
    step_y: float | None


@dataclass(frozen=True, slots=True)
class Raster:
    """Columns and rows of a grid."""

    places: Mapping[int, tuple[int, int]]
    """Number of a tile -> its column and row, from 0."""
    step_x: float | None
    """Distance of two columns, in the unit of the places; None if there is one."""
    step_y: float | None

    def place(self, number: int) -> tuple[int, int]:
        """Return column and row of a tile."""
        return self.places[number]


def raster_of(places: Mapping[int, Point]) -> Raster | None:
    """Return the raster of a grid whose tiles are numbered by rows; None if the places make none.

    Tiles may be absent. With two rows or more the numbers show the columns before the first tile; otherwise the
    smallest column and row are 0.

    >>> raster_of({0: (0.0, 0.0), 1: (9.0, 0.0), 9: (9.0, 7.0), 8: (0.0, 7.0)}).places
    {0: (0, 0), 1: (1, 0), 9: (1, 1), 8: (0, 1)}
    >>> raster_of({10: (9.0, 0.0), 18: (9.0, 7.0)}).places
    {10: (2, 1), 18: (2, 2)}
    """
    cells = cells_of(list(places.values()))
    if cells is None:
        return None
    return Raster(_counted(dict(zip(places, cells.places, strict=True))), cells.step_x, cells.step_y)


def cells_of(places: Sequence[Point]) -> Cells | None:
    """Return the columns and rows of places on a regular grid; None if they are on none, or two are in one cell.

    >>> cells_of([(5.0, 30.0), (5.0, 20.0), (25.0, 20.0)]).places
    ((0, 1), (0, 0), (1, 0))
    """
    left, top = min(x for x, _ in places), min(y for _, y in places)
    step_x, step_y = _step(x for x, _ in places), _step(y for _, y in places)
    found: list[tuple[int, int]] = []
    for x, y in places:
        across, down = (x - left) / step_x if step_x else 0.0, (y - top) / step_y if step_y else 0.0
        if max(abs(across - round(across)), abs(down - round(down))) > _TOLERANCE:
            return None
        found.append((round(across), round(down)))
    return Cells(tuple(found), step_x, step_y) if len(set(found)) == len(found) else None


def hexagonal_places(places: Sequence[Point], some: Sequence[Point]) -> list[tuple[int, int]] | None:
    """Return column and row of tiles in a hexagonal lattice, both from 0; None if the places make none.

    Columns of one row are two apart, and the next row is shifted by one column.

    Parameters
    ----------
    some : places close together, which show the steps.

    >>> hexagonal_places([(9.0, 0.0), (0.0, 8.0), (18.0, 8.0), (9.0, 16.0)], [(9.0, 0.0), (0.0, 8.0), (18.0, 8.0)])
    [(1, 0), (0, 1), (2, 1), (1, 2)]
    """
    step_x, step_y = _step(x for x, _ in some), _step(y for _, y in some)
    if step_x is None or step_y is None:
        return None
    left, top = min(x for x, _ in places), min(y for _, y in places)
    steps = [((x - left) / step_x, (y - top) / step_y) for x, y in places]
    found = [(round(across), round(down)) for across, down in steps]
    is_near = all(
        max(abs(across - col), abs(down - row)) <= _TOLERANCE
        for (across, down), (col, row) in zip(steps, found, strict=True)
    )
    is_shifted = len({(col + row) % 2 for col, row in found}) == 1
    return found if is_near and is_shifted and len(set(found)) == len(found) else None


def _step(values: Iterable[float]) -> float | None:
    """Return the smallest distance of two values that is no mere rounding."""
    ordered = sorted(values)
    steps = [after - before for before, after in itertools.pairwise(ordered)]
    least = 0.01 * (ordered[-1] - ordered[0])
    return min((step for step in steps if step > max(least, 4.0)), default=None)


def _counted(found: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Return the places counted from the grid's own first column and row, where the numbers show them."""
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


def section_places(tiles: Sequence[Tile]) -> list[tuple[int, int] | None]:
    """Return column and row of each tile in one raster of the whole section; None for tiles outside of a grid.

    Of several grids each stands right of those before, with an empty column between: two grids may both have a tile in
    column 0 and row 0, and tiles of two grids are no neighbours.
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
