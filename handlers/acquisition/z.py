"""From a metafile to z, the section's place in the volume, by one of five rules. Pure, but for the reader of tables."""

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from handlers.acquisition.consistency import Finding, Severity
from handlers.acquisition.fields import Numeral
from handlers.acquisition.metafile import Header, Metafile
from handlers.errors import SettingsFault, ZFault, storage_fault
from handlers.regular_file import NotRegular, read_regular

DEFAULT_NAME_PATTERN: Final = r"_(?P<z>\d+)_\d+_\.json$"
"""Finds the grid of a section in `_metadata_{time}_{session}_{grid}_{roi}_.json`."""

MAX_TABLE_BYTES: Final = 64 * 1024 * 1024


class ZRuleKind(StrEnum):
    """Where z comes from."""

    HEADER = "header"
    """z_index of the header."""
    GRID = "grid"
    """The aperture's number."""
    NAME = "name"
    """A number in the name of the metafile."""
    TABLE = "table"
    """A row of a table."""
    FIXED = "fixed"
    """One z for all."""


@dataclass(frozen=True, slots=True)
class ZRow:
    """A row of a z table: what a metafile must have, and its z."""

    line: int
    """Number of its line in the file, from 1."""
    keys: Mapping[str, str]
    """Column -> text; columns left empty are not here and match anything."""
    z: float


@dataclass(frozen=True, slots=True)
class ZTable:
    """z by what the header or the file name says."""

    name: str
    """Where it was read from."""
    rows: tuple[ZRow, ...]


@dataclass(frozen=True, slots=True)
class ZRule:
    """How z follows from a metafile. Raises SettingsFault, subject the setting, for a rule that cannot be obeyed."""

    rule: ZRuleKind
    offset: float = 0.0
    """Added to what the rule finds, whichever rule, where `offsets_by_media` has no other."""
    offsets_by_media: Mapping[str, float] = field(default_factory=dict)
    """media_id -> the offset of that reel, instead of `offset`."""
    name_pattern: str | None = None
    """A regular expression with a group `z`, searched in the metafile's name, or in its whole path if it has a `/`."""
    table: ZTable | None = None
    fixed: float | None = None

    def __post_init__(self) -> None:
        for key, offset in {"offset": self.offset, **_by_media(self.offsets_by_media), "z": self.fixed or 0.0}.items():
            if not math.isfinite(offset):
                raise SettingsFault(f"z.{key}", f"{offset} is not a finite number")
        if self.rule is ZRuleKind.TABLE and self.table is None:
            raise SettingsFault("z.table", 'is missing; rule = "table" needs it', "name a CSV file")
        if self.rule is ZRuleKind.FIXED and self.fixed is None:
            raise SettingsFault("z.z", 'is missing; rule = "fixed" needs it')
        if self.name_pattern is not None:
            _require_z_group(self.name_pattern)


def _by_media(offsets: Mapping[str, float]) -> dict[str, float]:
    return {f"offsets_by_media.{media}": offset for media, offset in offsets.items()}


