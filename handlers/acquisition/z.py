"""Finding z, the section's place in the volume, by one of six rules. Pure except `read_z_table`."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.fields import Numeral
from handlers.acquisition.findings import Finding, Severity
from handlers.errors import SettingsFault, ZFault, reading_fault
from handlers.regular_file import NotRegular, read_regular
from handlers.text import abbreviate

DEFAULT_NAME_PATTERN: Final = r"_(?P<z>\d+)_\d+_\.json$"
"""Matches the grid of a section in `_metadata_{time}_{session}_{grid}_{roi}_.json`."""

MAX_TABLE_BYTES: Final = 64 * 1024 * 1024


class ZRuleKind(StrEnum):
    """Source of z."""

    HEADER = "header"
    """z_index of the header."""
    GRID = "grid"
    """The aperture's number."""
    NAME = "name"
    """A number in the name of the metafile."""
    TABLE = "table"
    """A row of a table."""
    DEPTH = "depth"
    """The depth of the section divided by the distance of two z, for formats that record the depth."""
    FIXED = "fixed"
    """One configured z for all sections."""


@dataclass(frozen=True, slots=True)
class ZRow:
    """A row of a z table: the values that a metafile must have, and its z."""

    line: int
    """Number of the line in the file, from 1."""
    keys: Mapping[str, str]
    """Column -> required value. Empty cells are left out: they match any value."""
    z: float


@dataclass(frozen=True, slots=True)
class ZTable:
    """A table of z by values of the header or the file name."""

    name: str
    """Path of the table's file."""
    rows: tuple[ZRow, ...]


@dataclass(frozen=True, slots=True)
class ZRule:
    """The configured rule for z. Raises SettingsFault, with the setting as subject, for an invalid rule."""

    rule: ZRuleKind
    offset: float = 0.0
    """Added to the result of any rule, unless `offsets_by_media` lists the reel."""
    offsets_by_media: Mapping[str, float] = field(default_factory=dict)
    """media_id -> offset of that reel, instead of `offset`."""
    name_pattern: str | None = None
    """Regular expression with a group `z`, searched in the metafile's name, or in its path if it has a `/`."""
    table: ZTable | None = None
    fixed: float | None = None
    spacing_nm: float | None = None
    """Distance of two z, for the rule `depth`; None: the section's own thickness."""

    def __post_init__(self) -> None:
        listed = {f"offsets_by_media.{media}": offset for media, offset in self.offsets_by_media.items()}
        for key, offset in {"offset": self.offset, **listed, "z": self.fixed or 0.0}.items():
            if not math.isfinite(offset):
                raise SettingsFault(f"z.{key}", f"should be a finite number, is {offset}")
        if self.rule is ZRuleKind.TABLE and self.table is None:
            raise SettingsFault("z.table", 'is missing: rule = "table" needs it', "set it to the path of a CSV file")
        if self.rule is ZRuleKind.FIXED and self.fixed is None:
            raise SettingsFault("z.z", 'is missing, but rule = "fixed" needs it')
        if self.name_pattern is not None:
            _require_z_group(self.name_pattern)


