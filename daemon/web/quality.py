"""Quality numbers as JSON. Pure."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from handlers.quality.numbers import UNITS, Floats
from handlers.quality.packing import Quality, unpack


def encode_quality(numbers: bytes) -> bytes:
    """Return the body of `/api/montages/{id}/tiles` from the journal's block. Takes 50 ms for 2,772 tiles."""
    return json.dumps(quality_json(unpack(numbers))).encode()


def quality_json(quality: Quality) -> dict[str, Any]:
    """Return the numbers as columns with one value for each tile; null where unknown."""
    tiles = quality.tiles
    return {
        "section": asdict(quality.section),
        "units": {name: unit.text for name, unit in UNITS.items()},
        "tiles": list(tiles.tile_ids),
        "numbers": {name: _values(column) for name, column in tiles.columns.items()},
        "levels": quality.levels,
        "level_digests": [quality.level_digests.get(tile_id, b"").hex() or None for tile_id in tiles.tile_ids],
    }


def _values(column: Floats) -> list[float | int | None]:
    """Return a column as JSON values. A column of whole numbers has integers."""
    known = column[~np.isnan(column)]
    is_whole = bool((known == np.rint(known)).all())
    return [None if np.isnan(value) else int(value) if is_whole else value for value in column.tolist()]
