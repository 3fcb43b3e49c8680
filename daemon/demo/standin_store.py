"""What the stand-in for render-ws remembers, and the rules by which it changes. Pure.

Rules, texts and status codes are those of render-ws (saalfeldlab/render, 4.0): stack states, upsert by tileId, bounds
by truncation toward zero, statistics and section data derived by COMPLETE alone.
"""

import copy
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]

LEGAL_NAME = re.compile(r"[a-zA-Z0-9]+(_[a-zA-Z0-9]+)*")
MOST_NAME_CHARACTERS = 96
MOST_TILES_READ = 50_000
STATES = ("LOADING", "COMPLETE", "READ_ONLY", "OFFLINE")
AFFINE_MODELS = frozenset({"mpicbg.trakem2.transform.AffineModel2D", "mpicbg.trakem2.transform.TranslationModel2D"})
_VERSION_FIELDS = (
    "createTimestamp",
    "versionNotes",
    "cycleNumber",
    "cycleStepNumber",
    "stackResolutionX",
    "stackResolutionY",
    "stackResolutionZ",
    "materializedBoxRootPath",
    "mipmapPathBuilder",
    "alignmentQuality",
    "defaultChannel",
)
_TILE_FIELDS = (
    "tileId",
    "layout",
    "groupId",
    "z",
    "minX",
    "minY",
    "maxX",
    "maxY",
    "width",
    "height",
    "minIntensity",
    "maxIntensity",
    "channels",
    "mipmapLevels",
    "transforms",
    "meshCellSize",
    "labels",
)
_LAYOUT_FIELDS = (
    "sectionId",
    "temca",
    "camera",
    "imageRow",
    "imageCol",
    "stageX",
    "stageY",
    "rotation",
    "pixelsize",
    "distanceZ",
)
_TIMESTAMP = "%Y-%m-%dT%H:%M:%S.%f"


class Refusal(Exception):  # noqa: N818  an answer, not an error of the stand-in
    """An answer other than success: its status and text, text/plain as the application gives, or text/html."""

    def __init__(self, status: int, text: str, *, html: bool = False) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.html = html


def timestamp(moment: datetime | None = None) -> str:
    """A time as render-ws writes it: UTC, three digits of a second."""
    return f"{(moment or datetime.now(UTC)).strftime(_TIMESTAMP)[:-3]}Z"


@dataclass(slots=True)
class Stack:
    """One stack with its tiles."""

    owner: str
    project: str
    name: str
    version: Json
    version_number: int = 0
    state: str = "LOADING"
    modified: str = field(default_factory=timestamp)
    stats: Json | None = None
    section_data: list[Json] | None = None
    """As derived last: it goes stale when the stack is reopened, and stays."""
    tiles: dict[str, Json] = field(default_factory=dict)
    transforms: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> Json:
        """StackMetaData, nulls left out."""
        meta: Json = {
            "stackId": {"owner": self.owner, "project": self.project, "stack": self.name},
            "state": self.state,
            "lastModifiedTimestamp": self.modified,
            "currentVersionNumber": self.version_number,
            "currentVersion": {key: value for key, value in self.version.items() if value is not None},
        }
        return meta if self.stats is None else {**meta, "stats": self.stats}

    def of_z(self, z: float) -> list[Json]:
        """Tiles at a z, exactly, by tileId."""
        return [self.tiles[tile_id] for tile_id in sorted(self.tiles) if self.tiles[tile_id].get("z") == z]


