"""The metafile that pyTEMCA writes after a region: bytes -> frozen `Metafile`.

Parsed by key, not by position: a list of objects, in any order and number, or one flat object. Unknown keys are
tolerated. Values that tile specs need are required; docs/compatibility.md lists them. Every other value is kept where
it has its usual type, and counts as absent otherwise, NaN included: who needs it (a z rule, a stack's name, a tile id)
says that it is missing.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import msgspec
from pydantic import (
    AfterValidator,
    AliasPath,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    WrapValidator,
)
from pydantic_core import CoreSchema, core_schema, from_json

from handlers.acquisition.geometry import Point, stage_to_pixel
from handlers.errors import MetafileFault, MetafilePartial
from handlers.text import abbreviate

MAX_METAFILE_BYTES: Final = 128 * 1024 * 1024
"""Far above the 2.3 MB of a full production section; what is larger is something else."""

_REFERENCE_NAME = re.compile(r"_metadata_.*reference.*\.json")
"""How asap-modules tells lens-correction sets."""
IMAGE_NAME = re.compile(r"(\d{17})_(.+)\.[A-Za-z0-9]+", re.DOTALL)
"""How pyTEMCA names images: the time to milliseconds, then session, grid, region, column and row."""
_PLAIN_NAME = re.compile(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]+")
_T = TypeVar("_T")
_MOST_PROBLEMS = 4
_MIN_SIZE_NM, _MAX_SIZE_NM = 0.001, 1e6
_MAX_STAGE_NM = 1e9
_MAX_FRAME = 65536
_MAX_INT = 2**31 - 1


class _OrAbsent:
    """Marks a value that nothing depends on: one of another type counts as absent."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


class _Whole:
    """Marks an integer that may be written as a float without a fraction, as in `256.0`.

    No Python function is called for an integer: a metafile of 20,000 tiles has 300,000 of them.
    """

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        whole_float = core_schema.no_info_after_validator_function(
            int, core_schema.float_schema(strict=True, multiple_of=1, allow_inf_nan=False)
        )
        choices: list[CoreSchema | tuple[CoreSchema, str]] = [core_schema.int_schema(strict=True), whole_float]
        either = core_schema.union_schema(choices, mode="left_to_right", custom_error_type="int_type")
        return core_schema.chain_schema([either, handler(source)])


class Numeral(str):
    """Text that the metafile has as a number: names may spell it otherwise, as in `001050` for 1050."""

    __slots__ = ()


def _spelled(value: object, handler: Callable[[object], str]) -> str:
    """Text as it is, a number in digits."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return Numeral(handler(str(value))) if is_number and not isinstance(value, bool) else handler(value)


def _without_nan(value: Any) -> Any:
    """A value of JSON with null for every NaN and Infinity in it."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _filled(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should be text of printable characters, at least one")
    return text


_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Int = Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63), _Whole()]
_Text = Annotated[str, Strict()]
_SpelledText = Annotated[_Text, WrapValidator(_spelled)]
_Filled = Annotated[_Text, AfterValidator(_filled), WrapValidator(_spelled)]
_Count = Annotated[int, Strict(), Field(ge=0, le=_MAX_INT), _Whole()]
_FrameSide = Annotated[int, Strict(), Field(ge=1, le=_MAX_FRAME), _Whole()]
_PixelSize = Annotated[_Number, Field(ge=_MIN_SIZE_NM, le=_MAX_SIZE_NM)]
_StageNm = Annotated[_Number, Field(ge=-_MAX_STAGE_NM, le=_MAX_STAGE_NM)]
_NumberOrAbsent = Annotated[_Number | None, _OrAbsent()]
_IntOrAbsent = Annotated[_Int | None, _OrAbsent()]
_CountOrAbsent = Annotated[_Count | None, _OrAbsent()]
_PixelSizeOrAbsent = Annotated[_PixelSize | None, _OrAbsent()]
_TextOrAbsent = Annotated[_SpelledText | None, _OrAbsent()]
_FilledOrAbsent = Annotated[_Filled | None, _OrAbsent()]
_NumbersOrAbsent = Annotated[tuple[_Number, ...] | None, _OrAbsent()]
_PointOrAbsent = Annotated[tuple[_Number, _Number] | None, _OrAbsent()]
_ObjectOrAbsent = Annotated[Annotated[dict[str, Any], AfterValidator(_without_nan)] | None, _OrAbsent()]


