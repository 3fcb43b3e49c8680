"""Reader of the coordinate tables of Zeiss MultiSEM: one `full_image_coordinates.txt` per region. Pure.

A line names an image, with backslashes, and its position in pixels. Three generations of names are read: those of the
instrument up to 2021, those of 2022, and those of an ion-beam system since 2024.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.formats.rasters import hexagonal_cells
from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.limits import MAX_TILES
from handlers.errors import MetafileFault, MetafilePartial
from handlers.text import abbreviate, excerpt

_COLUMNS: Final = 4
_MAX_PIXELS: Final = 1e12
_HINT: Final = "check the program that wrote this table"
_TIMED: Final = re.compile(
    r"(?P<section>\d+)_(?P<mfov>\d{6})_(?P<beam>\d{3})_(?P<day>\d{4}-\d\d-\d\d)T(?P<time>\d{6})(?P<rest>\d*)"
)
"""Name of an image up to 2022: section, mFOV, beam, local time with seven digits below the second."""
_NUMBERED: Final = re.compile(r"(?:corrected_)?sfov_(?P<beam>\d+)", re.IGNORECASE)
_MFOV: Final = re.compile(r"mfov_(?P<mfov>\d+)", re.IGNORECASE)
_SCAN: Final = re.compile(r"scan_(\d{1,9})")
_SLAB: Final = re.compile(r"slab_(\d{1,9})|(\d{1,9})_(?:s_(\d{1,9})|S(\d{1,9})R(\d{1,9}))?")
_WORKFLOW: Final = re.compile(r"(.+)_(\d{8}_\d\d-\d\d-\d\d)")
_BETWEEN: Final = ("msem", "imaging", "scans")
"""Directories between the wafer's and the scan's."""


class MultiSem:
    """Reader of MultiSEM's coordinate tables."""

    format = "multisem"
    pattern = "full_image_coordinates.txt"
    fields = ("specimen_id", "session_id", "grid", "roi_index", "z_index")
    tilespecs: Mapping[str, str] = {}
    follower = None
    states_pixel_size = False

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the region of a coordinate table. Raises as `Reader.parse`."""
        subject = str(path)
        rows = _latest(_rows(content, subject), subject)
        cells, facts = _cells(rows), _facts(path)
        if not rows:
            raise MetafilePartial(subject, "names no image", "it may still be being copied")
        return Acquisition(
            name=path.name,
            tiles=tuple(
                _tile(row, _name_in(row, facts["grid"]), index, cells[index]) for index, row in enumerate(rows)
            ),
            facts=facts,
            pixel_size_nm=None,
            findings=tuple(_missing_beams(rows)),
        )

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return the findings of `parse`: mFOVs that lack beams."""
        return acquisition.findings

    def image_directory(self, path: Path) -> Path:
        """Return the table's own directory."""
        return path.parent


@dataclass(frozen=True, slots=True)
class _Row:
    """An image of the table."""

    img_path: str
    position: Point
    key: tuple[str, ...]
    """Key that all takes of one image share."""
    time: str
    """Time of the take, in a form that sorts by time; empty if the name has no time."""
    name: str
    mfov: str | None
    beam: int | None


def _rows(content: bytes, subject: str) -> Iterator[_Row]:
    if not content.strip(b"\0\r\n\t "):
        raise MetafilePartial(subject, "is empty", "it may still be being copied")
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if len(lines) > 2 * MAX_TILES:
        raise MetafileFault(subject, f"should have at most {2 * MAX_TILES:,} lines, has {len(lines):,}", _HINT)
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip(b"\r")
        if not line.strip():
            continue
        cells = line.split(b"\t")
        if number == len(lines) and (len(cells) < _COLUMNS or not cells[-1]):
            raise MetafilePartial(subject, f"is truncated in line {number}", "it may still be being copied")
        row = _row(cells, number, subject)
        if not PurePosixPath(row.img_path).name.lower().startswith("thumbnail_"):
            yield row


def _row(cells: list[bytes], number: int, subject: str) -> _Row:
    if len(cells) != _COLUMNS:
        raise MetafileFault(
            subject, f"line {number}: should have {_COLUMNS} columns between tabs, has {len(cells)}", _HINT
        )
    try:
        img_path = cells[0].decode().replace("\\", "/")
    except UnicodeDecodeError:
        raise MetafileFault(subject, f"line {number}: the image's name is not UTF-8", _HINT) from None
    require_relative(img_path, f"line {number}", subject)
    x, y = (_pixels(cells[column], name, number, subject) for column, name in ((1, "x"), (2, "y")))
    return _named(img_path, (x, y))


