"""What the stand-in for render-ws remembers, and the rules by which it changes. Pure.

Rules, texts and status codes are those of render-ws (saalfeldlab/render 4.0): stack states, replacement by tileId,
statistics and section data derived by COMPLETE alone. Several rules are traps, kept on purpose: a POST drops what was
said before, a derivation writes back the metadata as they were when it began.
"""

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from daemon.simulator.standin_specs import (
    BOUNDS,
    Json,
    Refusal,
    all_references,
    derive_bounds,
    flattened,
    require_references,
    timestamp,
)

MOST_NAME_CHARACTERS = 96
"""Owner, project and stack together."""
MOST_TILES_READ = 50_000
_LEGAL_NAME = re.compile(r"[a-zA-Z0-9]+(_[a-zA-Z0-9]+)*")


class State(StrEnum):
    """States of a stack."""

    LOADING = "LOADING"
    COMPLETE = "COMPLETE"
    READ_ONLY = "READ_ONLY"
    OFFLINE = "OFFLINE"


@dataclass(frozen=True, slots=True, order=True)
class StackKey:
    """The full name of a stack, checked. Raises Refusal for a name that render-ws refuses."""

    owner: str
    project: str
    stack: str

    def __post_init__(self) -> None:
        for kind, name in (("owner", self.owner), ("project", self.project), ("stack", self.stack)):
            if not _LEGAL_NAME.fullmatch(name):
                raise Refusal(
                    400,
                    f"invalid {kind} '{name}' specified, names may only contain alphanumeric or underscore '_' "
                    "characters and may not contain consecutive underscores '_'",
                )
        if len(self.owner) + len(self.project) + len(self.stack) > MOST_NAME_CHARACTERS:
            raise Refusal(400, f"collection name '{self.collection}transform' must be less than 111 characters")

    @property
    def collection(self) -> str:
        """How the names of its database collections begin."""
        return f"{self.owner}__{self.project}__{self.stack}__"

    def __str__(self) -> str:
        """As render-ws names it in its texts."""
        return f"stack with owner '{self.owner}', project '{self.project}', and name '{self.stack}'"

    def to_json(self) -> Json:
        """A StackId."""
        return {"owner": self.owner, "project": self.project, "stack": self.stack}