def _in_image(*path: str | int) -> Any:
    return Field(validation_alias=AliasPath("img_meta", *path))


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera, as the header has it. Whether the files are 8- or 16-bit is for their own headers to say."""

    width: _FrameSide
    """Pixels, as is `height`."""
    height: _FrameSide
    camera_id: _Filled
    camera_model: _TextOrAbsent = None
    camera_bpp: _IntOrAbsent = None
    """Bits of a pixel as digitised: 12 in 2017, later 8."""
    pixel_depth: _IntOrAbsent = None
    """Bytes of a pixel in the camera's memory; not the depth of the files."""
    exposure: _IntOrAbsent = None
    """Presumably microseconds."""
    gain: _IntOrAbsent = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of one magnification."""

    x_nm_per_pix: _PixelSize
    y_nm_per_pix: _PixelSizeOrAbsent = None
    nm_per_pix: _PixelSizeOrAbsent = None
    angle_deg: Annotated[_NumberOrAbsent, Field(validation_alias="angle")] = None
    """Rotation from stage to camera."""

    @property
    def pixel_size_nm(self) -> Point:
        """x, y; pixels are square where y is absent."""
        return self.x_nm_per_pix, self.x_nm_per_pix if self.y_nm_per_pix is None else self.y_nm_per_pix


@dataclass(frozen=True, slots=True)
class Header:
    """What the metafile says of the region as a whole."""

    temca_id: _Filled
    camera: Annotated[Camera, Field(validation_alias="camera_info")]
    highmag: Annotated[Calibration, Field(validation_alias=AliasPath("calibration", "highmag"))]
    roi_creation_time: _FilledOrAbsent = None
    """YYYYMMDDHHMMSS, the microscope's local time, when the region was set up."""
    session_id: _FilledOrAbsent = None
    grid: _FilledOrAbsent = None
    """Barcode of the aperture: six digits for sections, `<14 digits>_reference` for lens-correction sets."""
    roi_index: _CountOrAbsent = None
    """Number of the region within the aperture, from 0."""
    lowmag: Annotated[
        Annotated[Calibration | None, _OrAbsent()], Field(validation_alias=AliasPath("calibration", "lowmag"))
    ] = None
    overlap: Annotated[Annotated[_Number, Field(ge=0, lt=1)] | None, _OrAbsent()] = None
    """Nominal overlap of neighbours, a fraction of the frame, in both directions."""
    specimen_id: _TextOrAbsent = None
    """Name of the block; None where the microscope was not told."""
    media: _TextOrAbsent = None
    """The substrate, as in `tape`."""
    media_id: _TextOrAbsent = None
    """The reel, as in `0151`."""
    z_index: Annotated[_Int | _Number | None, Field(union_mode="left_to_right"), _OrAbsent()] = None
    """Number of the section on its media, not its z in the volume; None for lens-correction sets."""
    lims_specimen_id: _TextOrAbsent = None
    roi_center_nm: Annotated[_PointOrAbsent, Field(validation_alias="roi_center")] = None
    """Stage x, y."""
    aperture_x_nm: Annotated[_NumberOrAbsent, Field(validation_alias=AliasPath("aperture_centroid", "x"))] = None
    """Stage position of the aperture's measured centre, with `aperture_y_nm`; None where it was not measured."""
    aperture_y_nm: Annotated[_NumberOrAbsent, Field(validation_alias=AliasPath("aperture_centroid", "y"))] = None
    autofocus_value: _NumberOrAbsent = None
    """Result of the last autofocus; 0 when it is off."""
    objective_focus: _IntOrAbsent = None
    """Current code of the lens."""
    notes: _TextOrAbsent = None
    placement_id: _TextOrAbsent = None
    server_copy_destination: _TextOrAbsent = None
    """Where the microscope's copy job puts the directory, a UNC path."""
    tape_id: _TextOrAbsent = None
    n_edge_matches: _IntOrAbsent = None
    """Template matches attempted for each edge."""
    beam_centering: _ObjectOrAbsent = None
    montage_settings: _ObjectOrAbsent = None

    @property
    def is_reference(self) -> bool:
        """Whether this is a lens-correction set, by its aperture."""
        return self.grid is not None and "reference" in self.grid

    @property
    def grid_number(self) -> int | None:
        """The number of a section's aperture; None for a lens-correction set."""
        return int(self.grid) if self.grid is not None and re.fullmatch("[0-9]{1,18}", self.grid) else None

    @property
    def name_core(self) -> str | None:
        """What the names of the metafile and of its images share; None where the header lacks a part of it."""
        parts = self.session_id, self.grid, self.roi_index
        return None if None in parts else "_".join(map(str, parts))

    @property
    def metafile_name(self) -> str:
        """The name that pyTEMCA gives the metafile of this header."""
        return f"_metadata_{self.roi_creation_time or '*'}_{self.name_core or '*'}_.json"