class Store:
    """All stacks. Every method answers with JSON values, or raises Refusal."""

    def __init__(self) -> None:
        self._stacks: dict[tuple[str, str, str], Stack] = {}

    # --- stacks

    def stacks(self, owner: str | None = None, project: str | None = None) -> list[Stack]:
        """Stacks of an owner and project, sorted."""
        return [
            stack
            for key, stack in sorted(self._stacks.items())
            if owner in (None, key[0]) and project in (None, key[1])
        ]

    def stack(self, owner: str, project: str, name: str) -> Stack:
        """The stack, or 404."""
        check_names(owner, project, name)
        found = self._stacks.get((owner, project, name))
        if found is None:
            raise Refusal(404, f"stack with owner '{owner}', project '{project}', and name '{name}' does not exist")
        return found

    def save_version(self, owner: str, project: str, name: str, version: Json | None) -> None:
        """POST of a StackVersion: a new stack, or a new version of one, whose tiles stay and whose state is LOADING."""
        check_names(owner, project, name)
        if version is None:
            raise Refusal(400, "no stack version provided")
        known = {key: value for key, value in version.items() if key in _VERSION_FIELDS}
        check_create_timestamp(known.get("createTimestamp"))
        stack = self._stacks.get((owner, project, name))
        if stack is None:
            self._stacks[owner, project, name] = Stack(owner, project, name, known)
            return
        require_modifiable(stack)
        stack.version, stack.version_number = known, stack.version_number + 1
        stack.state, stack.stats, stack.modified = "LOADING", None, timestamp()

    def delete(self, owner: str, project: str, name: str) -> None:
        """DELETE of a stack; a missing one is no fault."""
        check_names(owner, project, name)
        stack = self._stacks.get((owner, project, name))
        if stack is not None:
            require_modifiable(stack)
            del self._stacks[owner, project, name]

    def rename(self, stack: Stack, target: Json) -> None:
        """PUT of a StackId."""
        key = (target.get("owner"), target.get("project"), target.get("stack"))
        if not all(isinstance(part, str) for part in key):
            raise Refusal(400, "no stack id provided")
        owner, project, name = (str(part) for part in key)
        if stack.state in ("READ_ONLY", "OFFLINE"):
            raise Refusal(400, f"The {stack.name} stack cannot be renamed because its state is {stack.state}.")
        if (owner, project, name) in self._stacks:
            raise Refusal(400, f"stack {name} already exists")
        del self._stacks[stack.owner, stack.project, stack.name]
        stack.owner, stack.project, stack.name = owner, project, name
        self._stacks[owner, project, name] = stack


def check_names(owner: str, project: str, name: str) -> None:
    """Refuses names that render-ws refuses."""
    for kind, value in (("owner", owner), ("project", project), ("stack", name)):
        if not LEGAL_NAME.fullmatch(value):
            raise Refusal(
                400, f"invalid {kind} '{value}' specified, names may only contain alphanumeric or underscore characters"
            )
    if len(owner) + len(project) + len(name) > MOST_NAME_CHARACTERS:
        raise Refusal(400, f"collection name {owner}__{project}__{name}__transform must be less than 111 characters")


def check_create_timestamp(value: Any) -> None:
    """Refuses a creation time in another form than render-ws parses. Milliseconds since 1970 are taken too."""
    if value is None or isinstance(value, int):
        return
    if not isinstance(value, str) or not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", value):
        raise Refusal(400, f'Can not deserialize value of type java.util.Date from "{value}"', html=True)


def require_modifiable(stack: Stack) -> None:
    """Refuses to change a READ_ONLY stack; as 500, since render-ws maps an illegal state to that."""
    if stack.state == "READ_ONLY":
        raise Refusal(500, f"Data for stack {stack.name} cannot be modified because it is READ_ONLY.")


# --- states


def set_state(stack: Stack, wanted: str) -> bool:
    """Changes the state; True if the stack now has to be derived, and is COMPLETE only after `finish_derivation`."""
    if wanted not in STATES:
        raise Refusal(404, f"RESTEASY003870: Unable to extract parameter from http request: {wanted}", html=True)
    if stack.state == wanted and wanted != "COMPLETE":
        return False
    _check_change(stack, wanted)
    if wanted == "COMPLETE" and stack.state != "READ_ONLY":
        if not stack.tiles:
            stack.section_data = []
            raise Refusal(
                500,
                "Stack data aggregation returned no results because the stack has no tiles.  "
                f"Stack data is for {stack.owner}, {stack.project}, {stack.name}.",
            )
        return True
    if wanted == "LOADING":
        stack.stats, stack.version_number, stack.modified = None, stack.version_number + 1, timestamp()
    if wanted == "OFFLINE":
        stack.tiles, stack.transforms, stack.section_data, stack.modified = {}, {}, None, timestamp()
    stack.state = wanted
    return False


