"""What the stand-in for render-ws makes of JSON sent to it: known fields read as Jackson reads them, others dropped;
bounds derived from transforms. Pure.

Texts and status codes are render-ws's (saalfeldlab/render 4.0). Where Jackson speaks, the text is one like its own.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
Corners = list[tuple[float, float]]
"""x, y in pixels."""
_Read = Callable[[Any, str], Any]

BOUNDS = ("minX", "minY", "maxX", "maxY")
_MESH_CELL_SIZE = 64.0
_JACKSON = "com.fasterxml.jackson.databind.exc."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refusal(Exception):  # noqa: N818  an answer, not an error of the stand-in
    """An answer other than success.

    Parameters
    ----------
    text : the body; None for none, without a content type: how the web framework refuses what it cannot route.
    html : how the web framework shows an exception; render-ws's own texts are text/plain.
    """

    def __init__(self, status: int, text: str | None, *, html: bool = False) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.html = html


# -- reading as Jackson does -----------------------------------------------------------------------------------------


def unreadable(value: Any, wanted: str, where: str) -> Refusal:
    """Jackson's refusal of a value of another type."""
    return Refusal(
        400,
        f"{_JACKSON}MismatchedInputException: Cannot deserialize instance of `{wanted}` out of {value!r} "
        f"(through reference chain: {where})",
        html=True,
    )


def object_of(value: Any, where: str) -> Json:
    """The value, which has to be an object."""
    if not isinstance(value, dict):
        raise unreadable(value, "java.util.LinkedHashMap", where)
    return value


def number(value: Any, where: str) -> float:
    """A double; strings of digits count as numbers."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise unreadable(value, "double", where)
    try:
        found = float(value)
    except ValueError:
        raise unreadable(value, "double", where) from None
    if not math.isfinite(found):
        raise unreadable(value, "double", where)
    return found


def integer(value: Any, where: str) -> int:
    """An int; fractions are cut off."""
    return int(number(value, where))


def text(value: Any, where: str) -> str:
    """A string; a number is spelled as it was sent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise unreadable(value, "java.lang.String", where)
    return str(value)


def _list_of(read: _Read) -> _Read:
    def read_list(value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            raise unreadable(value, "java.util.ArrayList", where)
        return [read(member, where) for member in value]

    return read_list


def _record_of(fields: Mapping[str, _Read]) -> _Read:
    """Reads an object: fields in this order, unknown ones and nulls left out."""

    def read_record(value: Any, where: str) -> Json:
        given = object_of(value, where)
        return {key: read(given[key], key) for key, read in fields.items() if given.get(key) is not None}

    return read_record


def _loader(value: Any, where: str) -> str:
    if value not in ("IMAGEJ_DEFAULT", "IMAGEJ_TIFF_STACK", "H5_SLICE", "N5_SLICE", "IMAGEJ_COMPOSITE", "DYNAMIC_MASK"):
        raise unreadable(value, "org.janelia.alignment.loader.ImageLoader$LoaderType", where)
    return str(value)


def _moment(value: Any, where: str) -> str:
    """A time as stored; all digits after the second are milliseconds to Java, however many there are."""
    if isinstance(value, int) and not isinstance(value, bool):
        return timestamp(_EPOCH + timedelta(milliseconds=value))
    found = isinstance(value, str) and re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d+)Z", value)
    if not found:
        raise unreadable(value, "java.util.Date", where)
    try:
        second = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        raise unreadable(value, "java.util.Date", where) from None
    return timestamp(second + timedelta(milliseconds=int(found[2])))


def timestamp(moment: datetime | None = None) -> str:
    """A time as render-ws writes it, three digits of a second; now by default."""
    return (moment or datetime.now(UTC)).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


_path_builder = _record_of(
    {"rootPath": text, "numberOfLevels": integer, "extension": text, "imageMipmapPatternString": text}
)
read_version = _record_of(
    {
        "createTimestamp": _moment,
        "versionNotes": text,
        "cycleNumber": integer,
        "cycleStepNumber": integer,
        "stackResolutionX": number,
        "stackResolutionY": number,
        "stackResolutionZ": number,
        "materializedBoxRootPath": text,
        "mipmapPathBuilder": _path_builder,
        "alignmentQuality": number,
        "defaultChannel": text,
    }
)
"""A StackVersion."""
read_stack_id = _record_of({"owner": text, "project": text, "stack": text})
read_cycle = _record_of({"number": integer, "stepNumber": integer})
read_ids = _list_of(text)
read_numbers = _list_of(number)