class EdgeSide(StrEnum):
    """The side of a tile on which a neighbour was matched."""

    TOP = "top"
    LEFT = "left"
    RIGHT = "right"


_SIDES: Final[Mapping[int, EdgeSide]] = {2: EdgeSide.LEFT, 3: EdgeSide.TOP, 4: EdgeSide.RIGHT}


@dataclass(frozen=True, slots=True)
class EdgeMatch:
    """Template match of a tile with a neighbour imaged before it."""

    position: _IntOrAbsent = None
    """2 left, 3 top, 4 right."""
    row: _IntOrAbsent = None
    """The tile's own row and, in `col`, column; later scopes give the neighbour's."""
    col: _IntOrAbsent = None
    match_quality: _IntOrAbsent = None
    """Number of matches found; -1 where there is no neighbour."""
    dx: Annotated[_NumberOrAbsent, Field(validation_alias="dX")] = None
    """Shift in pixels, as are `dy`, their deviations and `distance`."""
    dy: Annotated[_NumberOrAbsent, Field(validation_alias="dY")] = None
    dx_deviation: Annotated[_NumberOrAbsent, Field(validation_alias="dXsd")] = None
    dy_deviation: Annotated[_NumberOrAbsent, Field(validation_alias="dYsd")] = None
    distance: _NumberOrAbsent = None
    rotation: _NumberOrAbsent = None
    """Radians."""
    p_x: Annotated[_NumbersOrAbsent, Field(validation_alias="pX")] = None
    """Matched points, this tile's p with the neighbour's q, pixels; later scopes only."""
    p_y: Annotated[_NumbersOrAbsent, Field(validation_alias="pY")] = None
    q_x: Annotated[_NumbersOrAbsent, Field(validation_alias="qX")] = None
    q_y: Annotated[_NumbersOrAbsent, Field(validation_alias="qY")] = None

    @property
    def side(self) -> EdgeSide | None:
        return None if self.position is None else _SIDES.get(self.position)