def _check_change(stack: Stack, wanted: str) -> None:
    if stack.state == "OFFLINE" and wanted == "COMPLETE":
        raise Refusal(400, "cannot set stats for OFFLINE stack")
    legal = {
        "LOADING": {"COMPLETE"},
        "COMPLETE": {"LOADING", "COMPLETE", "READ_ONLY", "OFFLINE"},
        "READ_ONLY": {"COMPLETE", "OFFLINE"},
        "OFFLINE": set[str](),
    }
    if wanted not in legal[stack.state]:
        raise Refusal(
            400,
            f"The {stack.name} stack's state is currently {stack.state} and must first be transitioned to COMPLETE "
            f"before transitioning it to {wanted}.",
        )


@dataclass(frozen=True, slots=True)
class Derivation:
    """What COMPLETE computes, with the metadata as they were when it began: its end overwrites later changes."""

    stats: Json
    section_data: list[Json]
    version: Json
    version_number: int
    was_loading: bool


def begin_derivation(stack: Stack) -> Derivation:
    """Reads the tiles and the metadata as they are now; a write that comes later is missed."""
    sections: dict[tuple[Any, Any], list[Json]] = {}
    for tile in stack.tiles.values():
        sections.setdefault((tile.get("layout", {}).get("sectionId"), tile.get("z")), []).append(tile)
    data = [section_data(section, z, tiles) for (section, z), tiles in sections.items()]
    return Derivation(
        stats=_stats(stack, data),
        section_data=data,
        version=copy.deepcopy(stack.version),
        version_number=stack.version_number,
        was_loading=stack.state == "LOADING",
    )


def finish_derivation(stack: Stack, derived: Derivation) -> None:
    """Writes what was derived, over whatever the metadata have become."""
    stack.stats, stack.section_data = derived.stats, derived.section_data
    stack.version, stack.version_number = derived.version, derived.version_number
    stack.state = "COMPLETE"
    if derived.was_loading:
        stack.modified = timestamp()


def section_data(section_id: Any, z: Any, tiles: list[Json]) -> Json:
    """One row of section data."""
    row = {"sectionId": section_id, "z": z, "tileCount": len(tiles), **_bounds(tiles)}
    return {key: value for key, value in row.items() if value is not None}


def _bounds(tiles: Iterable[Json]) -> Json:
    found = list(tiles)
    return {
        "minX": min(tile["minX"] for tile in found),
        "maxX": max(tile["maxX"] for tile in found),
        "minY": min(tile["minY"] for tile in found),
        "maxY": max(tile["maxY"] for tile in found),
    }


def _stats(stack: Stack, data: list[Json]) -> Json:
    tiles = list(stack.tiles.values())
    zs = {tile["z"] for tile in tiles if tile.get("z") is not None}
    widths = [tile["maxX"] - tile["minX"] for tile in tiles]
    heights = [tile["maxY"] - tile["minY"] for tile in tiles]
    bounds = {**_bounds(tiles), "minZ": min(zs, default=0.0), "maxZ": max(zs, default=0.0)}
    return {
        "stackBounds": bounds,
        "sectionCount": len(zs),
        "nonIntegralSectionCount": sum(z != int(z) for z in zs),
        "tileCount": len(tiles),
        "transformCount": len(stack.transforms),
        "minTileWidth": int(min(widths)),
        "maxTileWidth": int(max(widths)),
        "minTileHeight": int(min(heights)),
        "maxTileHeight": int(max(heights)),
        "channelNames": sorted({c["name"] for tile in tiles for c in tile.get("channels", ()) if c.get("name")}),
    }


# --- tiles


def save_tiles(stack: Stack, body: Json | None, z: float | None, *, derive: bool) -> None:
    """PUT of resolved tiles, its checks in render-ws's order."""
    if body is None:
        raise Refusal(400, "no resolved tiles provided")
    tiles, transforms = parse_resolved(body)
    if stack.state != "LOADING":
        raise Refusal(
            500,
            "Resolved tiles can only be saved to stacks in the LOADING state, "
            f"but this stack's state is {stack.state}.",
        )
    if derive:
        for tile in tiles:
            derive_bounds(tile, transforms)
    _check_collection(tiles, z)
    for tile in tiles:
        missing = sorted({ref for ref in references(tile.get("transforms")) if ref not in transforms})
        if missing:
            raise Refusal(400, f"tile {tile['tileId']} requires the following transform ids {missing}")
    stack.transforms.update(transforms)
    stack.tiles.update((tile["tileId"], tile) for tile in tiles)