def read_path_builder(value: Any) -> Json:
    """A path builder as PUT stores it, its root with a slash at the end; one in a posted version stays as it is."""
    builder: Json = _path_builder(value, "MipmapPathBuilder")
    for key in ("rootPath", "numberOfLevels", "extension"):
        if key not in builder:
            raise Refusal(400, f"{key} must be specified for MipmapPathBuilder")
    root = builder["rootPath"]
    return {**builder, "rootPath": root if root.endswith("/") else f"{root}/"}


# -- tiles and transforms --------------------------------------------------------------------------------------------

_image_and_mask = _record_of(
    {
        "imageUrl": text,
        "imageLoaderType": _loader,
        "imageSliceNumber": integer,
        "maskUrl": text,
        "maskLoaderType": _loader,
        "maskSliceNumber": integer,
    }
)


def _levels(value: Any, where: str) -> Json:
    levels = object_of(value, where)
    if not all(re.fullmatch(r"-?\d+", level) for level in levels):
        raise unreadable(sorted(levels), "java.lang.Integer", where)
    return {str(int(level)): _image_and_mask(levels[level], where) for level in sorted(levels, key=int)}


_layout = _record_of(
    {
        "sectionId": text,
        "temca": text,
        "camera": text,
        "imageRow": integer,
        "imageCol": integer,
        "stageX": number,
        "stageY": number,
        "rotation": number,
        "pixelsize": number,
        "distanceZ": number,
    }
)
_channel = _record_of({"name": text, "minIntensity": number, "maxIntensity": number, "mipmapLevels": _levels})


def transform(value: Any, where: str) -> Json:
    """A transform spec; without a type it is a leaf, and one of an unknown type becomes an empty leaf."""
    given = object_of(value, where)
    kind = given.get("type", "leaf")
    if kind not in _TRANSFORMS:
        return {"type": "leaf"}
    return {"type": kind, **_TRANSFORMS[kind](given, where)}


def _transform_list(value: Any, where: str) -> Json:
    if object_of(value, where).get("type") != "list":
        raise Refusal(400, f"{_JACKSON}InvalidTypeIdException: missing type id property 'type'", html=True)
    return transform(value, where)


def _metadata(value: Any, where: str) -> Json:
    return object_of(value, where)


_COMMON: dict[str, _Read] = {"id": text, "metaData": _metadata}
_TRANSFORMS: dict[Any, _Read] = {
    "leaf": _record_of({**_COMMON, "className": text, "dataString": text}),
    "list": _record_of({**_COMMON, "specList": _list_of(transform)}),
    "ref": _record_of({**_COMMON, "refId": text}),
    "interpolated": _record_of({**_COMMON, "a": transform, "b": transform, "lambda": number}),
}
_tile = _record_of(
    {
        "tileId": text,
        "layout": _layout,
        "groupId": text,
        "z": number,
        "minX": number,
        "minY": number,
        "maxX": number,
        "maxY": number,
        "width": number,
        "height": number,
        "minIntensity": number,
        "maxIntensity": number,
        "channels": _list_of(_channel),
        "mipmapLevels": _levels,
        "transforms": _transform_list,
        "meshCellSize": number,
        "labels": _list_of(text),
    }
)


def read_tile(value: Any) -> Json:
    """A tile spec as it is stored. A null among the transforms is no refusal but a fault inside render-ws."""
    given = object_of(value, "TileSpec")
    if "transforms" in given and given["transforms"] is None:
        raise Refusal(500, "")
    tile: Json = _tile(given, "TileSpec")
    tile.setdefault("transforms", {"type": "list", "specList": []})
    tile["transforms"].setdefault("specList", [])
    tile.setdefault("meshCellSize", 0.0 if "meshCellSize" in given else _MESH_CELL_SIZE)
    return tile


def read_resolved(value: Any) -> tuple[list[Json], dict[str, Json]]:
    """Tiles, and shared transforms by id. The keys of both maps are ignored, the ids inside count."""
    given = object_of(value, "ResolvedTileSpecCollection")
    tiles = object_of(given.get("tileIdToSpecMap", {}), "tileIdToSpecMap")
    transforms = object_of(given.get("transformIdToSpecMap", {}), "transformIdToSpecMap")
    shared = [transform(spec, key) for key, spec in transforms.items()]
    return [read_tile(tile) for tile in tiles.values()], {spec["id"]: spec for spec in shared if "id" in spec}


def render_parameters(tile: Json) -> Json:
    """How render-ws would render a tile that carries its transforms itself."""
    return {
        "meshCellSize": 64.0,
        "minMeshCellSize": 0.0,
        "x": tile["minX"],
        "y": tile["minY"],
        "width": int(tile["maxX"] - tile["minX"]),
        "height": int(tile["maxY"] - tile["minY"]),
        "scale": 1.0,
        "areaOffset": False,
        "convertToGray": False,
        "quality": 0.85,
        "numberOfThreads": 1,
        "skipInterpolation": False,
        "binaryMask": False,
        "excludeMask": False,
        "doFilter": False,
        "addWarpFieldDebugOverlay": False,
        "fillWithNoise": False,
        "tileSpecs": [tile],
        "minBoundsMeshCellSize": 64.0,
    }