@dataclass(frozen=True, slots=True)
class TileRecord:
    """One camera frame."""

    img_path: _Text
    """File name, relative to the metafile's directory; never leads out of it."""
    stage_x_nm: Annotated[_StageNm, _in_image("stage_pos", 0)]
    """Stage position at exposure; may be negative."""
    stage_y_nm: Annotated[_StageNm, _in_image("stage_pos", 1)]
    raster_col: Annotated[_Count, _in_image("raster_pos", 0)]
    """Place in the grid of the montage, from 0; a montage need not fill its rows or begin at column 0."""
    raster_row: Annotated[_Count, _in_image("raster_pos", 1)]
    angle_deg: Annotated[_Number, _in_image("angle")]
    """Rotation from stage to camera."""
    pixel_size_x_move_nm: Annotated[_PixelSize, _in_image("pixel_size_x_move")]
    """Effective nanometres per pixel for stage motion in x."""
    pixel_size_y_move_nm: Annotated[_PixelSize, _in_image("pixel_size_y_move")]
    raster_index: Annotated[_CountOrAbsent, _in_image("raster_index")] = None
    """Order of acquisition, from 0."""
    pixel_size_nm: Annotated[_PixelSizeOrAbsent, _in_image("pixel_size")] = None
    """Nominal nanometres per pixel."""
    frames_per_second: Annotated[
        Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, _OrAbsent()], _in_image("fps")
    ] = None
    """Mean rate of the acquisition so far; 0 at the first tile. The metafile has it as text."""
    minimum: Annotated[_IntOrAbsent, Field(validation_alias="min")] = None
    """Darkest pixel on the scale 0 to 65535, whatever the depth of the file; so are `maximum` and `mean`."""
    maximum: Annotated[_IntOrAbsent, Field(validation_alias="max")] = None
    mean: _NumberOrAbsent = None
    std_dev: _NumberOrAbsent = None
    """Standard deviation on the scale 0 to 255, unlike `mean`."""
    focus_score: _NumberOrAbsent = None
    """About 20 to 25, higher is sharper."""
    astig_score: _NumberOrAbsent = None
    astig_angle: _NumberOrAbsent = None
    matcher: Annotated[tuple[EdgeMatch, ...] | None, _OrAbsent()] = None

    @property
    def basename(self) -> str:
        """Name of the image without directory and extension."""
        return os.path.splitext(self.img_path.rpartition("/")[2])[0]  # noqa: PTH122  what follows the last dot, no more

    @property
    def time_stamp(self) -> str | None:
        """YYYYMMDDHHMMSSmmm, the microscope's local time at exposure, from the image's name; None where it has none."""
        name = IMAGE_NAME.fullmatch(self.img_path)
        return None if name is None else name[1]

    @property
    def raster_pos(self) -> tuple[int, int]:
        """Column, row."""
        return self.raster_col, self.raster_row

    @property
    def position_px(self) -> Point:
        """x, y in level-0 pixels, in the camera frame, origin at the stage's."""
        sizes = self.pixel_size_x_move_nm, self.pixel_size_y_move_nm
        return stage_to_pixel((self.stage_x_nm, self.stage_y_nm), sizes, self.angle_deg)


@dataclass(frozen=True, slots=True)
class Metafile:
    """A metafile that has all that is needed of it. `check_metafile` says whether it agrees with itself."""

    header: Header
    tiles: tuple[TileRecord, ...]
    """One or more, in the order of the file."""
    shared_transform: Mapping[str, Any] | None = None
    """The lens-correction transform that the scope appended, in render's form, unexamined."""
    extra: Mapping[str, Any] | None = None
    """What else the scope appended, by key: tile_qc, errors, alerts, thumbnail, a sharedTransform that is no object."""


# -------------------------------------------------------------------------------------------------------------- reading


def parse_metafile(raw: bytes, subject: str) -> Metafile:
    """The metafile that `raw` is.

    Parameters
    ----------
    raw : UTF-8, with or without a byte order mark.
    subject : name of the file, for the errors.

    Raises
    ------
    MetafilePartial
        If it is empty, cut off or otherwise not JSON: perhaps it is still being copied.
    MetafileFault
        If it is JSON but not a metafile, or larger than one can be. Names the key, as in
        `data[17].img_meta.stage_pos[0]: missing`.
    """
    if len(raw) > MAX_METAFILE_BYTES:
        raise MetafileFault(
            subject,
            f"is larger than {MAX_METAFILE_BYTES // 2**20} MiB",
            "the metafile of a full section has 2.3 MB; see what this file is",
        )
    text = raw.removeprefix(b"\xef\xbb\xbf")
    parts = _parts(_split(text) or _json(text, subject), subject)
    header = _validated(_HEADER, parts.pop("metadata"), "metadata", subject)
    records = _records(_rows(parts.pop("data"), subject), subject)
    for number, tile in enumerate(records):
        if _PLAIN_NAME.fullmatch(tile.img_path) is None:
            _refuse_path(tile.img_path, f"data[{number}].img_path", subject)
    extra = _without_nan(parts)
    shared = extra.pop("sharedTransform") if isinstance(extra.get("sharedTransform"), dict) else None
    return Metafile(header, records, shared, extra)


