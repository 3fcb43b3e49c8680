"""The metafile that pyTEMCA writes after a region: bytes -> frozen `Metafile`, and the checks that it can be meant.

Parsed by key, not by position: a list of objects, in any order and number, or one flat object. Unknown keys are
tolerated. What tile specs, z or identity need is insisted on; what is only of interest (focus, statistics, template
matches) is kept where it has its usual type, and counts as absent otherwise.
"""

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import (
    AfterValidator,
    AliasPath,
    FailFast,
    Field,
    GetCoreSchemaHandler,
    Strict,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import CoreSchema, core_schema, from_json

from handlers.errors import MetafileFault, MetafilePartial
from handlers.geometry import Point, stage_to_pixel

MAX_METAFILE_BYTES: Final = 128 * 1024 * 1024
"""Far above the 2.3 MB of a full production section; what is larger is something else."""

STEP_TOLERANCE: Final = 0.02
"""How far the step between neighbours may be off, as a fraction of the frame's width (x) or height (y).

Twice the worst of the real files: the stages of 2017 are up to 36 px off in frames of 3840 (0.94 %), those of 2018 less
than one. And well within the narrowest overlap in use (7 %): tiles whose step passes do overlap."""


CALIBRATION_TOLERANCE: Final = 0.001
"""How far two pixel sizes that should be one may differ, relative to them: 4 px across a frame of 3840."""

MOVE_SIZE_TOLERANCE: Final = 0.05
"""How far the pixel size that stage motion shows may be from the nominal one, relative to it."""

REFERENCE_NAME_DELAY_S: Final = 600.0
"""How far the time in the name of a lens-correction set may be from the header's; in the field it is seconds."""

_REFERENCE_NAME = re.compile(r"_metadata_.*reference.*\.json")
"""How asap-modules tells lens-correction sets."""
_METAFILE_NAME = re.compile(r"_metadata_(\d{14})_(.+)_\.json", re.DOTALL)
_IMAGE_NAME = re.compile(r"(\d{17})_(.+)\.[A-Za-z0-9]+", re.DOTALL)
_TIME = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d(\d{3})?")
_PLAIN_NAME = re.compile(r"(?!\.\.?$)[^/\\\x00-\x1f\x7f]+")
_T = TypeVar("_T")
_EXAMPLES = 3
_MOST_PROBLEMS = 4
_MIN_SIZE_NM, _MAX_SIZE_NM = 0.001, 1e6
_MAX_STAGE_NM = 1e9
_MAX_FRAME = 65536
_MAX_INT = 2**31 - 1


class _OrAbsent:
    """Marks a value that nothing depends on: one of another type counts as absent."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_default_schema(handler(source), default=None, on_error="default")


def _filled(text: str) -> str:
    if not text or not text.isprintable():
        raise ValueError("should be text of printable characters, at least one")
    return text


_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Text = Annotated[str, Strict()]
_Filled = Annotated[_Text, AfterValidator(_filled)]
_Count = Annotated[int, Strict(), Field(ge=0, le=_MAX_INT)]
_FrameSide = Annotated[int, Strict(), Field(ge=1, le=_MAX_FRAME)]
_PixelSize = Annotated[_Number, Field(ge=_MIN_SIZE_NM, le=_MAX_SIZE_NM)]
_StageNm = Annotated[_Number, Field(ge=-_MAX_STAGE_NM, le=_MAX_STAGE_NM)]
_NumberOrAbsent = Annotated[_Number | None, _OrAbsent()]
_IntOrAbsent = Annotated[Annotated[int, Strict(), Field(ge=-(2**63), lt=2**63)] | None, _OrAbsent()]
_TextOrAbsent = Annotated[_Text | None, _OrAbsent()]
_NumbersOrAbsent = Annotated[tuple[_Number, ...] | None, _OrAbsent()]
_PointOrAbsent = Annotated[tuple[_Number, _Number] | None, _OrAbsent()]
_ObjectOrAbsent = Annotated[dict[str, Any] | None, _OrAbsent()]


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

    nm_per_pix: _PixelSize
    x_nm_per_pix: _PixelSize
    y_nm_per_pix: _PixelSize
    angle_deg: Annotated[_Number, Field(validation_alias="angle")]
    """Rotation from stage to camera."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the metafile says of the region as a whole."""

    roi_creation_time: _Filled
    """YYYYMMDDHHMMSS, the microscope's local time, when the region was set up."""
    session_id: _Filled
    grid: _Filled
    """Barcode of the aperture: six digits for sections, `<14 digits>_reference` for lens-correction sets."""
    roi_index: _Count
    """Number of the region within the aperture, from 0."""
    temca_id: _Filled
    camera: Annotated[Camera, Field(validation_alias="camera_info")]
    highmag: Annotated[Calibration, Field(validation_alias=AliasPath("calibration", "highmag"))]
    lowmag: Annotated[
        Annotated[Calibration | None, _OrAbsent()], Field(validation_alias=AliasPath("calibration", "lowmag"))
    ] = None
    overlap: Annotated[_Number, Field(ge=0, lt=1)] | None = None
    """Nominal overlap of neighbours, a fraction of the frame, in both directions."""
    specimen_id: _Text | None = None
    """Name of the block; None where the microscope was not told."""
    media: _Text | None = None
    """The substrate, as in `tape`."""
    media_id: _Text | None = None
    """The reel, as in `0151`."""
    z_index: Annotated[Annotated[int, Strict()] | _Number | None, _OrAbsent()] = None
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
        return "reference" in self.grid

    @property
    def grid_number(self) -> int | None:
        """The number of a section's aperture; None for a lens-correction set."""
        return int(self.grid) if re.fullmatch("[0-9]{1,18}", self.grid) else None

    @property
    def metafile_name(self) -> str:
        """The name that pyTEMCA gives the metafile of this header."""
        return f"_metadata_{self.roi_creation_time}_{self.session_id}_{self.grid}_{self.roi_index}_.json"


class EdgeSide(StrEnum):
    """The side of a tile on which a neighbour was matched."""

    TOP = "top"
    LEFT = "left"
    RIGHT = "right"


_SIDES: Final[Mapping[int, EdgeSide]] = {2: EdgeSide.LEFT, 3: EdgeSide.TOP, 4: EdgeSide.RIGHT}
_NEIGHBOUR: Final[Mapping[EdgeSide, tuple[int, int]]] = {
    EdgeSide.LEFT: (-1, 0),
    EdgeSide.TOP: (0, -1),
    EdgeSide.RIGHT: (1, 0),
}


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
    raster_index: Annotated[_Count, _in_image("raster_index")]
    """Order of acquisition, from 0."""
    angle_deg: Annotated[_Number, _in_image("angle")]
    """Rotation from stage to camera."""
    pixel_size_nm: Annotated[_PixelSize, _in_image("pixel_size")]
    """Nominal nanometres per pixel."""
    pixel_size_x_move_nm: Annotated[_PixelSize, _in_image("pixel_size_x_move")]
    """Effective nanometres per pixel for stage motion in x."""
    pixel_size_y_move_nm: Annotated[_PixelSize, _in_image("pixel_size_y_move")]
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
        name = _IMAGE_NAME.fullmatch(self.img_path)
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
    parts = _parts(_json(raw.removeprefix(b"\xef\xbb\xbf"), subject), subject)
    header = _validated(_HEADER, parts.pop("metadata"), "metadata", subject)
    records = _validated(_TILES, _rows(parts.pop("data"), subject), "data", subject)
    for number, tile in enumerate(records):
        if _PLAIN_NAME.fullmatch(tile.img_path) is None:
            _refuse_path(tile.img_path, f"data[{number}].img_path", subject)
    shared = parts.pop("sharedTransform") if isinstance(parts.get("sharedTransform"), dict) else None
    return Metafile(header, tuple(records), shared, parts)


def image_path(directory: Path, img_path: str) -> Path:
    """The image that a tile record names, in the metafile's directory or below it.

    Raises MetafileFault for a path that is absolute or leads elsewhere. A symbolic link can still do so: whoever opens
    the file looks at that.

    >>> image_path(Path("/data/001050/0"), "a_88_0.tif")
    PosixPath('/data/001050/0/a_88_0.tif')
    """
    if _PLAIN_NAME.fullmatch(img_path) is None:
        _refuse_path(img_path, "img_path", str(directory))
    return directory / img_path


def is_reference_name(file_name: str) -> bool:
    """Whether a metafile is a lens-correction set, by its name alone.

    >>> is_reference_name("_metadata_20170502174048_a_20170502174047_reference_0_.json")
    True
    """
    return _REFERENCE_NAME.fullmatch(file_name) is not None


_HEADER: Final = TypeAdapter(Header)
_TILES: Final[TypeAdapter[list[TileRecord]]] = TypeAdapter(Annotated[list[TileRecord], FailFast()])


def _json(raw: bytes, subject: str) -> object:
    if not raw.strip():
        raise MetafilePartial(subject, "is empty", "it may still be under way")
    if not raw.strip(b"\0"):
        raise MetafilePartial(subject, "has its length but no content yet", "it may still be under way")
    try:
        return from_json(raw, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        problem = str(error)
    if problem.startswith("EOF"):
        raise MetafilePartial(subject, f"is cut off: {problem}", "it may still be under way")
    if problem.startswith("recursion limit"):
        raise MetafileFault(subject, "is nested too deep for a metafile")
    key = _not_a_number(raw)
    if key:
        raise MetafileFault(subject, f"{key}: NaN and Infinity are not numbers in JSON")
    raise MetafilePartial(subject, f"is not JSON: {problem}", "it may still be under way")


def _not_a_number(raw: bytes) -> str:
    """The key of the first NaN or Infinity in what is otherwise JSON; empty where it is not."""
    try:
        value = from_json(raw, allow_inf_nan=True, cache_strings="keys")
    except ValueError:
        return ""
    paths = (path for path, leaf in _leaves(value, ()) if isinstance(leaf, float) and not math.isfinite(leaf))
    return _key(_without_container(value, next(paths, ())))


def _leaves(value: object, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path, value


def _without_container(value: object, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """The path from the element on, so that keys read alike for both containers."""
    return path[1:] if isinstance(value, list) else path


def _parts(value: object, subject: str) -> dict[str, Any]:
    """The keys of all elements in one object, with `metadata` and `data` among them."""
    if isinstance(value, dict):
        elements: list[object] = [value]
    elif isinstance(value, list):
        elements = value
    else:
        raise MetafileFault(subject, f"is not a metafile: a list or an object is expected, not {_shown(value)}")
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
        raise MetafileFault(subject, f"data: should be a list, not {_shown(data)}")
    if not data:
        raise MetafileFault(subject, "data: is empty, no tile was recorded", "was the acquisition aborted?")
    return data


def _validated(adapter: TypeAdapter[_T], value: object, key: str, subject: str) -> _T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problems = list(dict.fromkeys(_problem(value, key, detail) for detail in error.errors(include_url=False)))
        more = len(problems) - _MOST_PROBLEMS
        text = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise MetafileFault(subject, text) from None


def _problem(value: object, key: str, detail: Mapping[str, Any]) -> str:
    """One finding of pydantic in words, at the deepest key that is there to blame."""
    path: tuple[str | int, ...] = ()
    for step in detail["loc"]:
        parent, value = value, _child(value, step)
        if value is _NOTHING:
            if isinstance(parent, dict | list):
                return f"{_key((key, *path, step))}: missing"
            kind = "a list" if isinstance(step, int) else "an object"
            return f"{_key((key, *path))}: should be {kind}, not {_shown(parent)}"
        path = (*path, step)
    message = re.sub("^Value error, |^Input | or an instance of .*", "", detail["msg"])
    message = message.replace("a dictionary", "an object")
    return f"{_key((key, *path))}: {message}, not {_shown(value)}"


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


def _shown(value: object) -> str:
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
    raise MetafileFault(subject, f"{key}: {_shown(img_path)} {problem}")


# ------------------------------------------------------------------------------------------------------------- checking


class Severity(StrEnum):
    ERROR = "error"
    """The metafile cannot be meant."""
    WARNING = "warning"
    """It is off in a way that may have a reason; a strict watch fails it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a metafile that disagrees with something else in it."""

    severity: Severity
    text: str


def check_metafile(
    metafile: Metafile, file_name: str, *, step_tolerance: float = STEP_TOLERANCE
) -> tuple[Finding, ...]:
    """Every disagreement of a metafile with itself and with its name, errors first; none for a sound one.

    Parameters
    ----------
    file_name : the metafile's own name, without directory.
    step_tolerance : see STEP_TOLERANCE.
    """
    tiles = metafile.tiles
    findings = [
        *_check_file_name(metafile.header, file_name),
        *_check_image_names(metafile),
        *_check_duplicates(tiles),
        *_check_raster_index(tiles),
        *_check_time_stamps(metafile),
        *_check_uniform(metafile),
        *_check_calibration(metafile.header),
        *_check_steps(metafile, step_tolerance),
        *_check_matches(tiles),
        *_check_z_index(metafile.header),
        *_check_shared_transform(metafile),
    ]
    return tuple(sorted(findings, key=lambda finding: finding.severity is not Severity.ERROR))


def _error(text: str) -> Finding:
    return Finding(Severity.ERROR, text)


def _warning(text: str) -> Finding:
    return Finding(Severity.WARNING, text)


def _gathered(make: Callable[[str], Finding], what: str, cases: list[str]) -> list[Finding]:
    """One finding for all cases of a kind, the first few of them named."""
    if not cases:
        return []
    more = len(cases) - _EXAMPLES
    return [make(f"{what}: {'; '.join(cases[:_EXAMPLES])}" + (f"; and {more} more" if more > 0 else ""))]


def _check_file_name(header: Header, file_name: str) -> Iterator[Finding]:
    named, told = _METAFILE_NAME.fullmatch(file_name), header.metafile_name
    if named is None:
        yield _warning(f"the name {file_name!r} is not of the form of {told!r}: it cannot be compared with the header")
        return
    if named[2] != f"{header.session_id}_{header.grid}_{header.roi_index}" or not _names_time(header, named[1]):
        yield _error(f"the name {file_name!r} contradicts the header, by which it is {told!r}")


def _names_time(header: Header, named: str) -> bool:
    """Whether the time in a metafile's name is the header's; that of a lens-correction set may be seconds off."""
    if named == header.roi_creation_time:
        return True
    if not header.is_reference or not _TIME.fullmatch(header.roi_creation_time) or not _TIME.fullmatch(named):
        return False
    return abs(_rough_seconds(named) - _rough_seconds(header.roi_creation_time)) <= REFERENCE_NAME_DELAY_S


def _rough_seconds(time: str) -> int:
    """Seconds from an arbitrary start, right for differences within a month: all that names are compared for."""
    year, month, day = int(time[:4]), int(time[4:6]), int(time[6:8])
    days = (year * 12 + month) * 31 + day
    return days * 86400 + int(time[8:10]) * 3600 + int(time[10:12]) * 60 + int(time[12:14])


def _check_image_names(metafile: Metafile) -> Iterator[Finding]:
    header, contradicting, unknown = metafile.header, [], []
    start = f"{header.session_id}_{header.grid}_{header.roi_index}"
    for number, tile in enumerate(metafile.tiles):
        named = _IMAGE_NAME.fullmatch(tile.img_path)
        if named is None:
            unknown.append(f"data[{number}] {tile.img_path!r}")
        elif named[2] != f"{start}_{tile.raster_col}_{tile.raster_row}":
            contradicting.append(
                f"data[{number}] {tile.img_path!r} should end in '_{start}_{tile.raster_col}_{tile.raster_row}'"
            )
    yield from _gathered(_error, "image names contradict the header or raster_pos", contradicting)
    yield from _gathered(_warning, "image names are not of pyTEMCA's form and cannot be compared", unknown)


def _check_duplicates(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """Every image, every tile id and every place occurs once."""
    paths = Counter(tile.img_path for tile in tiles)
    yield from _gathered(_error, "img_path occurs more than once", _repeated(paths))
    names = Counter({tile.img_path: tile.basename for tile in tiles}.values())
    yield from _gathered(
        _error, "images differ in directory or extension only, so tiles would share an id", _repeated(names)
    )
    places = Counter(tile.raster_pos for tile in tiles)
    yield from _gathered(_error, "raster_pos (column, row) occurs more than once", _repeated(places))


def _repeated(counts: Mapping[_T, int]) -> list[str]:
    return [f"{value!r} ({times} times)" for value, times in counts.items() if times > 1]


def _check_raster_index(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """The order of acquisition counts from 0 to n-1."""
    found = Counter(tile.raster_index for tile in tiles)
    yield from _gathered(_warning, "raster_index occurs more than once", _repeated(found))
    missing = [str(number) for number in range(len(tiles)) if number not in found]
    yield from _gathered(_warning, f"raster_index is missing between 0 and {len(tiles) - 1}", missing)


def _check_time_stamps(metafile: Metafile) -> Iterator[Finding]:
    """The times in the image names rise with raster_index, from roi_creation_time on."""
    in_order = sorted(metafile.tiles, key=lambda tile: tile.raster_index)
    stamps = [(stamp, tile.img_path) for tile in in_order if (stamp := tile.time_stamp) is not None]
    wrong = [repr(name) for stamp, name in stamps if not _TIME.fullmatch(stamp)]
    yield from _gathered(_warning, "image names begin with what is no time", wrong)
    back = [
        f"{name!r} after {name_before!r}"
        for (before, name_before), (stamp, name) in itertools.pairwise(stamps)
        if stamp <= before
    ]
    yield from _gathered(_warning, "time stamps do not rise with raster_index", back)
    created = metafile.header.roi_creation_time
    if stamps and not metafile.header.is_reference and stamps[0][0][:14] < created:
        yield _warning(f"the first image, {stamps[0][1]!r}, is older than the region, set up at {created}")


def _check_uniform(metafile: Metafile) -> Iterator[Finding]:
    """One angle and one pixel size in all tiles, and those of the header."""
    tiles, highmag = metafile.tiles, metafile.header.highmag
    for name, told, values in (
        ("angle", highmag.angle_deg, {tile.angle_deg for tile in tiles}),
        ("pixel_size", highmag.nm_per_pix, {tile.pixel_size_nm for tile in tiles}),
        ("pixel_size_x_move", None, {tile.pixel_size_x_move_nm for tile in tiles}),
        ("pixel_size_y_move", None, {tile.pixel_size_y_move_nm for tile in tiles}),
    ):
        if len(values) > 1:
            yield _warning(f"{name} is not the same in all tiles: {min(values)} to {max(values)}")
        elif told is not None and not math.isclose(told, min(values), rel_tol=CALIBRATION_TOLERANCE):
            yield _warning(f"{name} is {min(values)} in the tiles and {told} in the header's highmag calibration")
    first = tiles[0]
    for name, size in (("x", first.pixel_size_x_move_nm), ("y", first.pixel_size_y_move_nm)):
        if not math.isclose(size, first.pixel_size_nm, rel_tol=MOVE_SIZE_TOLERANCE):
            yield _warning(f"pixel_size_{name}_move is {size}, far from the nominal {first.pixel_size_nm}")


def _check_calibration(header: Header) -> Iterator[Finding]:
    x, y = header.highmag.x_nm_per_pix, header.highmag.y_nm_per_pix
    if not math.isclose(x, y, rel_tol=CALIBRATION_TOLERANCE):
        yield _warning(
            f"highmag calibration is {x} nm per pixel in x and {y} in y; the layout of a tile spec has x only"
        )


def _check_steps(metafile: Metafile, tolerance: float) -> Iterator[Finding]:
    """Neighbours in the grid stand one step apart: (width, 0) or (0, height), less the overlap."""
    header, camera = metafile.header, metafile.header.camera
    if header.overlap is None:
        yield _warning("the header has no overlap: the steps between tiles cannot be checked")
        return
    places = {tile.raster_pos: tile.position_px for tile in metafile.tiles}
    slack = tolerance * camera.width, tolerance * camera.height
    steps = (camera.width * (1 - header.overlap), 0.0), (0.0, camera.height * (1 - header.overlap))
    for what, neighbour, step in zip(("column", "row"), ((1, 0), (0, 1)), steps, strict=True):
        off = list(_steps_off(places, neighbour, step, slack))
        expected = f"({step[0]:.1f}, {step[1]:.1f}) px, within ({slack[0]:.1f}, {slack[1]:.1f})"
        yield from _gathered(_warning, f"stage positions are off the grid: a {what} step should be {expected}", off)


def _steps_off(
    places: Mapping[tuple[int, int], Point], neighbour: tuple[int, int], step: Point, slack: Point
) -> Iterator[str]:
    """The steps to neighbours that are off by more than `slack` in x or y, in words."""
    for here, (x, y) in places.items():
        there = here[0] + neighbour[0], here[1] + neighbour[1]
        if there in places:
            dx, dy = places[there][0] - x, places[there][1] - y
            if abs(dx - step[0]) > slack[0] or abs(dy - step[1]) > slack[1]:
                yield f"from {here} to {there} it is ({dx:.1f}, {dy:.1f})"


def _check_matches(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """match_quality is -1 exactly where no neighbour was imaged before; a match stands at its tile or the neighbour."""
    imaged = {tile.raster_pos: tile.raster_index for tile in tiles}
    wrong_quality, wrong_place = [], []
    for tile, match, other in _edges(tiles):
        is_there = imaged.get(other, tile.raster_index) < tile.raster_index
        if match.match_quality is not None and is_there == (match.match_quality == -1):
            wrong_quality.append(f"{tile.raster_pos} {match.side} has {match.match_quality}")
        if (match.col, match.row) not in {tile.raster_pos, other, (None, None)}:
            wrong_place.append(f"{tile.raster_pos} {match.side} stands at {(match.col, match.row)}")
    yield from _gathered(_warning, "match_quality is not -1 exactly where the neighbour is absent", wrong_quality)
    yield from _gathered(_warning, "template matches are recorded for other places", wrong_place)


def _edges(tiles: tuple[TileRecord, ...]) -> Iterator[tuple[TileRecord, EdgeMatch, tuple[int, int]]]:
    """Every template match with its tile and the grid position of the neighbour."""
    for tile in tiles:
        for match in tile.matcher or ():
            if match.side is not None:
                dcol, drow = _NEIGHBOUR[match.side]
                yield tile, match, (tile.raster_col + dcol, tile.raster_row + drow)


def _check_z_index(header: Header) -> Iterator[Finding]:
    grid = header.grid_number
    if header.z_index is not None and grid is not None and header.z_index != grid:
        yield _warning(f"z_index is {header.z_index}, the grid {header.grid}")


def _check_shared_transform(metafile: Metafile) -> Iterator[Finding]:
    """A sharedTransform is an object or null."""
    left_over = (metafile.extra or {}).get("sharedTransform")
    if left_over is not None:
        yield _warning(f"sharedTransform should be an object, not {_shown(left_over)}")
