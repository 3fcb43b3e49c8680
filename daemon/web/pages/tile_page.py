"""Content of the page of a tile. Pure, apart from queries of the journal."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from daemon.journal.tables import images_read, quality
from daemon.journal.tables.rows import Connection
from daemon.montages.records import Montage
from daemon.web.pages.section_files import DiskFile, Tiles
from handlers.images.digest import FileContent
from handlers.mipmaps.measure import digest_of_levels
from handlers.quality.numbers import UNITS
from handlers.quality.packing import unpack

_UNIT_TEXTS = {"grey": "(raw)", "grey 8": "of 255", "grey 16": "of 65,535", "grey 8 squared": "of 255, squared"}
"""Texts for units of grey values; other units are shown unchanged."""


def look_up_tile(connection: Connection, montage_id: int, tile_id: str) -> tuple[FileContent | None, bytes | None]:
    """Return identity and digest of a tile's image as it was read, and the section's packed numbers, or None."""
    content = images_read.contents_of(connection, montage_id).get(tile_id)
    return content, quality.numbers_of(connection, montage_id, former=True)


class TileQuality(NamedTuple):
    """A tile's quality numbers in the journal."""

    numbers: Sequence[tuple[str, str]] = ()
    """Known numbers as (name, value with unit)."""
    levels_digest: bytes | None = None
    """Digest over all its level files as they were written."""


def quality_of_tile(packed: bytes | None, tile_id: str) -> TileQuality:
    """Return a tile's part of the section's packed numbers. Blocks for some milliseconds."""
    found = unpack(packed) if packed else None
    if found is None or tile_id not in found.tiles.tile_ids:
        return TileQuality()
    place = found.tiles.tile_ids.index(tile_id)
    values = {name: float(column[place]) for name, column in found.tiles.columns.items()}
    numbers = [
        (name.replace("_", " "), f"{value:,.6g} {_UNIT_TEXTS.get(UNITS[name].text, UNITS[name].text)}".strip())
        for name, value in values.items()
        if not math.isnan(value) and not name.startswith("raster_")
    ]
    return TileQuality(numbers, found.level_digests.get(tile_id))


@dataclass(frozen=True, slots=True)
class Digests:
    """Whether the level files contain the written bytes."""

    kind: str
    """Class of the style: good, bad or quiet."""
    text: str


def compare_levels(files: Sequence[DiskFile], recorded: bytes | None) -> Digests:
    """Return whether the level files have their recorded digest."""
    levels = {each.level: each.digest for each in files if each.level}
    known = {level: digest for level, digest in levels.items() if digest is not None}
    if recorded is None or len(known) < len(levels):
        return Digests("quiet", "not compared: " + ("no recorded digest" if recorded is None else "not all were read"))
    if digest_of_levels(known) == recorded:
        return Digests("good", "match the recorded digest")
    return Digests("bad", "do not match the recorded digest")


def tile_values(
    montage: Montage,
    tiles: Tiles,
    index: int,
    files: Sequence[DiskFile],
    content: FileContent | None,
    found: TileQuality,
    *,
    is_made: bool,
) -> dict[str, Any]:
    """Return the values of the tile's template, without its tile specs.

    Parameters
    ----------
    is_made : whether all mipmaps of the section are made. Before that, the recorded digests belong to former files.
    """
    tile, level0 = tiles.tile(index), tiles.level0[index]
    place = {
        "Grid": tile.grid,
        "Column, row": None if tile.raster_col is None else f"{tile.raster_col}, {tile.raster_row}",
        "Order of acquisition": tile.raster_index,
        "Size": f"{level0.width} x {level0.height} px",
        "Stage": None if tile.stage_x is None else f"x {tile.stage_x:,.0f}, y {tile.stage_y:,.0f}",
        "Rotation": None if tile.angle_deg is None else f"{tile.angle_deg:.4g}°",
    }
    return {
        "montage": montage,
        "tile_id": level0.tile_id,
        "place": {name: value for name, value in place.items() if value is not None},
        "numbers": found.numbers or [(name.replace("_", " "), f"{value:,.6g}") for name, value in tile.numbers.items()],
        "neighbours": [[None if at is None else tiles.tile_id(at) for at in row] for row in tiles.neighbours(index)],
        "files": files,
        "level0_digest": content.digest.hex() if content and content.digest else None,
        "levels_are": compare_levels(files, found.levels_digest) if is_made else None,
        "has_levels": any(each.level and each.size for each in files),
        "before": tiles.tile_id(index - 1) if index else None,
        "after": tiles.tile_id(index + 1) if index + 1 < len(tiles.level0) else None,
    }


def as_json(spec: object) -> str:
    """Return a tile spec as indented JSON."""
    return json.dumps(spec, indent=2, default=str)