def image_path(directory: Path, img_path: str) -> Path:
    """The image that a tile record names, in the metafile's directory or below it.

    Raises MetafileFault for a path that is absolute or leads elsewhere. A symbolic link can still do so: whoever opens
    the file looks at that.

    >>> image_path(Path("/data/001050/0"), "a_88_0.tif")
    PosixPath('/data/001050/0/a_88_0.tif')
    """
    refuse_unsafe(img_path, directory)
    return directory / img_path


def refuse_unsafe(img_path: str, directory: Path) -> None:
    """Raises MetafileFault for the name of an image that is absolute or leads out of the directory."""
    if _PLAIN_NAME.fullmatch(img_path) is None:
        _refuse_path(img_path, "img_path", str(directory))


def is_reference_name(file_name: str) -> bool:
    """Whether a metafile is a lens-correction set, by its name alone.

    >>> is_reference_name("_metadata_20170502174048_a_20170502174047_reference_0_.json")
    True
    """
    return _REFERENCE_NAME.fullmatch(file_name) is not None


_HEADER: Final = TypeAdapter(Header)
_TILES: Final[TypeAdapter[list[TileRecord]]] = TypeAdapter(Annotated[list[TileRecord], FailFast()])


_SPLIT: Final = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_SPLIT_ROWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ROWS_AT_ONCE: Final = 200


def _split(raw: bytes) -> list[dict[str, object]] | None:
    """The elements with the rows of `data` still as JSON text; None for what only `_json` can read, or refuse in words.

    Reading 20,000 rows in one piece would hold the interpreter's lock for 0.1 s.
    """
    try:
        return [
            {key: _SPLIT_ROWS.decode(text) if key == "data" else _from_json(bytes(text)) for key, text in each.items()}
            for each in _SPLIT.decode(raw)
        ]
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _from_json(text: bytes) -> Any:
    # NaN and Infinity are no JSON, but Python's json.dump writes them; the fields refuse them where it matters.
    return from_json(text, allow_inf_nan=True, cache_strings="keys")


def _json(raw: bytes, subject: str) -> object:
    if not raw.strip():
        raise MetafilePartial(subject, "is empty", "it may still be under way")
    if not raw.strip(b"\0"):
        raise MetafilePartial(subject, "has its length but no content yet", "it may still be under way")
    try:
        return _from_json(raw)
    except ValueError as error:
        problem = str(error)
    if problem.startswith("EOF"):
        raise MetafilePartial(subject, f"is cut off: {problem}", "it may still be under way")
    if problem.startswith("recursion limit"):
        raise MetafileFault(subject, "is nested too deep for a metafile")
    raise MetafilePartial(subject, f"is not JSON: {problem}", "it may still be under way")


def _parts(value: object, subject: str) -> dict[str, Any]:
    """The keys of all elements in one object, with `metadata` and `data` among them."""
    if isinstance(value, dict):
        elements: list[object] = [value]
    elif isinstance(value, list):
        elements = value
    else:
        raise MetafileFault(subject, f"is not a metafile: a list or an object is expected, not {shown(value)}")
    parts: dict[str, Any] = {}
    for element in elements:
        if isinstance(element, dict):
            _refuse_twice(parts, element, subject)
            parts |= element
    for key in ("metadata", "data"):
        if key not in parts:
            raise MetafileFault(subject, f"{key}: missing", "is this file a metafile of pyTEMCA?")
    return parts