def _pixels(cell: bytes, name: str, number: int, subject: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= _MAX_PIXELS:
        found = excerpt(cell[:100].decode(errors="replace"))
        raise MetafileFault(subject, f"line {number}: {name} should be a number of pixels, is {found}", _HINT)
    return value


def _named(img_path: str, position: Point) -> _Row:
    """Return a row with the values in its image's name. A name of another form is kept as it is."""
    path = PurePosixPath(img_path)
    if timed := _TIMED.fullmatch(path.stem):
        section, mfov, beam, day, time, rest = timed.groups()
        name = f"{section}_{mfov}_{beam}_{day.replace('-', '')}_{time}"
        return _Row(img_path, position, (section, mfov, beam), f"{day}T{time}{rest}", name, mfov, int(beam))
    numbered, mfov_dir = _NUMBERED.fullmatch(path.stem), _MFOV.fullmatch(path.parent.name)
    if numbered and mfov_dir:
        mfov, beam = mfov_dir["mfov"], numbered["beam"]
        return _Row(img_path, position, (mfov, beam), "", f"m{mfov}_s{beam}", mfov, int(beam))
    name = "_".join([*path.parent.parts, path.stem])
    return _Row(img_path, position, (img_path,), "", name, None, None)


def _latest(rows: Iterator[_Row], subject: str) -> list[_Row]:
    """Return one row for each image, in the order of the table. Of several takes, the latest counts."""
    found: dict[tuple[str, ...], _Row] = {}
    for row in rows:
        before = found.get(row.key)
        if before is None or row.time >= before.time:
            found[row.key] = row
        if len(found) > MAX_TILES:
            raise MetafileFault(subject, f"should have at most {MAX_TILES:,} tiles, has more", _HINT)
    return list(found.values())


def _cells(rows: list[_Row]) -> list[tuple[int, int]] | list[tuple[None, None]]:
    """Return column and row of each tile: beams form a hexagonal lattice, and so do mFOVs.

    All are None if the positions form no lattice, for example because of an imprecise stage.
    """
    of_mfov: dict[str | None, list[Point]] = {}
    for row in rows:
        of_mfov.setdefault(row.mfov, []).append(row.position)
    found = hexagonal_cells([row.position for row in rows], of_mfov.values()) if rows and None not in of_mfov else None
    return found or [(None, None)] * len(rows)


def _name_in(row: _Row, slab: object) -> str:
    """Return the name of a tile. A name of numbers gets its slab as a prefix, since every slab has the same numbers."""
    return f"{slab}_{row.name}" if slab and row.mfov is not None and not row.time else row.name


def _tile(row: _Row, name: str, index: int, at: tuple[int, int] | tuple[None, None]) -> Tile:
    x, y = row.position
    return Tile(
        img_path=row.img_path,
        name=name,
        position_px=row.position,
        width=None,
        height=None,
        raster_col=at[0],
        raster_row=at[1],
        raster_index=index,
        stage_x=math.trunc(x),
        stage_y=math.trunc(y),
    )


def _missing_beams(rows: list[_Row]) -> Iterator[Finding]:
    """Yield a warning for mFOVs that lack a beam that other mFOVs of the region have."""
    beams = Counter(row.beam for row in rows if row.beam is not None)
    mfovs = dict.fromkeys(row.mfov for row in rows if row.mfov is not None)
    if not beams or all(times == len(mfovs) for times in beams.values()):
        return
    there = {(row.mfov, row.beam) for row in rows}
    lacking = [f"mFOV {mfov} beam {beam}" for mfov in mfovs for beam in sorted(beams) if (mfov, beam) not in there]
    yield Finding(Severity.WARNING, f"{len(lacking)} images of the region are not listed: {abbreviate(lacking, 3)}")


def _facts(path: Path) -> dict[str, object]:
    """Return the facts in the names of the directories above a table: wafer, scan or workflow, slab and its number."""
    facts: dict[str, object] = dict.fromkeys(MultiSem.fields)
    directories = path.parent.parts[1:] if path.is_absolute() else path.parent.parts
    for above, name in enumerate(directories):
        if scan := _SCAN.fullmatch(name):
            facts["z_index"], facts["specimen_id"] = int(scan[1]), _wafer(directories[:above])
        elif workflow := _WORKFLOW.fullmatch(name):
            facts["session_id"] = name
            facts["specimen_id"] = facts["specimen_id"] or workflow[1]
        elif slab := _SLAB.fullmatch(name):
            facts |= {"grid": slab[1] or slab[2]}
            if number := slab[3] or slab[4]:
                facts["z_index"] = int(number)
                facts["roi_index"] = int(slab[5]) if slab[5] else None
    return facts


def _wafer(directories: tuple[str, ...]) -> str | None:
    return next((name for name in reversed(directories) if name not in _BETWEEN), None)


# --- regions that were imaged again


class Take(NamedTuple):
    """One imaging of a region."""

    section: tuple[str, ...]
    """Key that all takes of a region share."""
    time: str
    """Time of the take, in a form that sorts by time."""


def take_of(table: Path) -> Take | None:
    """Return the region that a table describes and the time of its scan; None if the path does not show both.

    The time is in the name of the directory above the region. A section is known by the second part of the region's
    name, as in `090_S90R1` or `008_s_4`: its first part differs between workflows. A slab is known by its directory.

    >>> take_of(Path("/data/H01_20210525_21-38-12/090_S90R1/full_image_coordinates.txt"))
    Take(section=('/data', 'H01', 'S90R1'), time='20210525_21-38-12')
    """
    region, scan = table.parent.name, table.parent.parent
    workflow, slab = _WORKFLOW.fullmatch(scan.name), _SLAB.fullmatch(region)
    if table.name != MultiSem.pattern or workflow is None or slab is None:
        return None
    section = region.partition("_")[2] if slab[3] or slab[4] else region
    return Take((str(scan.parent), workflow[1], section), workflow[2])
