"""Reader of SBEMimage: one slice, as the lines of a log between two closings.

Positions are those of the importer of EMBL: glob_x and glob_y over the pixel size; a turned grid turns each image about
its own centre.
"""

import ast
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.parse import MAX_METAFILE_BYTES, MAX_TILES
from handlers.acquisition.parts import file_of
from handlers.acquisition.rasters import Raster, raster_of
from handlers.acquisition.sbemimage_log import MOST_LINE_BYTES, LogFollower
from handlers.errors import MetafileFault, MetafilePartial
from handlers.text import excerpt

_HINT: Final = "check the log of SBEMimage"
_SCOPE: Final = "3View"
_NUMPY: Final = re.compile(r"\bnp\.(?:float|int|uint)\d+\(([^()]*)\)")
_TILE_ID: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,9})")
_ARRAY: Final = re.compile(r"(?:^|/)a(\d{1,6})/r(\d{1,6})/")
_MOST_NM: Final = 1e12
_MOST_SIDE: Final = 65536


class SbemImage:
    """Reader of SBEMimage's logs."""

    format = "sbemimage"
    pattern = "metadata_*.txt"
    fields = ("specimen_id", "session_id", "z_index", "roi_index")
    tilespecs: Mapping[str, str] = {"tile_id": "{basename}", "positions": "exact", "origin": "stage"}
    states_pixel_size = True
    follower = LogFollower

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the slice in the lines of a log. Raises as `Reader.parse`."""
        subject = str(path)
        if not content.strip(b"\0\r\n\t "):
            raise MetafilePartial(subject, "is empty", "it may still be being copied")
        found = _latest(_records(content, subject), subject)
        if not found:
            raise MetafilePartial(subject, "has no tile", "it may still be being written")
        return _acquisition(found, path)

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return the contradictions that were seen while the slice was read."""
        return acquisition.findings

    def image_directory(self, path: Path) -> Path:
        """Return the base directory of the stack, which holds meta/logs and tiles."""
        return file_of(path).parent.parent.parent


@dataclass(frozen=True, slots=True)
class _Grid:
    """A grid in the description of a session."""

    pixel_size_nm: float
    rotation_deg: float


@dataclass(frozen=True, slots=True)
class _Session:
    """The description of a run."""

    grids: Mapping[str, _Grid]
    thickness_nm: float | None


@dataclass(frozen=True, slots=True)
class _Record:
    """A tile of the log, with the session that it belongs to."""

    tile_id: str
    grid: str
    number: int
    """Of the tile in its grid."""
    slice: int
    img_path: str
    width: int
    height: int
    glob_nm: tuple[float, float, float]
    time: float
    numbers: dict[str, float]
    session: _Session

    @property
    def of_grid(self) -> _Grid:
        return self.session.grids[self.grid]


# --- lines


def _records(content: bytes, subject: str) -> Iterator[_Record]:
    session: _Session | None = None
    if len(content) > MAX_METAFILE_BYTES:
        raise MetafileFault(subject, f"should have at most {MAX_METAFILE_BYTES} bytes, has {len(content)}", _HINT)
    lines = content.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        kind, _, text = raw.rstrip(b"\r").partition(b": ")
        if number == len(lines) and raw:
            raise MetafilePartial(subject, f"is cut off in line {number}", "it may still be being written")
        where = f"line {number} ({kind[:20].decode(errors='replace')})"
        if kind == b"SESSION":
            session = _session(_Values(text, where, subject))
        elif kind == b"TILE":
            if session is None:
                raise MetafileFault(subject, f"{where}: no line SESSION stands before it", _HINT)
            yield _record(_Values(text, where, subject), session)