def _require_z_group(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise SettingsFault("z.name_pattern", f"{pattern!r} is not a regular expression: {error}") from None
    if "z" not in groups:
        raise SettingsFault("z.name_pattern", f"{pattern!r} has no group z", r"write (?P<z>\d+) where z stands")


def z_for(metafile: Metafile, metafile_path: Path, rule: ZRule) -> float:
    """z of the metafile's section: what the rule finds, plus the offset of its reel. Fractions are kept.

    Raises ZFault, subject the metafile's name, if the rule finds none or several.
    """
    header, name = metafile.header, metafile_path.name
    match rule.rule:
        case ZRuleKind.HEADER:
            found = _z_of_header(header, name)
        case ZRuleKind.GRID:
            found = _z_of_grid(header, name)
        case ZRuleKind.NAME:
            found = _z_of_name(metafile_path, rule.name_pattern or DEFAULT_NAME_PATTERN)
        case ZRuleKind.TABLE:
            assert rule.table is not None
            found = _z_of_table(header, name, rule.table)
        case ZRuleKind.FIXED:
            assert rule.fixed is not None
            found = rule.fixed
    return found + offset_for(header, rule)


def offset_for(header: Header, rule: ZRule) -> float:
    """The offset of the section's reel, or the general one where the rule lists no such reel."""
    own = _own_offset(header, rule)
    return rule.offset if own is None else own


def _own_offset(header: Header, rule: ZRule) -> float | None:
    """The offset that is listed for the section's reel; one that the header has as a number lacks its leading zeros."""
    media = header.media_id
    if media is None or media in rule.offsets_by_media or not isinstance(media, Numeral):
        return rule.offsets_by_media.get(media or "")
    return next((offset for listed, offset in rule.offsets_by_media.items() if _means(media, listed)), None)


def check_z(metafile: Metafile, z: float, rule: ZRule) -> tuple[Finding, ...]:
    """Warnings where z, less its offset, is neither the header's z_index nor its grid, or a reel has no offset listed.

    A disagreement may be meant, as when a table puts sections in another order; it is never an error.
    """
    header = metafile.header
    texts = []
    if rule.offsets_by_media and _own_offset(header, rule) is None:
        listed = ", ".join(sorted(rule.offsets_by_media))
        texts.append(f"media_id {header.media_id!r} has no offset of its own ({listed} have): {rule.offset} was added")
    own = z - offset_for(header, rule)
    for name, told in (("z_index", header.z_index), ("grid", header.grid_number)):
        if told is not None and not math.isclose(told, own, abs_tol=1e-6):
            texts.append(f"z is {z}, {own} without its offset, but the header has {name} {told}")
    return tuple(Finding(Severity.WARNING, text) for text in texts)


def _z_of_header(header: Header, name: str) -> float:
    if header.z_index is None:
        raise ZFault(name, "the header has no z_index that is a number", 'use z.rule = "grid" or "table"')
    return _finite(header.z_index, f"z_index {header.z_index}", name)


def _z_of_grid(header: Header, name: str) -> float:
    if header.grid is None:
        raise ZFault(name, "metadata.grid: missing, and the z rule needs it", 'use z.rule = "name", "table" or "fixed"')
    if header.grid_number is None:
        raise ZFault(name, f"the grid {header.grid!r} is not a number", 'use z.rule = "table" or "fixed" for such sets')
    return float(header.grid_number)


def _z_of_name(path: Path, pattern: str) -> float:
    found = re.search(pattern, str(path) if "/" in pattern else path.name)
    if found is None or found["z"] is None:
        raise ZFault(path.name, f"the name does not match {pattern!r}", "see z.name_pattern")
    return _finite(found["z"], f"{found['z']!r}, found by {pattern!r},", path.name)


def _finite(value: str | float, what: str, name: str) -> float:
    try:
        z = float(value)
    except (ValueError, OverflowError):
        z = math.nan
    if not math.isfinite(z):
        raise ZFault(name, f"{what} is not a finite number")
    return z


def _z_of_table(header: Header, name: str, table: ZTable) -> float:
    facts = {
        "grid": header.grid or "",
        "roi_index": "" if header.roi_index is None else str(header.roi_index),
        "session_id": header.session_id or "",
        "specimen_id": header.specimen_id or "",
        "media_id": header.media_id or "",
        "metafile": name,
    }
    rows = [row for row in table.rows if all(_means(facts[column], text) for column, text in row.keys.items())]
    if not rows:
        told = ", ".join(f"{column} {facts[column]!r}" for column in _columns(table))
        raise ZFault(name, f"no row of {table.name} has {told}", "add the section to the table")
    if len({row.z for row in rows}) > 1:
        lines = ", ".join(str(row.line) for row in rows)
        raise ZFault(name, f"lines {lines} of {table.name} give it different z")
    return rows[0].z


_COLUMNS: Final = ("grid", "roi_index", "session_id", "specimen_id", "media_id", "metafile")
_NUMBERS: Final = re.compile("[0-9]{1,18}")


def _columns(table: ZTable) -> list[str]:
    return [column for column in _COLUMNS if any(column in row.keys for row in table.rows)]


def _means(fact: str, text: str) -> bool:
    """Whether a cell means what the header has; leading zeros, which spreadsheets drop, do not count."""
    if _NUMBERS.fullmatch(fact) and _NUMBERS.fullmatch(text):
        return int(fact) == int(text)
    return fact == text


def read_z_table(path: Path) -> ZTable:
    """The table in a CSV file with a header row: a column `z` and one or more of grid, roi_index, session_id,
    specimen_id, media_id, metafile (its name). A row means metafiles that have all of its non-empty cells.

    Raises SettingsFault naming the line for what cannot be meant, StorageFault if the file cannot be read now.
    """
    try:
        raw, _ = read_regular(path, MAX_TABLE_BYTES + 1)
    except NotRegular as error:
        raise SettingsFault("z.table", str(error)) from error
    except FileNotFoundError as error:
        raise SettingsFault("z.table", f"{path} cannot be read: {error.strerror}") from error
    except OSError as error:
        raise storage_fault(str(path), "read the z table", error) from error
    if len(raw) > MAX_TABLE_BYTES:
        raise SettingsFault("z.table", f"{path} is larger than {MAX_TABLE_BYTES // 2**20} MiB")
    try:
        return parse_z_table(raw.decode("utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        raise SettingsFault("z.table", f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None


def parse_z_table(text: str, name: str) -> ZTable:
    """The table in the text of a CSV file, as for `read_z_table`.

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
        raise SettingsFault("z.table", f"{name}: {unknown[0]!r} is not one of the columns {allowed} and z")
    if len(set(columns)) < len(columns):
        raise SettingsFault("z.table", f"{name} has a column twice")
    if "z" not in columns or len(columns) < 2:
        raise SettingsFault("z.table", f"{name} needs a column z and one to find a metafile by", "as in: grid,z")


def _row(columns: list[str], cells: list[str], line: int, name: str) -> ZRow:
    where = f"{name}, line {line}"
    if len(cells) != len(columns):
        raise SettingsFault("z.table", f"{where}: {len(columns)} cells are expected, not {len(cells)}")
    keys = {column: cell for column, cell in zip(columns, cells, strict=True) if cell}
    try:
        z = float(keys.pop("z", ""))
    except ValueError:
        z = math.nan
    if not math.isfinite(z):
        raise SettingsFault("z.table", f"{where}: z is not a finite number")
    if not keys:
        raise SettingsFault("z.table", f"{where}: nothing says which metafile is meant")
    return ZRow(line, keys, z)
