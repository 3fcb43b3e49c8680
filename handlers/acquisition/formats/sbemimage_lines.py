"""Parsing the lines of SBEMimage's logs, Python literals, into tiles and sessions. Pure."""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from handlers.acquisition.formats.sbemimage_log import MAX_LINE_BYTES
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.limits import MAX_METAFILE_BYTES
from handlers.acquisition.section_path import Region
from handlers.errors import MetafileFault, MetafilePartial
from handlers.text import excerpt

HINT: Final = "check the log of SBEMimage"
_NUMPY: Final = re.compile(r"\bnp\.(?:float|int|uint)\d+\(([^()]*)\)")
_TILE_ID: Final = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,9})")
_REGION: Final = re.compile(r"tiles/a(\d{1,6})/r(\d{1,6})/")
_MAX_NM: Final = 1e12
_MAX_SIDE: Final = 65536


@dataclass(frozen=True, slots=True)
class Grid:
    """Settings of a grid in a session."""

    pixel_size_nm: float
    rotation_deg: float


@dataclass(frozen=True, slots=True)
class Session:
    """The settings of a run, from the first line of its log."""

    grids: Mapping[str, Grid]
    thickness_nm: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """A tile of the log, with the session that it belongs to."""

    tile_id: str
    grid: str
    number: int
    """Index of the tile in its grid."""
    slice: int
    img_path: str
    width: int
    height: int
    glob_nm: tuple[float, float, float]
    time: float
    numbers: dict[str, float]
    session: Session

    @property
    def grid_settings(self) -> Grid:
        """The settings of the tile's grid."""
        return self.session.grids[self.grid]

    @property
    def region(self) -> Region | None:
        """Array and region of a tile in array mode; else None."""
        found = _REGION.match(self.img_path)
        return (int(found[1]), int(found[2])) if found else None


def records_in(content: bytes, subject: str) -> Iterator[Record]:
    """Yield the tiles in the lines of a log. Raises as `Reader.parse`."""
    session: Session | None = None
    if len(content) > MAX_METAFILE_BYTES:
        raise MetafileFault(subject, f"should have at most {MAX_METAFILE_BYTES} bytes, has {len(content)}", HINT)
    lines = content.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        kind, _, text = raw.rstrip(b"\r").partition(b": ")
        if number == len(lines) and raw:
            raise MetafilePartial(subject, f"is truncated in line {number}", "it may still be being written")
        where = f"line {number} ({kind[:20].decode(errors='replace')})"
        if kind == b"SESSION":
            session = _session(_Values(text, where, subject))
        elif kind == b"TILE":
            if session is None:
                raise MetafileFault(subject, f"{where}: no line SESSION comes before it", HINT)
            yield _record(_Values(text, where, subject), session)


class _Values:
    """The values of a line, which is a Python literal."""

    def __init__(self, text: bytes, where: str, subject: str) -> None:
        self._where, self._subject = where, subject
        if len(text) > MAX_LINE_BYTES:
            raise self.fault(f"should have at most {MAX_LINE_BYTES} bytes, has {len(text)}")
        try:
            found = ast.literal_eval(_NUMPY.sub(r"\1", text.decode().strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self.fault("should be values in braces, as Python writes them")
        self._values: dict[Any, Any] = found

    def fault(self, problem: str) -> MetafileFault:
        return MetafileFault(self._subject, f"{self._where}: {problem}", HINT)

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


def _session(values: _Values) -> Session:
    names = values.get("grids")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise values.fault(f"grids should be a list of texts, is {excerpt(names)}")
    sizes = values.numbers("pixel_sizes", 1e-3, 1e6)
    turns = values.numbers("rotation_angles", -360, 360)
    if not len(names) == len(sizes) == len(turns):
        raise values.fault("grids, pixel_sizes and rotation_angles should have the same length")
    thickness = values.get("slice_thickness")
    thickness_nm = float(thickness) if _is_number(thickness) and 0 < thickness <= 1e6 else None
    grids = {name: Grid(*each) for name, *each in zip(names, sizes, turns, strict=True)}
    return Session(grids, thickness_nm)


def _record(values: _Values, session: Session) -> Record:
    tile_id = values.text("tileid")
    parts = _TILE_ID.fullmatch(tile_id)
    if parts is None:
        raise values.fault(f"tileid should be grid.tile.slice, is {excerpt(tile_id)}")
    if parts[1] not in session.grids:
        raise values.fault(f"grid {parts[1]} is not among the grids of the session")
    img_path = values.text("filename").replace("\\", "/")
    values.require_inside(img_path)
    x, y, z = (values.number(f"glob_{axis}", -_MAX_NM, _MAX_NM) for axis in "xyz")
    number = values.whole("slice_counter", 0, 10**9)
    if int(parts[3]) != number:
        raise values.fault(f"slice_counter is {number}, but tileid is {tile_id}")
    return Record(
        tile_id,
        parts[1],
        int(parts[2]),
        number,
        img_path,
        values.whole("tile_width", 1, _MAX_SIDE),
        values.whole("tile_height", 1, _MAX_SIDE),
        (x, y, z),
        values.number("timestamp", 0, 1e11),
        _focus(values),
        session,
    )


def _focus(values: _Values) -> dict[str, float]:
    """Return working distance (m) and stigmation (%); logs of 2020 have only the working distance."""
    found = values.get("wd_stig_xy")
    if not isinstance(found, list) or len(found) != 3:
        found = [values.get("working_distance")]
    named = zip(("working_distance", "stigmation_x", "stigmation_y"), found, strict=False)
    return {name: float(value) for name, value in named if _is_number(value) and abs(value) < 1e9}