class _Values:
    """The values of a line, a Python literal."""

    def __init__(self, text: bytes, where: str, subject: str) -> None:
        self._where, self._subject = where, subject
        if len(text) > MOST_LINE_BYTES:
            raise self.fault(f"should have at most {MOST_LINE_BYTES} bytes, has {len(text)}")
        try:
            found = ast.literal_eval(_NUMPY.sub(r"\1", text.decode().strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.fault("should be values in braces, as Python writes them")
        self._values: dict[Any, Any] = found

    def fault(self, problem: str) -> MetafileFault:
        return MetafileFault(self._subject, f"{self._where}: {problem}", _HINT)

    def require_inside(self, img_path: str) -> None:
        require_relative(img_path, f"{self._where}: filename", self._subject)

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def number(self, key: str, least: float, most: float) -> float:
        value = self._values.get(key)
        if not (_is_number(value) and least <= value <= most):
            raise self.fault(f"{key} should be a number from {least:g} to {most:g}, is {excerpt(value)}")
        return float(value)

    def whole(self, key: str, least: int, most: int) -> int:
        value = self.number(key, least, most)
        if not value.is_integer():
            raise self.fault(f"{key} should be a whole number, is {excerpt(self._values[key])}")
        return int(value)

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if not isinstance(value, str) or not value.isprintable():
            raise self.fault(f"{key} should be printable text, is {excerpt(value)}")
        return value

    def numbers(self, key: str, least: float, most: float) -> list[float]:
        values = self._values.get(key)
        if not isinstance(values, list) or not all(_is_number(each) and least <= each <= most for each in values):
            raise self.fault(f"{key} should be a list of numbers from {least:g} to {most:g}, is {excerpt(values)}")
        return [float(each) for each in values]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _session(values: _Values) -> _Session:
    names = values.get("grids")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise values.fault(f"grids should be a list of texts, is {excerpt(names)}")
    sizes = values.numbers("pixel_sizes", 1e-3, 1e6)
    turns = values.numbers("rotation_angles", -360, 360)
    if not len(names) == len(sizes) == len(turns):
        raise values.fault("grids, pixel_sizes and rotation_angles should have the same length")
    thickness = values.get("slice_thickness")
    thickness_nm = float(thickness) if _is_number(thickness) and 0 < thickness <= 1e6 else None
    grids = {name: _Grid(*each) for name, *each in zip(names, sizes, turns, strict=True)}
    return _Session(grids, thickness_nm)


def _record(values: _Values, session: _Session) -> _Record:
    tile_id = values.text("tileid")
    parts = _TILE_ID.fullmatch(tile_id)
    if parts is None:
        raise values.fault(f"tileid should be grid.tile.slice, is {excerpt(tile_id)}")
    if parts[1] not in session.grids:
        raise values.fault(f"grid {parts[1]} is not among the grids of the session")
    img_path = values.text("filename").replace("\\", "/")
    values.require_inside(img_path)
    x, y, z = (values.number(f"glob_{axis}", -_MOST_NM, _MOST_NM) for axis in "xyz")
    number = values.whole("slice_counter", 0, 10**9)
    if int(parts[3]) != number:
        raise values.fault(f"slice_counter is {number}, but tileid is {tile_id}")
    return _Record(
        tile_id,
        parts[1],
        int(parts[2]),
        number,
        img_path,
        values.whole("tile_width", 1, _MOST_SIDE),
        values.whole("tile_height", 1, _MOST_SIDE),
        (x, y, z),
        values.number("timestamp", 0, 1e11),
        _focus(values),
        session,
    )


def _focus(values: _Values) -> dict[str, float]:
    """Return working distance (m) and stigmation (%); runs of 2020 have the working distance alone."""
    found = values.get("wd_stig_xy")
    if not isinstance(found, list) or len(found) != 3:
        found = [values.get("working_distance")]
    named = zip(("working_distance", "stigmation_x", "stigmation_y"), found, strict=False)
    return {name: float(value) for name, value in named if _is_number(value) and abs(value) < 1e9}


# --- the slice


def _latest(records: Iterator[_Record], subject: str) -> list[_Record]:
    """Return one record for each tile, in their order: the latest of those that are listed twice."""
    found: dict[str, _Record] = {}
    for record in records:
        before = found.get(record.tile_id)
        if before is None or record.time >= before.time:
            found[record.tile_id] = record
        if len(found) > MAX_TILES:
            raise MetafileFault(subject, f"should have at most {MAX_TILES:,} tiles, has more", _HINT)
    records_left = list(found.values())
    for what, values in (
        ("slices", {record.slice for record in records_left}),
        ("regions of an array", {_array(record) for record in records_left}),
    ):
        if len(values) > 1:
            raise MetafileFault(subject, f"should have tiles of one slice, has {len(values)} {what}", _HINT)
    _require_one_size(records_left, subject)
    return records_left


def _require_one_size(records: list[_Record], subject: str) -> None:
    sizes: dict[str, _Grid] = {}
    for record in records:
        if sizes.setdefault(record.grid, record.of_grid) != record.of_grid:
            problem = f"grid {record.grid} changes its pixel size or rotation within the slice"
            raise MetafileFault(subject, problem, "image the slice again, with one setting")


def _array(record: _Record) -> tuple[int, int] | None:
    """Return array and region of a tile that array mode wrote."""
    found = _ARRAY.search(record.img_path)
    return (int(found[1]), int(found[2])) if found else None


def _acquisition(records: list[_Record], path: Path) -> Acquisition:
    first, array = records[0], _array(records[0])
    log = file_of(path)
    size = first.of_grid.pixel_size_nm
    rasters = _rasters(records)
    return Acquisition(
        name=path.name,
        tiles=tuple(
            _tile(record, index, size, rasters, array, interval_s)
            for index, (record, interval_s) in enumerate(zip(records, _intervals_s(records), strict=True))
        ),
        facts={
            "specimen_id": log.parent.parent.parent.name or None,
            "session_id": log.stem.removeprefix("metadata_"),
            "z_index": array[1] if array else first.slice,
            "roi_index": array[1] if array else None,
        },
        pixel_size_nm=(size, size),
        scope_id=_SCOPE,
        camera_id=_SCOPE,
        thickness_nm=first.session.thickness_nm,
        depth_nm=first.glob_nm[2],
        findings=tuple(_findings(records, rasters)),
    )


def _tile(
    record: _Record,
    index: int,
    size_nm: float,
    rasters: Mapping[str, Raster | None],
    array: tuple[int, int] | None,
    interval_s: float | None,
) -> Tile:
    raster = rasters[record.grid]
    place = raster.place(record.number) if raster else None
    prefix = f"a{array[0]}.r{array[1]}." if array else ""
    return Tile(
        img_path=record.img_path,
        name=prefix + record.tile_id,
        position_px=(record.glob_nm[0] / size_nm, record.glob_nm[1] / size_nm),
        width=record.width,
        height=record.height,
        rotation_deg=record.of_grid.rotation_deg,
        scale=record.of_grid.pixel_size_nm / size_nm,
        raster_col=place[0] if place else None,
        raster_row=place[1] if place else None,
        grid=record.grid,
        raster_index=index,
        stage_x=record.glob_nm[0],
        stage_y=record.glob_nm[1],
        angle_deg=record.of_grid.rotation_deg,
        numbers=record.numbers | ({"interval": interval_s} if interval_s is not None else {}),
    )


def _intervals_s(records: list[_Record]) -> list[float | None]:
    """Return the seconds since the tile before; None for the first, and where time runs backwards."""
    steps = (after.time - before.time for before, after in itertools.pairwise(records))
    return [None, *(step if step >= 0 else None for step in steps)]


def _rasters(records: list[_Record]) -> dict[str, Raster | None]:
    """Return the raster of each grid, from the places of its tiles, turned back."""
    of_grid: dict[str, dict[int, Point]] = {}
    for record in records:
        turn = math.radians(record.of_grid.rotation_deg)
        x, y, _ = record.glob_nm
        back = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        of_grid.setdefault(record.grid, {})[record.number] = back
    return {grid: raster_of(places) for grid, places in of_grid.items()}


def _findings(records: list[_Record], rasters: Mapping[str, Raster | None]) -> Iterator[Finding]:
    """Yield a warning for each grid whose tiles are further apart than they are large."""
    for grid, raster in rasters.items():
        record = next(record for record in records if record.grid == grid)
        size = record.of_grid.pixel_size_nm
        sides = (("x", raster and raster.step_x, record.width), ("y", raster and raster.step_y, record.height))
        for axis, step, side in sides:
            if step and step > side * size * 1.001:
                text = (
                    f"grid {grid}: neighbours are {step:g} nm apart in {axis}, but a tile has {side} pixels of "
                    f"{size:g} nm: the pixel size of the session contradicts the positions"
                )
                yield Finding(Severity.WARNING, text)
