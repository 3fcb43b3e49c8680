"""Packing the numbers of a section into one compressed block, column by column. Pure.

A block of 2,772 tiles has about 100 kB, half of it digests. A column is stored in multiples of its step: either the
values or the differences from tile to tile. The bytes of equal significance are stored together.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

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
    columns = _pack_columns(quality.tiles.columns)
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


def _per_unit(name: str) -> float:
    """Return the number of steps per unit of a column. Dividing by it gives the nearest decimal fraction."""
    return round(1 / UNITS[name].step)


_Packed = tuple[dict[str, Any], bytes]
"""The form in which a column is packed, and its bytes: a mask of unknown values, then the values."""


def _pack_columns(columns: Mapping[str, Floats]) -> dict[str, _Packed]:
    """Return the columns with known values, packed. Computes with all of them at once: most sections are small."""
    names, rows = list(columns), np.stack(list(columns.values()))
    unknown = np.isnan(rows)
    known = np.flatnonzero(~unknown.all(axis=1))
    if not known.size:
        return {}
    names, rows, unknown = [names[place] for place in known], rows[known], unknown[known]
    filled = np.where(unknown, rows[np.arange(len(rows)), (~unknown).argmax(axis=1)][:, None], rows)
    with np.errstate(over="ignore"):  # refused by the limit below
        multiples = np.rint(filled * np.array([_per_unit(name) for name in names])[:, None])
    is_exact = (np.abs(filled).max(axis=1) < _EXACT) & (np.abs(multiples).max(axis=1) < _EXACT)
    whole = np.where(is_exact[:, None], multiples, 0).astype(np.int64)
    differences = whole.copy()
    differences[:, 1:] -= whole[:, :-1]
    ways = [("values", _planes(whole)), ("differences", _planes(differences))]
    packed: dict[str, _Packed] = {}
    for place, name in enumerate(names):
        mask = np.packbits(unknown[place]).tobytes() if unknown[place].any() else b""
        if is_exact[place]:
            packed[name] = _shortest(mask, {way: planes[place] for way, planes in ways})
        else:  # no microscope writes such values
            form, values = {"as": "floats", "mask": len(mask)}, filled[place].astype("<f8").tobytes()
            packed[name] = form, zlib.compress(mask + values)
    return packed


class _Planes(NamedTuple):
    """Integers as their difference from the lowest, in bytes: first the lowest byte of each, then the next one."""

    low: int
    width: int
    """Bytes of an integer."""
    raw: bytes


def _planes(rows: _Whole) -> list[_Planes]:
    """Return the planes of each row."""
    lows = rows.min(axis=1)
    above = (rows - lows[:, None]).astype("<u8")
    each_byte = above.view(np.uint8).reshape(*rows.shape, 8)
    widths = [max(1, (most.bit_length() + 7) // 8) for most in above.max(axis=1).tolist()]
    return [
        _Planes(low, width, one[:, :width].T.tobytes())
        for low, width, one in zip(lows.tolist(), widths, each_byte, strict=True)
    ]


def _shortest(mask: bytes, ways: Mapping[str, _Planes]) -> _Packed:
    """Return the way in which a column is the shortest; the first of equal ones."""
    packed = [
        ({"as": way, "mask": len(mask), "low": each.low, "width": each.width}, zlib.compress(mask + each.raw, 9))
        for way, each in ways.items()
    ]
    return min(packed, key=lambda pair: len(pair[1]))


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
