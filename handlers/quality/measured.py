"""Columns of the numbers that workers measured. Pure."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from handlers.mipmaps.measure import Measured
from handlers.quality.numbers import Floats, TileNumbers
from handlers.quality.packing import Quality

MEASURED: Final = ("bits", "darkest", "brightest", "dark_share", "saturated_share", "sharpness")


@dataclass(frozen=True, slots=True)
class MadeTile:
    """A tile whose mipmaps were made."""

    digest: bytes | None
    """Digest of the bytes of level 0; None if they were not read."""
    measured: Measured | None
    """None if the job did not measure."""


def measured_columns(
    tile_ids: Sequence[str], made: Mapping[str, MadeTile], former: Quality | None
) -> dict[str, Floats]:
    """Return the columns of the numbers that workers measured.

    Parameters
    ----------
    made : tiles by tile id.
    former : quality of the same section before some of its images changed. Other tiles keep their former numbers.
    """
    rows = [made[tile_id].measured if tile_id in made else None for tile_id in tile_ids]
    columns = {name: _column(rows, name) for name in MEASURED}
    places = {tile_id: place for place, tile_id in enumerate(former.tiles.tile_ids)} if former else {}
    for place, (tile_id, row) in enumerate(zip(tile_ids, rows, strict=True)):
        if former and row is None and tile_id in places:
            for name in MEASURED:
                columns[name][place] = former.tiles.columns[name][places[tile_id]]
    return columns


def _column(rows: Sequence[Measured | None], name: str) -> Floats:
    return np.array([np.nan if row is None else getattr(row, name) for row in rows], np.float64)


def level_digests(made: Mapping[str, MadeTile], former: Quality | None, levels: int) -> dict[str, bytes]:
    """Return the digest of each tile's level files by tile id; tiles without a known digest are absent."""
    known = dict(former.level_digests) if former and former.levels == levels else {}
    for tile_id, tile in made.items():
        if tile.measured is not None:
            known[tile_id] = tile.measured.levels_digest if tile.measured.levels == levels else b""
    return {tile_id: digest for tile_id, digest in known.items() if digest and tile_id in made}


def repeats(numbers: TileNumbers, made: Mapping[str, MadeTile]) -> Floats:
    """Return the column `repeat_of`: the index of the first acquired tile with the same image.

    Images are the same if their files have the same bytes. A camera that repeats a frame may write another time into
    the file, so images also count as the same if all measured numbers are equal, unless the images are blank.
    """
    order = np.argsort(numbers.raster_index, kind="stable")  # unknown numbers last, in the order of the metafile
    same: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place in order.tolist():
        for key in _keys(made.get(numbers.tile_ids[place])):
            same[key].append(place)
    column = np.full(len(order), np.nan)
    for places in (places for places in same.values() if len(places) > 1):
        column[places[1:]] = np.fmin(column[places[1:]], places[0])
    return column


def _keys(tile: MadeTile | None) -> list[Hashable]:
    """Return the keys of a tile's image. Tiles with a common key have the same image."""
    if tile is None:
        return []
    keys: list[Hashable] = [tile.digest] if tile.digest else []
    measured = tile.measured
    if measured is not None and measured.sharpness > 0 and not np.isnan(measured.bits):
        keys.append(tuple(getattr(measured, name) for name in MEASURED))
    return keys