@dataclass(slots=True)
class Stack:
    """One stack with its tiles."""

    key: StackKey
    version: Json
    version_number: int = 0
    state: State = State.LOADING
    modified: str = field(default_factory=timestamp)
    stats: Json | None = None
    section_data: list[Json] | None = None
    """As derived last: stays, and goes stale, when the stack is reopened. None if nothing was ever derived."""
    tiles: dict[str | None, Json] = field(default_factory=dict)
    """By tileId; render-ws stores one tile without an id, too."""
    transforms: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> Json:
        """StackMetaData."""
        meta: Json = {
            "stackId": self.key.to_json(),
            "state": self.state,
            "lastModifiedTimestamp": self.modified,
            "currentVersionNumber": self.version_number,
            "currentVersion": self.version,
        }
        return meta if self.stats is None else {**meta, "stats": self.stats}

    def to_record(self) -> Json:
        """All of the stack, tiles included, as JSON that `from_record` reads."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "key": self.key.to_json(), "tiles": list(self.tiles.values())}

    @classmethod
    def from_record(cls, record: Json) -> "Stack":
        """The stack of a record."""
        tiles = {tile.get("tileId"): tile for tile in record["tiles"]}
        key, state = StackKey(**record["key"]), State(record["state"])
        return cls(**{**record, "key": key, "state": state, "tiles": tiles})


class Store:
    """All stacks."""

    def __init__(self, records: Iterable[Json] = ()) -> None:
        stacks = map(Stack.from_record, records)
        self._stacks: dict[StackKey, Stack] = {stack.key: stack for stack in stacks}

    def to_records(self) -> list[Json]:
        """All stacks, as JSON that makes the same store again."""
        return [stack.to_record() for stack in self._stacks.values()]

    def listed(self, owner: str | None = None, project: str | None = None) -> list[Stack]:
        """Stacks of an owner and project: by project, then cycle and time of change, the latest first."""
        stacks = [
            stack
            for key, stack in self._stacks.items()
            if owner in (None, key.owner) and project in (None, key.project)
        ]
        stacks.sort(key=_cycle_and_change, reverse=True)
        return sorted(stacks, key=lambda stack: stack.key.project)

    def find(self, key: StackKey) -> Stack | None:
        """The stack, if there is one."""
        return self._stacks.get(key)

    def stack(self, key: StackKey) -> Stack:
        """The stack. Raises Refusal, 404 in plain text, if there is none."""
        found = self._stacks.get(key)
        if found is None:
            raise Refusal(404, f"{key} does not exist")
        return found

    def save_version(self, key: StackKey, version: Json) -> None:
        """A new stack; or a new version of one, which keeps its tiles and forgets the rest."""
        stack = self._stacks.get(key)
        if stack is None:
            self._stacks[key] = Stack(key, version)
            return
        require_modifiable(stack)
        stack.version, stack.version_number = version, stack.version_number + 1
        stack.state, stack.stats, stack.modified = State.LOADING, None, timestamp()

    def delete(self, key: StackKey) -> None:
        """Delete the stack; that there is none is no fault."""
        stack = self._stacks.get(key)
        if stack is not None:
            require_modifiable(stack)
            del self._stacks[key]

    def rename(self, stack: Stack, key: StackKey) -> None:
        """Give the stack another name."""
        if stack.state in (State.READ_ONLY, State.OFFLINE):
            raise Refusal(400, f"stack {stack.key.stack} cannot be renamed because its state is {stack.state}")
        if key in self._stacks:
            raise Refusal(400, f"stack {key.collection.rstrip('_')} already exists")
        del self._stacks[stack.key]
        stack.key = key
        self._stacks[key] = stack

    def clone(self, source: Stack, key: StackKey, version: Json, zs: Sequence[float], *, transforms: bool) -> None:
        """Copy the tiles, of some z if any are given, to a new stack or into a LOADING one; no metadata."""
        target = self._stacks.get(key)
        if target is not None and target.state is not State.LOADING:
            raise Refusal(500, f"Tiles cannot be cloned to stack {key.stack} because its state is {target.state}.")
        tiles = {tile_id: tile for tile_id, tile in source.tiles.items() if not zs or tile.get("z") in zs}
        copied = {} if not transforms else source.transforms
        if target is not None and (target.tiles.keys() & tiles or target.transforms.keys() & copied):
            raise Refusal(500, "E11000 duplicate key error collection")
        fresh = Stack(key, version)
        fresh.tiles = {**(target.tiles if target else {}), **copy.deepcopy(tiles)}
        fresh.transforms = {**(target.transforms if target else {}), **copy.deepcopy(copied)}
        self._stacks[key] = fresh


def _cycle_and_change(stack: Stack) -> tuple[int, int, str]:
    return (stack.version.get("cycleNumber", 0), stack.version.get("cycleStepNumber", 0), stack.modified)


def require_modifiable(stack: Stack) -> None:
    """Refuse to change a READ_ONLY stack; with 500, as render-ws answers all that its state forbids."""
    if stack.state is State.READ_ONLY:
        raise Refusal(500, f"Data for stack {stack.key.stack} cannot be modified because it is READ_ONLY.")


# -- states ----------------------------------------------------------------------------------------------------------

_LEGAL_CHANGES: Mapping[State, frozenset[State]] = {
    State.LOADING: frozenset({State.COMPLETE}),
    State.COMPLETE: frozenset(State),
    State.READ_ONLY: frozenset({State.COMPLETE, State.OFFLINE}),
    State.OFFLINE: frozenset({State.COMPLETE}),  # and then fails for want of tiles
}


def set_state(stack: Stack, wanted: State) -> bool:
    """Change the state, if it may be changed.

    Returns
    -------
    bool
        True if the stack has to be derived first, and is COMPLETE only after `finish_derivation`.
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
    """What COMPLETE derives, and the metadata as they were when it began."""

    stats: Json
    section_data: list[Json]
    version: Json
    version_number: int
    was_complete: bool


def begin_derivation(stack: Stack) -> Derivation:
    """Look at tiles and metadata as they are now: what is written later is missed."""
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
    """Save what was derived, over whatever the metadata have become meanwhile."""
    stack.stats, stack.section_data = derived.stats, derived.section_data
    stack.version, stack.version_number = derived.version, derived.version_number
    stack.state = State.COMPLETE
    if not derived.was_complete:
        stack.modified = timestamp()


def bounds_of(tiles: Iterable[Json]) -> Json:
    """The box around tiles."""
    boxes = [tuple(tile[key] for key in BOUNDS) for tile in tiles]
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return {"minX": min(x1), "minY": min(y1), "maxX": max(x2), "maxY": max(y2)}


def section_data(tiles: Iterable[Json]) -> list[Json]:
    """Return a row for every (section id, z). Tiles without a section id or a z are in none."""
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


# -- writing and deleting tiles --------------------------------------------------------------------------------------


def require_loading_for_upload(stack: Stack) -> None:
    """Refuse tiles for a stack that is closed; with 500."""
    if stack.state is not State.LOADING:
        raise Refusal(
            500,
            "Resolved tiles can only be saved to stacks in the LOADING state, "
            f"but this stack's state is {stack.state}.",
        )