def _require_z_group(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise SettingsFault("z.name_pattern", f"should be a regular expression, is {pattern!r}: {error}") from None
    if "z" not in groups:
        raise SettingsFault("z.name_pattern", f"{pattern!r} has no group z", r"write (?P<z>\d+) in the place of z")


def z_for(acquisition: Acquisition, metafile_path: Path, rule: ZRule) -> float:
    """Return z of the metafile's section: the rule's result plus the offset of its reel, not rounded.

    Raises ZFault, with the metafile's name as subject, if the rule finds no z or several.
    """
    name = metafile_path.name
    match rule.rule:
        case ZRuleKind.HEADER:
            found = _z_of_header(acquisition, name)
        case ZRuleKind.GRID:
            found = _z_of_grid(acquisition, name)
        case ZRuleKind.NAME:
            found = _z_of_name(metafile_path, rule.name_pattern or DEFAULT_NAME_PATTERN)
        case ZRuleKind.TABLE:
            assert rule.table is not None
            found = _z_of_table(acquisition, name, rule.table)
        case ZRuleKind.DEPTH:
            found = _z_of_depth(acquisition, name, rule.spacing_nm)
        case ZRuleKind.FIXED:
            assert rule.fixed is not None
            found = rule.fixed
    return found + offset_for(acquisition, rule)


def offset_for(acquisition: Acquisition, rule: ZRule) -> float:
    """Return the offset of the section's reel, or the general offset if the rule does not list the reel."""
    listed = _listed_offset(acquisition, rule)
    return rule.offset if listed is None else listed


def _listed_offset(acquisition: Acquisition, rule: ZRule) -> float | None:
    """Return the offset listed for the section's reel; leading zeros are ignored if the header has a number."""
    media = acquisition.fact("media_id")
    if not isinstance(media, Numeral) or media in rule.offsets_by_media:
        return rule.offsets_by_media.get(str(media or ""))
    return next((offset for listed, offset in rule.offsets_by_media.items() if _matches(media, listed)), None)


def check_z(acquisition: Acquisition, z: float, rule: ZRule) -> tuple[Finding, ...]:
    """Return warnings if z minus its offset differs from the header's z_index or grid, or if the reel is not listed.

    A difference may be intended, for example if a table reorders sections, so it is never an error. z is compared only
    for pyTEMCA: the numbers of other formats, such as a slice of SBEMimage, need not equal z.
    """
    texts = []
    if rule.offsets_by_media and _listed_offset(acquisition, rule) is None:
        listed = abbreviate(sorted(rule.offsets_by_media), 8)
        texts.append(
            f"media_id {acquisition.fact('media_id')!r} is not among those with an offset ({listed}): "
            f"{rule.offset} was added"
        )
    without_offset = z - offset_for(acquisition, rule)
    shown = f"z is {z}" + (f", {without_offset} without its offset" if without_offset != z else "")
    numbers = {"z_index": _z_index(acquisition), "grid": acquisition.grid_number} if acquisition.metafile else {}
    for name, number in numbers.items():
        if number is not None and not math.isclose(number, without_offset, abs_tol=1e-6):
            texts.append(f"{shown}, but the header has {name} {number}")
    return tuple(Finding(Severity.WARNING, text) for text in texts)


def _z_index(acquisition: Acquisition) -> float | None:
    z_index = acquisition.fact("z_index")
    return z_index if isinstance(z_index, int | float) else None


def _z_of_header(acquisition: Acquisition, name: str) -> float:
    z_index = _z_index(acquisition)
    if z_index is None:
        raise ZFault(
            name,
            "metadata.z_index: should be a number, is missing or of another type",
            'use z.rule = "grid" or "table"',
        )
    return _finite(z_index, f"z_index {z_index}", name)


def _z_of_grid(acquisition: Acquisition, name: str) -> float:
    if acquisition.fact("grid") is None:
        raise ZFault(name, "metadata.grid: missing, but the z rule needs it", 'use z.rule = "name", "table" or "fixed"')
    if acquisition.grid_number is None:
        raise ZFault(
            name,
            f"metadata.grid: should be a number, is {acquisition.fact('grid')!r}",
            'use z.rule = "table" or "fixed" for such sets',
        )
    return float(acquisition.grid_number)


def _z_of_depth(acquisition: Acquisition, name: str, spacing_nm: float | None) -> float:
    depth_nm, spacing_nm = acquisition.depth_nm, spacing_nm or acquisition.thickness_nm
    if depth_nm is None or spacing_nm is None:
        raise ZFault(name, "has no depth or no thickness of the section", 'use another z.rule, such as "header"')
    return _finite(depth_nm / spacing_nm, f"depth {depth_nm} nm", name)


def _z_of_name(path: Path, pattern: str) -> float:
    found = re.search(pattern, str(path) if "/" in pattern else path.name)
    if found is None or found["z"] is None:
        raise ZFault(path.name, f"the name does not match {pattern!r}", "correct z.name_pattern")
    return _finite(found["z"], f"{found['z']!r}, found by {pattern!r},", path.name)


def _finite(value: str | float, source: str, name: str) -> float:
    try:
        z = float(value)
    except (ValueError, OverflowError):
        z = math.nan
    if not math.isfinite(z):
        raise ZFault(name, f"{source} should be a finite number")
    return z


def _z_of_table(acquisition: Acquisition, name: str, table: ZTable) -> float:
    facts = {column: _text_of(acquisition.fact(column)) for column in _COLUMNS} | {"metafile": name}
    rows = [row for row in table.rows if all(_matches(facts[column], text) for column, text in row.keys.items())]
    if not rows:
        wanted = ", ".join(f"{column} {facts[column]!r}" for column in _columns(table))
        raise ZFault(name, f"no row of {table.name} has {wanted}", "add the section to the table")
    if len({row.z for row in rows}) > 1:
        lines = ", ".join(str(row.line) for row in rows)
        raise ZFault(name, f"lines {lines} of {table.name} give different z", "keep one of them")
    return rows[0].z


def _text_of(fact: object) -> str:
    return "" if fact is None else fact if isinstance(fact, str) else str(fact)


_COLUMNS: Final = ("grid", "roi_index", "session_id", "specimen_id", "media_id", "metafile")
_NUMBERS: Final = re.compile("[0-9]{1,18}")


def _columns(table: ZTable) -> list[str]:
    return [column for column in _COLUMNS if any(column in row.keys for row in table.rows)]


def _matches(fact: str, text: str) -> bool:
    """Whether a cell matches a value of the header. Leading zeros are ignored, since spreadsheets drop them."""
    if _NUMBERS.fullmatch(fact) and _NUMBERS.fullmatch(text):
        return int(fact) == int(text)
    return fact == text


def read_z_table(path: Path) -> ZTable:
    """Return the table in a CSV file. Blocking.

    Its header row has a column `z` and at least one of grid, roi_index, session_id, specimen_id, media_id, metafile
    (the metafile's name). A row matches metafiles that have all of its non-empty cells.

    Raises
    ------
    SettingsFault
        If the table is invalid. The fault names the line.
    StorageFault
        If the file cannot be read now.
    """
    try:
        raw, _ = read_regular(path, MAX_TABLE_BYTES + 1)
    except NotRegular as error:
        raise SettingsFault("z.table", str(error)) from error
    except FileNotFoundError as error:
        raise SettingsFault("z.table", f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise reading_fault(str(path), "read the z table", error) from error
    if len(raw) > MAX_TABLE_BYTES:
        raise SettingsFault("z.table", f"{path} should have at most {MAX_TABLE_BYTES // 2**20} MiB, is larger")
    try:
        return parse_z_table(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise SettingsFault("z.table", f"{path} should be UTF-8: {error.reason} at byte {error.start}") from None


def parse_z_table(text: str, name: str) -> ZTable:
    """Return the table in the text of a CSV file, as described for `read_z_table`.

    >>> parse_z_table("grid,z\\n001050,7.5\\n", "z.csv").rows
    (ZRow(line=2, keys={'grid': '001050'}, z=7.5),)
    """
    reader = csv.reader(text.splitlines(), skipinitialspace=True)
    rows = []
    try:
        columns = [column.strip() for column in next(reader, [])]
        _require_columns(columns, name)
        for line in reader:
            cells = [cell.strip() for cell in line]
            rows += [_row(columns, cells, reader.line_num, name)] if any(cells) else []
    except csv.Error as error:
        raise SettingsFault("z.table", f"{name}, line {reader.line_num}: {error}") from None
    if not rows:
        raise SettingsFault("z.table", f"{name} has no rows")
    return ZTable(name, tuple(rows))


def _require_columns(columns: list[str], name: str) -> None:
    unknown = [column for column in columns if column not in {*_COLUMNS, "z"}]
    if unknown:
        allowed = ", ".join(_COLUMNS)
        raise SettingsFault("z.table", f"{name}: columns should be z and any of {allowed}; found {unknown[0]!r}")
    if len(set(columns)) < len(columns):
        raise SettingsFault("z.table", f"{name} has a column twice")
    if "z" not in columns or len(columns) < 2:
        raise SettingsFault(
            "z.table", f"{name} should have a column z and a column to match metafiles", "for example: grid,z"
        )


def _row(columns: list[str], cells: list[str], line: int, name: str) -> ZRow:
    where = f"{name}, line {line}"
    if len(cells) != len(columns):
        raise SettingsFault("z.table", f"{where}: should have {len(columns)} cells, has {len(cells)}")
    keys = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    try:
        z = float(keys.pop("z", ""))
    except ValueError:
        z = math.nan
    if not math.isfinite(z):
        raise SettingsFault("z.table", f"{where}: z should be a finite number")
    if not keys:
        raise SettingsFault("z.table", f"{where}: has no cell that matches a metafile")
    return ZRow(line, keys, z)
