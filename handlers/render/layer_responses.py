"""The answers that grow with a layer's tiles, read: tile specs and tile bounds. Pure.

A layer of 20,000 tiles is 28 MB of JSON. Every JSON library holds the interpreter's lock while it reads a body, which
stops the event loop even when the body is read in another thread. So a body is first split into its tiles, which takes
11 ms, and each tile is then decoded by itself (docs/decisions/event-loop.md).
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")

_SPEC = msgspec.json.Decoder(dict[str, Any])


class TileBounds(msgspec.Struct, frozen=True, rename="camel"):
    """One tile of a layer as tileBounds lists it; positions in level-0 pixels of the layer."""

    tile_id: str
    z: float
    section_id: str | None = None
    min_x: float | None = None
    min_y: float | None = None
    max_x: float | None = None
    max_y: float | None = None


@dataclass(frozen=True, slots=True)
class ResolvedTiles:
    """Tiles and the shared transforms that they refer to, as JSON, so that nothing is lost on the way back."""

    tile_id_to_spec_map: dict[str, dict[str, Any]]
    transform_id_to_spec_map: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Both maps under render-ws's names."""
        return {
            "tileIdToSpecMap": self.tile_id_to_spec_map,
            "transformIdToSpecMap": self.transform_id_to_spec_map,
        }


def release(*collections: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Empty collections of tile specs one spec at a time, to be called in a thread.

    Python frees a collection that nobody needs any more in one go, with the interpreter's lock held: 30 ms for 20,000
    tile specs.
    """
    for collection in collections:
        while collection:
            if isinstance(collection, dict):
                collection.popitem()
            else:
                collection.pop()


class _Split(msgspec.Struct, rename="camel"):
    """The answer to resolvedTiles, its specs not decoded yet."""

    tile_id_to_spec_map: dict[str, msgspec.Raw]
    transform_id_to_spec_map: dict[str, msgspec.Raw] = {}


_SPLIT = msgspec.json.Decoder(_Split)


class _ResolvedTilesReader:
    """Reads the body of resolvedTiles."""

    def validate_json(self, body: bytes) -> ResolvedTiles:
        """The tiles and transforms. Raises msgspec.DecodeError."""
        split = _SPLIT.decode(body)
        return ResolvedTiles(_specs(split.tile_id_to_spec_map), _specs(split.transform_id_to_spec_map))


def _specs(split: dict[str, msgspec.Raw]) -> dict[str, dict[str, Any]]:
    return {name: _SPEC.decode(spec) for name, spec in split.items()}


class _ListReader(Generic[T]):
    """Reads a JSON list of records."""

    def __init__(self, kind: type[T]) -> None:
        self._list = msgspec.json.Decoder(list[msgspec.Raw])
        self._one = msgspec.json.Decoder(kind)

    def validate_json(self, body: bytes) -> tuple[T, ...]:
        """The records, in order. Raises msgspec.DecodeError."""
        return tuple([self._one.decode(record) for record in self._list.decode(body)])


RESOLVED_TILES = _ResolvedTilesReader()
TILE_BOUNDS = _ListReader(TileBounds)