def parse_resolved(body: Json) -> tuple[list[Json], dict[str, Json]]:
    """Tiles and shared transforms as they would be stored; what render-ws does not know is dropped."""
    if not isinstance(body, dict):
        raise Refusal(400, "Cannot deserialize instance of ResolvedTileSpecCollection", html=True)
    tiles = _object(body.get("tileIdToSpecMap") or {}, "tileIdToSpecMap")
    transforms = _object(body.get("transformIdToSpecMap") or {}, "transformIdToSpecMap")
    return [_tile(_object(tile, "TileSpec")) for tile in tiles.values()], {
        str(_object(spec, "TransformSpec").get("id", key)): spec for key, spec in transforms.items()
    }


def _object(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise Refusal(400, f"Cannot deserialize instance of {what} out of {type(value).__name__}", html=True)
    return value


def _tile(given: Json) -> Json:
    tile = {key: given[key] for key in _TILE_FIELDS if given.get(key) is not None}
    if "transforms" in given and given["transforms"] is None:
        raise Refusal(500, "")
    tile["transforms"] = tile.get("transforms", {"type": "list", "specList": []})
    if _object(tile["transforms"], "TransformSpec").get("type") != "list":
        raise Refusal(400, "Cannot deserialize ListTransformSpec: missing type list", html=True)
    for key in ("z", "minX", "minY", "maxX", "maxY", "minIntensity", "maxIntensity"):
        if key in tile:
            tile[key] = _number(tile[key], key)
    for key in ("width", "height"):
        if key in tile:
            tile[key] = int(_number(tile[key], key))
    if "layout" in tile:
        tile["layout"] = _layout(_object(tile["layout"], "LayoutData"))
    if "mipmapLevels" in tile:
        levels = _object(tile["mipmapLevels"], "mipmapLevels")
        tile["mipmapLevels"] = {
            str(int(level)): _object(levels[level], "ImageAndMask") for level in sorted(levels, key=int)
        }
    tile["meshCellSize"] = (
        0.0 if "meshCellSize" in given and given["meshCellSize"] is None else tile.get("meshCellSize", 64.0)
    )
    tile["tileId"] = tile.get("tileId")
    return tile


def _layout(given: Json) -> Json:
    layout = {key: given[key] for key in _LAYOUT_FIELDS if given.get(key) is not None}
    for key in ("imageRow", "imageCol"):
        if key in layout:
            layout[key] = int(_number(layout[key], key))
    for key in ("sectionId", "temca", "camera"):
        if key in layout:
            layout[key] = str(layout[key])
    for key in ("stageX", "stageY", "rotation", "pixelsize", "distanceZ"):
        if key in layout:
            layout[key] = _number(layout[key], key)
    return layout


def _number(value: Any, key: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Refusal(400, f"Cannot deserialize value of type double from {value!r} ({key})", html=True)
    return number


def _check_collection(tiles: list[Json], z: float | None) -> None:
    if not tiles:
        raise Refusal(400, "resolved tiles collection is empty")
    for tile in tiles:
        if any(key not in tile for key in ("minX", "minY", "maxX", "maxY")):
            raise Refusal(400, f"tile with id '{tile['tileId']}' is missing bounding box attributes")
        if z is not None and tile.get("z") != z:
            raise Refusal(
                400,
                f"all tiles must have a z value of {z} but tile with id '{tile['tileId']}' "
                f"has a z value of {tile.get('z')}",
            )


def references(transform: Any) -> Iterator[str]:
    """Ids that a transform refers to, at any depth."""
    if not isinstance(transform, dict):
        return
    if transform.get("type") == "ref":
        yield str(transform.get("refId"))
    for key in ("specList", "a", "b"):
        nested = transform.get(key)
        for part in nested if isinstance(nested, list) else [nested]:
            yield from references(part)


def derive_bounds(tile: Json, transforms: Mapping[str, Json]) -> None:
    """Sets minX to maxY: least corner truncated toward zero, extent rounded up."""
    if "width" not in tile or "height" not in tile:
        raise Refusal(500, "width and height must be set to create a bounding box")
    corners = [(x, y) for x in (0.0, float(tile["width"])) for y in (0.0, float(tile["height"]))]
    for model in leaves(tile["transforms"], transforms):
        matrix = affine(model)
        corners = [
            (matrix[0] * x + matrix[2] * y + matrix[4], matrix[1] * x + matrix[3] * y + matrix[5]) for x, y in corners
        ]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    min_x, min_y = float(int(min(xs))), float(int(min(ys)))
    tile["minX"], tile["minY"] = min_x, min_y
    tile["maxX"] = min_x + math.ceil(max(xs) - min(xs))
    tile["maxY"] = min_y + math.ceil(max(ys) - min(ys))


def leaves(transform: Json, transforms: Mapping[str, Json]) -> Iterator[Json]:
    """The leaf transforms of a list, references resolved."""
    kind = transform.get("type", "leaf")
    if kind == "list":
        for part in transform.get("specList") or ():
            yield from leaves(part, transforms)
    elif kind == "ref":
        ref = str(transform.get("refId"))
        if ref not in transforms:
            raise Refusal(400, f"transform spec with id '{ref}' is unresolved")
        yield from leaves(transforms[ref], transforms)
    elif kind == "leaf":
        yield transform


def affine(model: Json) -> tuple[float, ...]:
    """m00 m10 m01 m11 tx ty of a leaf. Models that bend counts as identity here, unknown classes are refused."""
    name, text = str(model.get("className")), str(model.get("dataString", ""))
    if not name.startswith("mpicbg.") and not name.startswith("org.janelia."):
        raise Refusal(400, f"transform class '{name}' cannot be found")
    if name not in AFFINE_MODELS:
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    try:
        numbers = tuple(float(part) for part in text.split())
    except ValueError:
        raise Refusal(400, f"failed to parse dataString '{text}' of {name}") from None
    if name.endswith("TranslationModel2D") and len(numbers) == 2:
        return (1.0, 0.0, 0.0, 1.0, *numbers)
    if len(numbers) != 6:
        raise Refusal(400, f"Inappropriate parameters for {name}")
    return numbers


def require_deletable(stack: Stack) -> None:
    """Refuses to delete tiles of a stack that is not LOADING."""
    if stack.state != "LOADING":
        raise Refusal(
            400, f"tiles can only be deleted from stacks in the LOADING state, but this stack's state is {stack.state}"
        )


def delete_tiles(stack: Stack, tile_ids: Iterable[str]) -> None:
    """Deletes tiles; those that are not there are no fault."""
    require_deletable(stack)
    for tile_id in list(tile_ids):
        stack.tiles.pop(tile_id, None)


def resolved(stack: Stack, tiles: list[Json]) -> Json:
    """Tiles with the shared transforms they refer to, refs intact."""
    if len(tiles) > MOST_TILES_READ:
        raise Refusal(400, f"query too broad, over {MOST_TILES_READ + 1} tiles match")
    wanted = {ref for tile in tiles for ref in references(tile["transforms"])}
    pending = set(wanted)
    while pending:
        nested = {ref for key in pending if key in stack.transforms for ref in references(stack.transforms[key])}
        pending = nested - wanted
        wanted |= nested
    return {
        "transformIdToSpecMap": {key: stack.transforms[key] for key in sorted(wanted) if key in stack.transforms},
        "tileIdToSpecMap": {tile["tileId"]: tile for tile in tiles},
    }


def flattened(stack: Stack, tiles: list[Json]) -> list[Json]:
    """Tiles with their references resolved into leaves."""
    return [
        {**tile, "transforms": {"type": "list", "specList": list(leaves(tile["transforms"], stack.transforms))}}
        for tile in tiles
    ]


def tile_bounds(tile: Json) -> Json:
    """One row of tileBounds."""
    row = {key: tile.get(key) for key in ("minX", "minY", "maxX", "maxY", "tileId", "z")}
    row["sectionId"] = tile.get("layout", {}).get("sectionId")
    return {key: value for key, value in row.items() if value is not None}


def normalized_builder(given: Any) -> Json:
    """A path builder as PUT stores it."""
    if not isinstance(given, dict):
        raise Refusal(400, "mipmap path builder must be specified")
    for key in ("rootPath", "numberOfLevels", "extension"):
        if given.get(key) is None:
            raise Refusal(400, f"mipmap path builder {key} must be specified")
    known = ("rootPath", "numberOfLevels", "extension", "imageMipmapPatternString")
    builder = {key: given[key] for key in known if given.get(key) is not None}
    builder["rootPath"] = str(builder["rootPath"]).rstrip("/") + "/"
    return builder
