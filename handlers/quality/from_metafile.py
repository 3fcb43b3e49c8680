"""Quality numbers that the microscope recorded. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.formats.rasters import section_cells
from handlers.acquisition.metafile import EdgeMatch, EdgeSide, Metafile, TileRecord
from handlers.quality.numbers import UNITS, Floats, SectionNumbers, TileNumbers, median
from handlers.quality.packing import Quality

_OF_TILE = ("raster_col", "raster_row", "raster_index", "focus_score", "mean", "minimum", "maximum", "std_dev")
_OF_MATCH = ("dx", "dy", "distance", "rotation")


def quality_of(acquisition: Acquisition, tile_ids: Sequence[str]) -> Quality:
    """Return the numbers that the microscope recorded of a region. Numbers that workers measure are unknown.

    Parameters
    ----------
    tile_ids : in the order of the region's tiles.
    """
    if acquisition.metafile is not None:
        return Quality(tile_numbers(acquisition.metafile, tile_ids), section_numbers(acquisition.metafile))
    tiles, cells = acquisition.tiles, section_cells(acquisition.tiles)
    columns = {
        "raster_col": np.array([cell and cell[0] for cell in cells], np.float64),
        "raster_row": np.array([cell and cell[1] for cell in cells], np.float64),
        "raster_index": np.array([tile.raster_index for tile in tiles], np.float64),
    }
    recorded = {name for tile in tiles for name in tile.numbers} & UNITS.keys() - columns.keys()
    columns |= {name: np.array([tile.numbers.get(name) for tile in tiles], np.float64) for name in recorded}
    return Quality(TileNumbers.of(tuple(tile_ids), columns), SectionNumbers(overlap=overlap_of(tiles, cells)))


def overlap_of(tiles: Sequence[Tile], cells: Sequence[tuple[int, int] | None]) -> float | None:
    """Return the median overlap of raster neighbours by their positions, as a fraction of the frame's shorter side.

    None without neighbours, or if they do not overlap. Rotated and scaled tiles are not compared.

    Parameters
    ----------
    cells : column and row of each tile, by `section_cells`.
    """
    at = {
        cell: tile
        for cell, tile in zip(cells, tiles, strict=True)
        if cell and tile.width and tile.height and not tile.rotation_deg and tile.scale == 1
    }
    pairs = [(tile, at.get((col - 1, row)), at.get((col, row - 1))) for (col, row), tile in at.items()]
    across = [(left.width or 0) + left.position_px[0] - tile.position_px[0] for tile, left, _ in pairs if left]
    down = [(above.height or 0) + above.position_px[1] - tile.position_px[1] for tile, _, above in pairs if above]
    medians = [median(each) for each in (across, down) if each]
    side = min((min(tile.width or 0, tile.height or 0) for tile in at.values()), default=0)
    overlap = min(medians) / side if medians else 0.0
    return overlap if 0 < overlap < 1 else None


def tile_numbers(metafile: Metafile, tile_ids: Sequence[str]) -> TileNumbers:
    """Return the numbers of every tile that the metafile states. Numbers that workers measure are unknown.

    Parameters
    ----------
    tile_ids : in the order of the metafile.
    """
    tiles = metafile.tiles
    columns = {name: _column(tiles, name) for name in _OF_TILE}
    columns |= _match_columns(tiles)
    columns["raster_offset_x"], columns["raster_offset_y"] = raster_offsets(metafile)
    columns["interval"] = intervals_s(tiles)
    return TileNumbers.of(tuple(tile_ids), columns)


def section_numbers(metafile: Metafile) -> SectionNumbers:
    """Return the numbers of the region as a whole."""
    header = metafile.header
    beam: dict[str, Any] = header.beam_centering or {}
    offset = beam.get("offset")
    x, y = map(_number, offset) if isinstance(offset, list) and len(offset) == 2 else (None, None)
    return SectionNumbers(
        header.overlap,
        header.aperture_x_nm,
        header.aperture_y_nm,
        header.autofocus_value,
        _flag(beam.get("beam_center_active")),
        _flag(beam.get("beam_center_changed")),
        x,
        y,
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _column(tiles: Sequence[TileRecord], name: str) -> Floats:
    """Return a field of each tile, (n,), float64; NaN for None."""
    return np.array([getattr(tile, name) for tile in tiles], np.float64)


def _match_columns(tiles: Sequence[TileRecord]) -> dict[str, Floats]:
    columns = {}
    for side in EdgeSide:
        matches = [_match(tile, side) for tile in tiles]
        columns[f"{side}_quality"] = np.array([None if each is None else each.match_quality for each in matches], float)
        for name in _OF_MATCH:
            columns[f"{side}_{name}"] = np.array([_of_match(each, name) for each in matches], float)
    return columns


def _match(tile: TileRecord, side: EdgeSide) -> EdgeMatch | None:
    """Return the match on a side; None if the metafile has none, or if its quality -1 means no neighbour."""
    found = (each for each in tile.matcher or () if each.side is side)
    match = next(found, None)
    return None if match is None or match.match_quality is None or match.match_quality < 0 else match


def _of_match(match: EdgeMatch | None, name: str) -> float | None:
    """Return a value of a match; None without matches, for which the microscope writes 0."""
    return getattr(match, name) if match is not None and match.match_quality else None


def raster_offsets(metafile: Metafile) -> tuple[Floats, Floats]:
    """Return each tile's stage position minus its position in the ideal raster, x and y in level-0 pixels, (n,) each.

    In the ideal raster, the distance of columns and of rows is one frame minus the nominal overlap. Its origin is
    chosen so that the median offset is 0. NaN if the header has no overlap.
    """
    camera, tiles = metafile.header.camera, metafile.tiles
    if metafile.header.overlap is None:
        return np.full(len(tiles), np.nan), np.full(len(tiles), np.nan)
    step = 1 - metafile.header.overlap
    offsets = np.array([tile.position_px for tile in tiles]) - step * np.array(
        [(camera.width * tile.raster_col, camera.height * tile.raster_row) for tile in tiles]
    )
    offsets -= [median(column) for column in offsets.T]
    return offsets[:, 0], offsets[:, 1]


def intervals_s(tiles: Sequence[TileRecord]) -> Floats:
    """Return the seconds since the preceding tile in the order of acquisition, (n,), by the times in the tiles' names.

    NaN for the first tile, if a name has no time, and if the interval is negative (daylight saving time).
    """
    times = np.array([_seconds(tile.time_stamp) for tile in tiles])
    indices = _column(tiles, "raster_index")
    order = np.argsort(times if np.isnan(indices).any() else indices, kind="stable")
    intervals = np.full(len(tiles), np.nan)
    intervals[order[1:]] = np.diff(times[order])
    intervals[intervals < 0] = np.nan
    return intervals


def _seconds(stamp: str | None) -> float:
    """Return a time YYYYMMDDHHMMSSmmm as seconds from a fixed origin; NaN if it is invalid.

    >>> _seconds("20170829130150500") - _seconds("20170829130148000")
    2.5
    """
    if stamp is None:
        return float("nan")
    year, month, day, hour, minute, second = (int(stamp[at - 2 : at]) for at in (4, 6, 8, 10, 12, 14))
    year += 100 * int(stamp[:2])
    try:
        return datetime(year, month, day, hour, minute, second, 1000 * int(stamp[14:]), UTC).timestamp()
    except ValueError:
        return float("nan")