def _refuse_twice(parts: Mapping[str, Any], element: Mapping[str, Any], subject: str) -> None:
    for key in ("metadata", "data", "sharedTransform"):
        if key in parts and key in element:
            raise MetafileFault(subject, f"{key}: stands in two elements, and nothing says which one is meant")


def _rows(data: object, subject: str) -> list[object]:
    if not isinstance(data, list):
        raise MetafileFault(subject, f"data: should be a list, not {shown(data)}")
    if not data:
        raise MetafileFault(subject, "data: is empty, no tile was recorded", "was the acquisition aborted?")
    return data


def _records(rows: list[object], subject: str) -> tuple[TileRecord, ...]:
    """The tile records that the rows are, read a portion at a time."""
    records: list[TileRecord] = []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        values = [_row(row, subject) for row in rows[first : first + _ROWS_AT_ONCE]]
        portion: list[TileRecord] = _validated(_TILES, values, "data", subject, first)
        records += portion
    return tuple(records)


def _row(row: object, subject: str) -> object:
    if not isinstance(row, msgspec.Raw):
        return row
    try:
        return _from_json(bytes(row))
    except ValueError as error:  # what splitting passes over: text that is not UTF-8, nesting too deep
        raise MetafilePartial(subject, f"is not JSON: {error}", "it may still be under way") from None


def _validated(adapter: TypeAdapter[_T], value: object, key: str, subject: str, first: int = 0) -> _T:
    """The value as a record, or a list of them of which the first has this number."""
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        found = (_problem(value, key, detail, first) for detail in error.errors(include_url=False))
        problems = list(dict.fromkeys(found))
        raise MetafileFault(subject, abbreviate(problems, _MOST_PROBLEMS, "; ")) from None


def _problem(value: object, key: str, detail: Mapping[str, Any], first: int) -> str:
    """One finding of pydantic in words, at the deepest key that is there to blame."""
    path: tuple[str | int, ...] = ()
    for place in detail["loc"]:
        parent, value = value, _child(value, place)
        step = place + first if isinstance(place, int) and not path else place
        if value is _NOTHING:
            if isinstance(parent, dict | list):
                return f"{_key((key, *path, step))}: missing"
            kind = "a list" if isinstance(step, int) else "an object"
            return f"{_key((key, *path))}: should be {kind}, not {shown(parent)}"
        path = (*path, step)
    message = re.sub("^Value error, |^Input | or an instance of .*", "", detail["msg"])
    message = message.replace("a dictionary", "an object")
    return f"{_key((key, *path))}: {message}, not {shown(value)}"


_NOTHING: Final = object()


def _child(value: object, step: str | int) -> object:
    if isinstance(value, dict):
        return value.get(step, _NOTHING)
    if isinstance(value, list) and isinstance(step, int):
        return value[step] if step < len(value) else _NOTHING
    return _NOTHING


def _key(path: Iterable[str | int]) -> str:
    """A path in words.

    >>> _key(("data", 17, "img_meta", "stage_pos", 0))
    'data[17].img_meta.stage_pos[0]'
    """
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def shown(value: object) -> str:
    """A value, short enough for a message."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_path(img_path: str, key: str, subject: str) -> None:
    """Raise MetafileFault unless every part of the path is a plain name."""
    if img_path.startswith("/") or "\\" in img_path or re.match("[A-Za-z]:", img_path):
        problem = "is absolute or has a backslash; a name relative to the metafile's directory is expected"
    elif ".." in img_path.split("/"):
        problem = "leads out of the metafile's directory"
    elif not all(_PLAIN_NAME.fullmatch(part) for part in img_path.split("/")):
        problem = "is no path of plain names"
    else:
        return
    raise MetafileFault(subject, f"{key}: {shown(img_path)} {problem}")