def check_upload(tiles: Sequence[Json], transforms: Mapping[str, Json], z: float | None, *, derive: bool) -> None:
    """Derive the tiles' bounds if asked to, and refuse an upload that cannot be stored; z for the layer it goes to."""
    if derive:
        for tile in tiles:
            require_references(tile, transforms)
            derive_bounds(tile, transforms)
    if not tiles:
        raise Refusal(400, "collection does not have any tiles (maybe they were removed by a prior validation process)")
    for tile in tiles:
        if any(key not in tile for key in BOUNDS):
            raise Refusal(
                400,
                f"tile with id '{tile.get('tileId')}' is missing bounding box attributes "
                "(minX, minY, maxX, and/or maxY)",
            )
        if z is not None and tile.get("z") != z:
            raise Refusal(
                400,
                f"all tiles must have a z value of {z} but tile with id '{tile.get('tileId')}' "
                f"has a z value of {tile.get('z', 'null')}",
            )
    for tile in tiles:
        require_references(tile, transforms)


def save_upload(stack: Stack, tiles: Iterable[Json], transforms: Mapping[str, Json]) -> None:
    """Replace or add tiles by id, and transforms."""
    stack.transforms.update(transforms)
    stack.tiles.update((tile.get("tileId"), tile) for tile in tiles)


def require_loading_for_deletion(stack: Stack) -> None:
    """Refuse to delete tiles of a stack that is closed; with 400."""
    if stack.state is not State.LOADING:
        raise Refusal(400, f"stack state is {stack.state} but must be LOADING to delete data")


def delete_tiles(stack: Stack, tiles: Iterable[Json]) -> None:
    """Delete tiles of the stack."""
    for tile in tiles:
        stack.tiles.pop(tile.get("tileId"), None)


def move_tiles(stack: Stack, tiles: Iterable[Json], z: float) -> None:
    """Give tiles of the stack another z; their section id stays."""
    if stack.state is not State.LOADING:
        raise Refusal(
            500, f"Tile z values can only be updated for stacks in the LOADING state, this one is {stack.state}."
        )
    for tile in tiles:
        tile["z"] = z


# -- reading tiles ---------------------------------------------------------------------------------------------------


def tiles_at(stack: Stack, z: float) -> list[Json]:
    """Tiles of exactly this z, by id."""
    return by_id(tile for tile in stack.tiles.values() if tile.get("z") == z)


def require_tile_collection(stack: Stack) -> None:
    """Refuse to list tiles of an OFFLINE stack, whose collection was dropped; with 404."""
    if stack.state is State.OFFLINE:
        raise Refusal(404, f"{stack.key} does not exist")


def tiles_of_section(stack: Stack, section_id: str) -> list[Json]:
    """Tiles of exactly this section id, by id."""
    return by_id(tile for tile in stack.tiles.values() if tile.get("layout", {}).get("sectionId") == section_id)


def by_id(tiles: Iterable[Json]) -> list[Json]:
    """Tiles in the order of their ids."""
    return sorted(tiles, key=lambda tile: tile.get("tileId") or "")


def tile_of(stack: Stack, tile_id: str) -> Json:
    """The tile. Raises Refusal, 404, if there is none."""
    if tile_id not in stack.tiles:
        raise Refusal(
            404, f"tile spec with id '{tile_id}' does not exist in the render.{stack.key.collection}tile collection"
        )
    return stack.tiles[tile_id]


def transform_of(stack: Stack, transform_id: str) -> Json:
    """The shared transform. Raises Refusal, 404, if there is none."""
    if transform_id not in stack.transforms:
        raise Refusal(404, f"transform spec with id '{transform_id}' does not exist in the {stack.key}")
    return stack.transforms[transform_id]


def resolved(stack: Stack, tiles: Sequence[Json]) -> Json:
    """Tiles with the shared transforms that they refer to, references left as they are."""
    _require_few(tiles)
    needed = all_references((tile["transforms"] for tile in tiles), stack.transforms)
    return {
        "transformIdToSpecMap": {name: stack.transforms[name] for name in sorted(needed) if name in stack.transforms},
        "tileIdToSpecMap": {str(tile.get("tileId")): tile for tile in tiles},
    }


def with_flattened_transforms(stack: Stack, tiles: Sequence[Json]) -> list[Json]:
    """Tiles that carry all their transforms themselves. To write them back would lose the references."""
    _require_few(tiles)
    return [
        {**tile, "transforms": {"type": "list", "specList": flattened(tile["transforms"], stack.transforms)}}
        for tile in tiles
    ]


def _require_few(tiles: Sequence[Json]) -> None:
    if len(tiles) > MOST_TILES_READ:
        raise Refusal(400, f"query too broad, over {MOST_TILES_READ + 1} tiles match")


def tile_bounds(tile: Json) -> Json:
    """A row of tileBounds."""
    row = {key: tile.get(key) for key in (*BOUNDS, "tileId", "z")}
    return without_nulls({**row, "sectionId": tile.get("layout", {}).get("sectionId")})


def without_nulls(row: Json) -> Json:
    """The row as render-ws's JSON writes it."""
    return {key: value for key, value in row.items() if value is not None}
