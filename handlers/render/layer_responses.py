"""Parsers of the answers that grow with the number of tiles or layers. Pure.

Every value that temwatch reads is checked for its type; unknown fields are kept as they are.

A layer of 20,000 tiles is 28 MB of JSON. Every JSON library holds the interpreter's lock while it parses a body, which
stops the event loop even if another thread parses. So a body is first split into its tiles, which takes 11 ms, and then
each tile is decoded separately (docs/decisions/event-loop.md).
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

_SPEC = msgspec.json.Decoder(dict[str, Any])
MAX_DEPTH = 100
"""Limit of nesting: specs are processed by recursive functions, which Python limits to about 1000 calls."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class TileBounds(msgspec.Struct, frozen=True, rename="camel"):
    """One tile of a layer in a list of tileBounds; its bounds are not read."""

    tile_id: str
    z: float
    section_id: str | None = None


class SectionData(msgspec.Struct, frozen=True, rename="camel"):
    """Tiles of one (section id, z), as derived when the stack was last completed."""

    z: float
    tile_count: int
    section_id: str | None = None


class _Level(msgspec.Struct, rename="camel"):
    image_url: str | None = None
    mask_url: str | None = None


class _Transform(msgspec.Struct, rename="camel"):
    type: str | None = None
    ref_id: str | None = None
    spec_list: list["_Transform"] | None = None
    a: "_Transform | None" = None
    b: "_Transform | None" = None


class _Channel(msgspec.Struct, rename="camel"):
    mipmap_levels: dict[int, _Level | None] | None = None
    max_intensity: float | None = None


class _TileSpec(_Channel, rename="camel"):
    """The values of a tile spec that temwatch reads."""

    tile_id: str | None = None
    z: float | None = None
    width: float | None = None
    height: float | None = None
    layout: dict[str, Any] | None = None
    channels: list[_Channel] | None = None
    transforms: _Transform | None = None


@dataclass(frozen=True, slots=True)
class ResolvedTiles:
    """Tiles and the shared transforms that they refer to, as JSON, so that a round trip loses no field."""

    tile_id_to_spec_map: dict[str, dict[str, Any]]
    transform_id_to_spec_map: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return both maps under the names that render-ws uses."""
        return {
            "tileIdToSpecMap": self.tile_id_to_spec_map,
            "transformIdToSpecMap": self.transform_id_to_spec_map,
        }


def release(*collections: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Empty collections of tile specs one spec at a time. Call it in a thread.

    Python frees an unreferenced collection in one step, and holds the interpreter's lock meanwhile: 30 ms for 20,000
    tile specs.
    """
    for collection in collections:
        while collection:
            if isinstance(collection, dict):
                collection.popitem()
            else:
                collection.pop()


class _Split(msgspec.Struct, rename="camel"):
    """The answer to resolvedTiles; its specs are not decoded yet."""

    tile_id_to_spec_map: dict[str, msgspec.Raw]
    transform_id_to_spec_map: dict[str, msgspec.Raw] = {}


_SPLIT = msgspec.json.Decoder(_Split)


class _ResolvedTilesReader:
    """Parser of the body of resolvedTiles."""

    def validate_json(self, body: bytes) -> ResolvedTiles:
        """Return the tiles and transforms. Raises msgspec.DecodeError."""
        split = _SPLIT.decode(body)
        return ResolvedTiles(
            {name: _checked(spec, _TileSpec) for name, spec in split.tile_id_to_spec_map.items()},
            {name: _checked(spec, _Transform) for name, spec in split.transform_id_to_spec_map.items()},
        )


def _checked(spec: msgspec.Raw | bytes, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Return a spec as JSON. Raises msgspec.DecodeError if a value that temwatch reads has another type."""
    text = bytes(spec)
    if text.count(b"{") + text.count(b"[") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise msgspec.ValidationError(f"is nested more than {MAX_DEPTH} deep")
    values = _SPEC.decode(spec)
    msgspec.convert(values, kind, str_keys=True)  # half the time of parsing the JSON again
    return values


def _depth(text: bytes) -> int:
    """Return the depth of nesting of JSON, or 0 for few brackets. Brackets in texts count, too; no tile spec has any.

    >>> _depth(b'{"a": [1, [2]]}') < MAX_DEPTH < _depth(b"[" * 101 + b"]" * 101)
    True
    """
    depth = deepest = 0
    for bracket in text.translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


class _TileReader:
    """Parser of one tile spec."""

    def validate_json(self, body: bytes) -> dict[str, Any]:
        """Return the tile spec. Raises msgspec.DecodeError."""
        return _checked(body, _TileSpec)


class _ListReader(Generic[T]):
    """Parser of a JSON list of records."""

    def __init__(self, kind: type[T]) -> None:
        self._list = msgspec.json.Decoder(list[msgspec.Raw])
        self._record = msgspec.json.Decoder(kind)

    def validate_json(self, body: bytes) -> tuple[T, ...]:
        """Return the records, in order. Raises msgspec.DecodeError."""
        return tuple([self._record.decode(record) for record in self._list.decode(body)])


RESOLVED_TILES = _ResolvedTilesReader()
TILE = _TileReader()
SECTION_DATA = _ListReader(SectionData)
Z_VALUES = _ListReader(float)
TILE_BOUNDS = _ListReader(TileBounds)
