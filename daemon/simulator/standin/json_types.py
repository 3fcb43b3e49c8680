"""Read the JSON types of render-ws like Jackson: unknown fields are dropped. Pure.

Texts and status codes are those of render-ws (saalfeldlab/render 4.0). Texts of Jackson are only similar to the real
ones.
"""

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

Json = dict[str, Any]
_Read = Callable[[Any, str], Any]
BOUNDS = ("minX", "minY", "maxX", "maxY")
_MESH_CELL_SIZE = 64.0
_JACKSON = "com.fasterxml.jackson.databind.exc."
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Refusal(Exception):  # noqa: N818  a response, not an error of the stand-in
    """A response other than success.

    Parameters
    ----------
    status : status code.
    text : body. None: no body and no content type, as when the web framework finds no route.
    html : whether the body is text/html, as when the web framework reports an exception; render-ws's own texts are
        text/plain.
    """

    def __init__(self, status: int, text: str | None, *, html: bool = False) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text
        self.html = html


def unreadable(value: Any, wanted: str, where: str) -> Refusal:
    """Return Jackson's refusal of a value of the wrong type."""
    return Refusal(
        400,
        f"{_JACKSON}MismatchedInputException: Cannot deserialize instance of `{wanted}` out of {value!r} "
        f"(through reference chain: {where})",
        html=True,
    )


def object_of(value: Any, where: str) -> Json:
    """Return the value if it is an object. Raises Refusal."""
    if not isinstance(value, dict):
        raise unreadable(value, "java.util.LinkedHashMap", where)
    return value


def number(value: Any, where: str) -> float:
    """Read a finite double; strings of digits count as numbers. Raises Refusal."""
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
    """Read an int; fractions are truncated. Raises Refusal."""
    return int(number(value, where))


def text(value: Any, where: str) -> str:
    """Read a string; numbers and booleans are converted. Raises Refusal."""
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
    """Return a reader of an object with these fields in this order; it drops unknown fields and nulls."""

    def read_record(value: Any, where: str) -> Json:
        given = object_of(value, where)
        return {key: read(given[key], key) for key, read in fields.items() if given.get(key) is not None}

    return read_record


def _loader(value: Any, where: str) -> str:
    if value not in ("IMAGEJ_DEFAULT", "IMAGEJ_TIFF_STACK", "H5_SLICE", "N5_SLICE", "IMAGEJ_COMPOSITE", "DYNAMIC_MASK"):
        raise unreadable(value, "org.janelia.alignment.loader.ImageLoader$LoaderType", where)
    return str(value)


def _moment(value: Any, where: str) -> str:
    """Read a time. Java reads all digits after the decimal point as milliseconds, however many there are."""
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
    """Return a time as render-ws writes it, with milliseconds. The default is the present time."""
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
"""Read a StackVersion. Raises Refusal."""
read_stack_id = _record_of({"owner": text, "project": text, "stack": text})
read_cycle = _record_of({"number": integer, "stepNumber": integer})
read_ids = _list_of(text)
read_numbers = _list_of(number)


def read_path_builder(value: Any) -> Json:
    """Read a path builder as PUT stores it: with a slash at the end of its root, unlike in a posted version."""
    builder: Json = _path_builder(value, "MipmapPathBuilder")
    for key in ("rootPath", "numberOfLevels", "extension"):
        if key not in builder:
            raise Refusal(400, f"{key} must be specified for MipmapPathBuilder")
    root = builder["rootPath"]
    return {**builder, "rootPath": root if root.endswith("/") else f"{root}/"}


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
    """Read a transform spec. The default type is leaf; an unknown type gives an empty leaf. Raises Refusal."""
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
    """Read a tile spec. Raises Refusal: 500 if `transforms` is null, as render-ws fails then, otherwise 400."""
    given = object_of(value, "TileSpec")
    if "transforms" in given and given["transforms"] is None:
        raise Refusal(500, "")
    tile: Json = _tile(given, "TileSpec")
    tile.setdefault("transforms", {"type": "list", "specList": []})
    tile["transforms"].setdefault("specList", [])
    tile.setdefault("meshCellSize", 0.0 if "meshCellSize" in given else _MESH_CELL_SIZE)
    return tile


def read_resolved(value: Any) -> tuple[list[Json], dict[str, Json]]:
    """Read tiles, and shared transforms by id. The ids are those of the specs: the keys of both maps are ignored."""
    given = object_of(value, "ResolvedTileSpecCollection")
    tiles = object_of(given.get("tileIdToSpecMap", {}), "tileIdToSpecMap")
    transforms = object_of(given.get("transformIdToSpecMap", {}), "transformIdToSpecMap")
    shared = [transform(spec, key) for key, spec in transforms.items()]
    return [read_tile(tile) for tile in tiles.values()], {spec["id"]: spec for spec in shared if "id" in spec}


def render_parameters(tile: Json) -> Json:
    """Return the render parameters of a tile with flattened transforms."""
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
