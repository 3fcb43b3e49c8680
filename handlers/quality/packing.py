"""Packing the numbers of a section into one compressed block, column by column. Pure.

A block of 2,772 tiles has about 100 kB, half of it digests. A column is stored in multiples of its step: either the
values or the differences from tile to tile. The bytes of equal significance are stored together.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from handlers.quality.numbers import UNITS, Floats, SectionNumbers, TileNumbers

DIGEST_BYTES: Final = 16
LAYOUT: Final = 1
_EXACT: Final = 2.0**52
"""Smaller multiples of a step are exact in float64, and their differences fit 64 bits."""
_Whole = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality of a section, as the journal stores it."""

    tiles: TileNumbers
    section: SectionNumbers
    levels: int = 0
    """The highest level whose file is in the digests."""
    level_digests: Mapping[str, bytes] = field(default_factory=dict)
    """Tile id -> digest of its level files, by `measure.digest_of_levels`; tiles without a known digest are absent."""


def pack(quality: Quality) -> bytes:
    """Return the block for the numbers."""
    ids = quality.tiles.tile_ids
    columns = {name: _pack_column(column, name) for name, column in quality.tiles.columns.items() if _is_known(column)}
    digests = [quality.level_digests.get(tile_id, b"") for tile_id in ids]
    head = {
        "tiles": ids,
        "section": asdict(quality.section),
        "levels": quality.levels,
        "columns": {name: (how, len(packed)) for name, (how, packed) in columns.items()},
        "without_digest": [place for place, digest in enumerate(digests) if not digest],
    }
    packed_head = zlib.compress(json.dumps(head).encode(), 9)
    start = bytes([LAYOUT]) + len(packed_head).to_bytes(4, "little")
    return b"".join((start, packed_head, *(packed for _, packed in columns.values()), *digests))


def unpack(block: bytes) -> Quality:
    """Return the numbers of a block that `pack` made. Raises ValueError for an unknown layout."""
    if block[:1] != bytes([LAYOUT]):
        raise ValueError(f"quality: layout {LAYOUT} expected, found {block[:1]!r}")
    at = 5 + int.from_bytes(block[1:5], "little")
    head = json.loads(zlib.decompress(block[5:at]))
    ids, columns = tuple(head["tiles"]), {}
    for name, (how, length) in head["columns"].items():
        if name in UNITS:
            columns[name] = _unpack_column(how, block[at : at + length], name, len(ids))
        at += length
    with_digest = sorted(set(range(len(ids))) - set(head["without_digest"]))
    digests = {
        ids[place]: block[at + number * DIGEST_BYTES : at + (number + 1) * DIGEST_BYTES]
        for number, place in enumerate(with_digest)
    }
    return Quality(TileNumbers.of(ids, columns), SectionNumbers(**head["section"]), head["levels"], digests)


def _is_known(column: Floats) -> bool:
    return not np.isnan(column).all()


def _per_unit(name: str) -> float:
    """Return the number of steps per unit of a column. Dividing by it gives the nearest decimal fraction."""
    return round(1 / UNITS[name].step)


def _pack_column(column: Floats, name: str) -> tuple[dict[str, Any], bytes]:
    """Return the form in which a column is packed, and its bytes: a mask of unknown values, then the values."""
    unknown = np.isnan(column)
    mask = np.packbits(unknown).tobytes() if unknown.any() else b""
    filled = np.where(unknown, column[~unknown][0], column)
    multiples = np.rint(filled * _per_unit(name)) if np.abs(filled).max() < _EXACT else np.full(1, np.inf)
    if np.abs(multiples).max() >= _EXACT:  # no microscope writes such values
        return {"as": "floats", "mask": len(mask)}, zlib.compress(mask + filled.astype("<f8").tobytes())
    whole = multiples.astype(np.int64)
    ways = [("values", whole), ("differences", np.diff(whole, prepend=0))]
    packed = [({"as": way, "mask": len(mask), **how}, raw) for way, each in ways for how, raw in [_planes(each, mask)]]
    return min(packed, key=lambda pair: len(pair[1]))


def _planes(whole: _Whole, mask: bytes) -> tuple[dict[str, int], bytes]:
    low = int(whole.min())
    above = (whole - low).astype(np.uint64)
    width = max(1, (int(above.max()).bit_length() + 7) // 8)
    raw = above.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    return {"low": low, "width": width}, zlib.compress(mask + raw.T.tobytes(), 9)


def _unpack_column(how: Mapping[str, Any], packed: bytes, name: str, count: int) -> Floats:
    raw = zlib.decompress(packed)
    mask, rest = raw[: how["mask"]], np.frombuffer(raw, np.uint8, offset=how["mask"])
    if how["as"] == "floats":
        column = rest.view("<f8").astype(np.float64)
    else:
        planes = np.zeros((count, 8), np.uint8)
        planes[:, : how["width"]] = rest.reshape(how["width"], count).T
        whole = planes.reshape(-1).view("<u8").astype(np.int64) + how["low"]
        column = (np.cumsum(whole) if how["as"] == "differences" else whole) / _per_unit(name)
    if mask:
        column[np.unpackbits(np.frombuffer(mask, np.uint8), count=count).astype(bool)] = np.nan
    return column
