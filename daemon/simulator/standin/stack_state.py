"""Change a stack's state, and derive the statistics and section data of a COMPLETE stack. Pure."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from daemon.simulator.standin.json_types import BOUNDS, Json, Refusal, timestamp
from daemon.simulator.standin.store import Stack, State

_LEGAL_CHANGES: Mapping[State, frozenset[State]] = {
    State.LOADING: frozenset({State.COMPLETE}),
    State.COMPLETE: frozenset(State),
    State.READ_ONLY: frozenset({State.COMPLETE, State.OFFLINE}),
    State.OFFLINE: frozenset({State.COMPLETE}),  # fails then, since the stack has no tiles
}


def set_state(stack: Stack, wanted: State) -> bool:
    """Change the state. Raises Refusal for a change that render-ws does not allow.

    Returns
    -------
    bool
        Whether a derivation must follow: the stack is COMPLETE only after `finish_derivation`.
    """
    if stack.state is wanted and wanted is not State.COMPLETE:
        return False
    if wanted not in _LEGAL_CHANGES[stack.state]:
        raise Refusal(
            400,
            f"The {stack.key.stack} stack's state is currently {stack.state} and must first be transitioned to "
            f"COMPLETE before transitioning it to {wanted}.",
        )
    if wanted is State.COMPLETE and stack.state is not State.READ_ONLY:
        return True
    if wanted is State.LOADING:
        stack.stats, stack.version_number = None, stack.version_number + 1
    if wanted is State.OFFLINE:
        stack.tiles, stack.transforms, stack.section_data = {}, {}, None
    if wanted in (State.LOADING, State.OFFLINE):
        stack.modified = timestamp()
    stack.state = wanted
    return False


@dataclass(frozen=True, slots=True)
class Derivation:
    """Derived values, and the metadata at the start of the derivation."""

    stats: Json
    section_data: list[Json]
    version: Json
    version_number: int
    was_complete: bool


def begin_derivation(stack: Stack) -> Derivation:
    """Derive values from the current tiles and metadata. Raises Refusal for a stack without tiles."""
    if not stack.tiles:
        stack.section_data = []
        raise Refusal(
            500,
            "Stack data aggregation returned no results because the stack has no tiles.  "
            f"The aggregation query was render.{stack.key.collection}tile.aggregate([...]) .",
        )
    return Derivation(
        stats=_stats(stack),
        section_data=section_data(stack.tiles.values()),
        version=copy.deepcopy(stack.version),
        version_number=stack.version_number,
        was_complete=stack.state is State.COMPLETE,
    )


def finish_derivation(stack: Stack, derived: Derivation) -> None:
    """Save the derived values, and overwrite the metadata with those at the start of the derivation."""
    stack.stats, stack.section_data = derived.stats, derived.section_data
    stack.version, stack.version_number = derived.version, derived.version_number
    stack.state = State.COMPLETE
    if not derived.was_complete:
        stack.modified = timestamp()


def bounds_of(tiles: Iterable[Json]) -> Json:
    """Return the box around tiles, pixels."""
    boxes = [tuple(tile[key] for key in BOUNDS) for tile in tiles]
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return {"minX": min(x1), "minY": min(y1), "maxX": max(x2), "maxY": max(y2)}


def section_data(tiles: Iterable[Json]) -> list[Json]:
    """Return a row for every (section id, z). Tiles without a section id or z are omitted."""
    sections: dict[tuple[str, float], list[Json]] = {}
    for tile in tiles:
        section_id, z = tile.get("layout", {}).get("sectionId"), tile.get("z")
        if section_id is not None and z is not None:
            sections.setdefault((section_id, z), []).append(tile)
    return [
        {"sectionId": section_id, "z": z, "tileCount": len(members), **bounds_of(members)}
        for (section_id, z), members in sections.items()
    ]


def _stats(stack: Stack) -> Json:
    tiles = list(stack.tiles.values())
    zs = {tile["z"] for tile in tiles if "z" in tile}
    widths = [int(tile["maxX"] - tile["minX"]) for tile in tiles]
    heights = [int(tile["maxY"] - tile["minY"]) for tile in tiles]
    box = bounds_of(tiles)
    return {
        "stackBounds": {
            "minX": box["minX"],
            "minY": box["minY"],
            "minZ": min(zs, default=0.0),
            "maxX": box["maxX"],
            "maxY": box["maxY"],
            "maxZ": max(zs, default=0.0),
        },
        "sectionCount": len(zs),
        "nonIntegralSectionCount": sum(not z.is_integer() for z in zs),
        "tileCount": len(tiles),
        "transformCount": len(stack.transforms),
        "minTileWidth": min(widths),
        "maxTileWidth": max(widths),
        "minTileHeight": min(heights),
        "maxTileHeight": max(heights),
        "channelNames": sorted({one["name"] for tile in tiles for one in tile.get("channels", ()) if "name" in one}),
    }