# -- references and bounds -------------------------------------------------------------------------------------------


def references(spec: Any) -> Iterator[str]:
    """Ids of the shared transforms that a transform refers to, at any depth."""
    if not isinstance(spec, dict):
        return
    if spec.get("type") == "ref":
        yield str(spec.get("refId"))
    for inner in (*(spec.get("specList") or ()), spec.get("a"), spec.get("b")):
        yield from references(inner)


def all_references(specs: Iterable[Json], shared: Mapping[str, Json]) -> set[str]:
    """Ids of the shared transforms that transforms need, those that these need included."""
    found: set[str] = set()
    ahead = {name for spec in specs for name in references(spec)}
    while ahead:
        found |= ahead
        ahead = {name for key in ahead if key in shared for name in references(shared[key])} - found
    return found


def require_references(tile: Json, shared: Mapping[str, Json]) -> None:
    """Refuses a tile that refers to a transform which is not in the same upload."""
    missing = sorted(name for name in all_references([tile["transforms"]], shared) if name not in shared)
    if missing:
        raise Refusal(400, f"tile {tile.get('tileId')} requires the following transform ids [{', '.join(missing)}]")


def flattened(spec: Json, shared: Mapping[str, Json]) -> list[Json]:
    """The transforms of a list one after the other, references replaced by what they refer to."""
    if spec["type"] == "list":
        return [leaf for inner in spec.get("specList", ()) for leaf in flattened(inner, shared)]
    if spec["type"] == "ref":
        name = str(spec.get("refId"))
        if name not in shared:
            raise Refusal(500, f"transform {name} cannot be found")
        return flattened(shared[name], shared)
    return [spec]


def derive_bounds(tile: Json, shared: Mapping[str, Json]) -> None:
    """Sets minX to maxY as render-ws does: the least corner cut off toward zero, the extent rounded up.

    Corners suffice for affine models. Others, such as lens corrections, bend a border by pixels: they count as none.
    """
    if "width" not in tile or "height" not in tile:
        raise Refusal(500, "width and height must be set to create a bounding box")
    corners = [(x, y) for x in (0.0, tile["width"]) for y in (0.0, tile["height"])]
    for model in flattened(tile["transforms"], shared):
        corners = _mapped(model, corners, shared)
    for axis, values in zip("XY", zip(*corners, strict=True), strict=True):
        least = float(int(min(values)))
        tile[f"min{axis}"] = least
        tile[f"max{axis}"] = least + math.ceil(max(values) - min(values))


def _mapped(model: Json, corners: Corners, shared: Mapping[str, Json]) -> Corners:
    if model["type"] == "interpolated":
        return _blended(model, corners, shared)
    m00, m10, m01, m11, tx, ty = _matrix(model)
    return [(m00 * x + m01 * y + tx, m10 * x + m11 * y + ty) for x, y in corners]


def _blended(model: Json, corners: Corners, shared: Mapping[str, Json]) -> Corners:
    ends = []
    for end in (model["a"], model["b"]):
        moved = corners
        for inner in flattened(end, shared):
            moved = _mapped(inner, moved, shared)
        ends.append(moved)
    share = model.get("lambda", 0.0)
    return [(x + share * (u - x), y + share * (v - y)) for (x, y), (u, v) in zip(*ends, strict=True)]


_IDENTITY = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
_TRAKEM2 = "mpicbg.trakem2.transform."
_COUNTS = {"AffineModel2D": 6, "SimilarityModel2D": 4, "RigidModel2D": 3, "TranslationModel2D": 2}


def _matrix(model: Json) -> tuple[float, ...]:
    """m00 m10 m01 m11 tx ty of a leaf; refuses classes that cannot be render-ws's."""
    name, data = str(model.get("className")), str(model.get("dataString", ""))
    if not name.startswith((_TRAKEM2, "mpicbg.", "lenscorrection.", "org.janelia.")):
        raise Refusal(400, f"transform class '{name}' cannot be found")
    kind = name.removeprefix(_TRAKEM2)
    if kind not in _COUNTS:
        return _IDENTITY
    try:
        numbers = [float(part) for part in data.split()]
    except ValueError:
        numbers = []
    if len(numbers) != _COUNTS[kind]:
        raise Refusal(400, f"Inappropriate parameters for {name}")
    if kind == "AffineModel2D":
        return tuple(numbers)
    *turn, tx, ty = numbers
    angle = turn[-1] if turn else 0.0
    scale = turn[0] if len(turn) == 2 else 1.0
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return (cosine, sine, -sine, cosine, tx, ty)
