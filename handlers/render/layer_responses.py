"""Parsers of the answers that grow with the number of tiles: tile specs and tile bounds. Pure.

A layer of 20,000 tiles is 28 MB of JSON. Every JSON library holds the interpreter's lock while it parses a body, which
stops the event loop even if another thread parses. So a body is first split into its tiles, which takes 11 ms, and then
each tile is decoded separately (docs/decisions/event-loop.md).
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

_SPEC = msgspec.json.Decoder(dict[str, Any])


class TileBounds(msgspec.Struct, frozen=True, rename="camel"):
    """One tile of a layer, as tileBounds lists it; its bounds are not read."""

    tile_id: str
    z: float
    section_id: str | None = None


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

    Python frees an unreferenced collection in one step, with the interpreter's lock held: 30 ms for 20,000 tile specs.
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
        return ResolvedTiles(_specs(split.tile_id_to_spec_map), _specs(split.transform_id_to_spec_map))


def _specs(split: dict[str, msgspec.Raw]) -> dict[str, dict[str, Any]]:
    return {name: _SPEC.decode(spec) for name, spec in split.items()}


class _ListReader(Generic[T]):
    """Parser of a JSON list of records."""

    def __init__(self, kind: type[T]) -> None:
        self._list = msgspec.json.Decoder(list[msgspec.Raw])
        self._record = msgspec.json.Decoder(kind)

    def validate_json(self, body: bytes) -> tuple[T, ...]:
        """Return the records, in order. Raises msgspec.DecodeError."""
        return tuple([self._record.decode(record) for record in self._list.decode(body)])


RESOLVED_TILES = _ResolvedTilesReader()
TILE_BOUNDS = _ListReader(TileBounds)
