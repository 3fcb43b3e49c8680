"""Reader of SerialEM's montages: an idoc beside one TIFF per piece, or an mdoc beside an MRC file. Pure.

Positions are those of EMBL's importer. SerialEM gives the lower left corner of a piece, with y up; the tile's position
is (x, -y) of that corner. All tiles of a montage have the same height, so the upper left corners differ from that only
by a constant.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.formats.autodoc import (
    Autodoc,
    Entry,
    Montage,
    item_of,
    looks_like_autodoc,
    read_autodoc,
    titles_in,
    values_in,
)
from handlers.acquisition.formats.rasters import cells_of
from handlers.acquisition.formats.serialem_file import MontageFollower
from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import require_relative
from handlers.acquisition.limits import MAX_METAFILE_BYTES, MAX_TILES
from handlers.acquisition.section_path import file_of, montage_in
from handlers.errors import MetafileFault, MetafileOpen, MetafilePartial
from handlers.text import abbreviate, excerpt

_HINT: Final = "check the file of SerialEM"
_MAX_PX: Final = 1e9
_UNPLACED_PX: Final = -1e8
"""Aligned coordinates below this value mark a piece that could not be aligned."""
_MAX_SIDE: Final = 65536
_ALIGNED: Final = ("AlignedPieceCoords", "AlignedPieceCoordsVS")
_NO_STACKS: Final = (".hdf", ".h5", ".hdf5", ".tif", ".tiff", ".ome.tif", ".jpg", ".png")
_EDGES: Final = ("XedgeDxy", "YedgeDxy", "XedgeDxyVS", "YedgeDxyVS")
_TIME: Final = re.compile(r"\s+\d{1,2}-[A-Za-z]{3}-\d{2,4}\s+\d\d:\d\d:\d\d$")
_SUFFIX: Final = re.compile(r"(\.mrc|\.st|\.map)?\.[im]doc$", re.IGNORECASE)


class SerialEM:
    """Reader of SerialEM's idoc files."""

    format = "serialem"
    pattern = "*.[im]doc"
    fields = ("specimen_id", "session_id", "grid", "z_index")
    tilespecs: Mapping[str, str] = {"positions": "exact", "origin": "stage"}
    states_pixel_size = True
    follower = MontageFollower

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the montage that the path names, or the only montage of the file. Raises as `Reader.parse`."""
        subject = str(path)
        if not content.strip(b"\0\r\n\t "):
            raise MetafilePartial(subject, "is empty", "it may still be being copied")
        if len(content) > MAX_METAFILE_BYTES:
            raise MetafileFault(subject, f"should have at most {MAX_METAFILE_BYTES} bytes, has {len(content)}", _HINT)
        found = read_autodoc(content)
        name = _name_of(found, content, path)
        if not_closed := found.unclosed(name):
            problem = f"has no line [MontSection = {not_closed[0]}], which SerialEM writes after the last image"
            raise MetafileOpen(subject, problem, "finish the montage")
        return _acquisition(found, name, path)

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return the findings of `parse`."""
        return acquisition.findings

    def image_directory(self, path: Path) -> Path:
        """Return the directory of the file."""
        return file_of(path).parent


def _name_of(found: Autodoc, content: bytes, path: Path) -> str:
    subject = str(path)
    if not found.montages:
        if looks_like_autodoc(content):
            raise MetafilePartial(subject, "names no image", "it may still be being written")
        raise MetafileFault(subject, "should be an idoc or mdoc of SerialEM, has no line [Image = ...]", _HINT)
    if not found.is_of_montages:
        problem = "holds no montage: its images have no PieceCoordinates, and its head has no Montage = 1"
        raise MetafileFault(subject, problem, "files of tilt series are not read")
    name = montage_in(path)
    if name is None and len(found.montages) > 1:
        listed = abbreviate(sorted(found.montages), 5)
        hint = f"name one of them, as in {path}/{next(iter(found.montages))}"
        raise MetafileFault(subject, f"holds {len(found.montages)} montages: {listed}", hint)
    name = name or next(iter(found.montages))
    if name not in found.montages:
        raise MetafilePartial(subject, f"has no {name}", "it may still be being written")
    return name


# --- pieces


@dataclass(frozen=True, slots=True)
class _Piece:
    """An image of the montage."""

    img_path: str
    section: int | None
    """Number of the image in the MRC file that `img_path` names; None: the file is the image."""
    base: Point
    """PieceCoordinates, or SuperMontCoords: lower left corner in pixels, y up."""
    aligned: Point | None
    """`base` with the shift that SerialEM computed; None if there is none."""
    pixel_size_nm: float
    stage_um: Point | None
    camera: str | None
    label: str
    correlation: float | None


class _Values:
    """The values of a piece."""

    def __init__(self, entry: Entry, head: Mapping[str, str], subject: str) -> None:
        self._values = entry.values()
        self._head = head
        self._where = f"line {entry.line} ([{entry.kind} = {entry.name[:80]}])"
        self._subject = subject

    def fault(self, problem: str) -> MetafileFault:
        return MetafileFault(self._subject, f"{self._where}: {problem}", _HINT)

    def text(self, key: str) -> str | None:
        return self._values.get(key)

    def numbers(self, key: str, count: int, most: float = _MAX_PX) -> list[float] | None:
        """Return the first `count` numbers of a value; None if the piece has no such value."""
        text = self._values.get(key)
        if text is None:
            return None
        words = text.split(maxsplit=count)
        found = [_number(word) for word in words[:count]]
        if len(found) < count or not all(abs(each) <= most for each in found):
            raise self.fault(f"{key} should be {count} numbers up to {most:g}, is {excerpt(text[:100])}")
        return found

    def pixel_size_nm(self) -> float:
        text = self._values.get("PixelSpacing", self._head.get("PixelSpacing", ""))
        angstrom = _number(text)
        if not 0.01 <= angstrom <= 1e7:
            raise self.fault(f"PixelSpacing should be a number of angstrom, is {excerpt(text[:100])}")
        return float(f"{angstrom / 10:.12g}")


def _number(text: str) -> float:
    try:
        return float(text) if len(text) <= 40 and text.isascii() else math.nan
    except ValueError:
        return math.nan


def _piece(entry: Entry, head: Mapping[str, str], subject: str) -> _Piece:
    values = _Values(entry, head, subject)
    if not entry.kind:
        raise values.fault("should be a line [Image = name], with at most 64 KiB of values")
    img_path, section = _image(entry, head, values, subject)
    place = values.numbers("PieceCoordinates", 3)
    if place is None or place[2] < 0 or not place[2].is_integer():
        raise values.fault("should have PieceCoordinates: x, y and the number of the montage")
    in_supermontage = values.numbers("SuperMontCoords", 2)
    x, y = in_supermontage or place[:2]
    stage = values.numbers("StagePosition", 2)
    return _Piece(
        img_path,
        section,
        (x, y),
        _aligned(values, (x, y), (place[0], place[1])),
        values.pixel_size_nm(),
        (stage[0], stage[1]) if stage else None,
        values.text("CameraIndex"),
        values.text("NavigatorLabel") or "",
        _correlation(values),
    )


def _image(entry: Entry, head: Mapping[str, str], values: _Values, subject: str) -> tuple[str, int | None]:
    """Return the path of an image's file, and the number of its section if the file is an MRC file."""
    if entry.kind == "Image":
        img_path, key, section = entry.name, f"line {entry.line}: Image", None
    else:
        img_path, key = head.get("ImageFile", ""), "ImageFile"
        if not (entry.name.isascii() and entry.name.isdigit() and len(entry.name) <= 9):
            raise values.fault(f"ZValue should be the number of a section, is {excerpt(entry.name[:100])}")
        section = int(entry.name)
        if img_path.lower().endswith(_NO_STACKS):
            problem = f"ImageFile = {excerpt(img_path[:200])} is not an MRC file: other stacks are not read"
            raise MetafileFault(subject, problem, "have SerialEM write MRC, or one TIFF for each image")
    img_path = img_path.replace("\\", "/")
    require_relative(img_path, key, subject)
    return img_path, section


def _aligned(values: _Values, base: Point, coordinates: Point) -> Point | None:
    """Return `base` moved by the shift that SerialEM computed; None if there is none.

    Parameters
    ----------
    coordinates : PieceCoordinates, to which the aligned coordinates refer.
    """
    for key in _ALIGNED:
        found = values.numbers(key, 2, 1e12)
        if found and min(found) > _UNPLACED_PX and max(found) <= _MAX_PX:
            return base[0] + found[0] - coordinates[0], base[1] + found[1] - coordinates[1]
    return None


def _correlation(values: _Values) -> float | None:
    """Return the lower correlation of the right and the upper edge; None if neither has one (-1.5)."""
    found = []
    for key in _EDGES:
        words = (values.text(key) or "").split(maxsplit=3)
        if len(words) > 2 and -1 <= (correlation := _number(words[2])) <= 1:
            found.append(correlation)
    return min(found, default=None)


# --- the montage


def _acquisition(found: Autodoc, name: str, path: Path) -> Acquisition:
    subject, montage = str(path), found.montages[name]
    head = values_in(found.head)
    if len(montage.pieces) > MAX_TILES:
        raise MetafileFault(subject, f"should have at most {MAX_TILES:,} tiles, has {len(montage.pieces):,}", _HINT)
    pieces = [_piece(entry, head, subject) for entry in montage.pieces]
    sizes = {piece.pixel_size_nm for piece in pieces}
    if len(sizes) > 1:
        listed = ", ".join(f"{size:g} nm" for size in sorted(sizes)[:5])
        raise MetafileFault(subject, f"all images should have one pixel size, found {listed}", _HINT)
    (size,) = sizes
    file = file_of(path)
    is_super = name.startswith("super")
    title = next(titles_in(found.head), "")
    return Acquisition(
        name=path.name if montage_in(path) else name,
        tiles=tuple(_tiles(pieces, is_super=is_super)),
        facts=_facts(file, montage, pieces[0], is_super=is_super),
        pixel_size_nm=(size, size),
        scope_id=_printable(_TIME.sub("", title)),
        camera_id=_printable(pieces[0].camera or ""),
        declared_size=_declared_size(head, subject),
        findings=tuple(_findings(montage, pieces)),
    )


def _printable(text: str) -> str | None:
    text = text.strip()
    return text if text and text.isprintable() and len(text) <= 200 else None


def _declared_size(head: Mapping[str, str], subject: str) -> tuple[int, int] | None:
    """Return the image size that the file states; None if it states none. Images may be cropped or binned later."""
    text = head.get("ImageSize")
    if text is None:
        return None
    sides = [_number(word) for word in text.split(maxsplit=2)[:2]]
    if len(sides) < 2 or not all(1 <= side <= _MAX_SIDE and side.is_integer() for side in sides):
        problem = f"ImageSize should be two numbers from 1 to {_MAX_SIDE}, is {excerpt(text[:100])}"
        raise MetafileFault(subject, problem, _HINT)
    return int(sides[0]), int(sides[1])


def _tiles(pieces: list[_Piece], *, is_super: bool) -> Iterator[Tile]:
    cells = _cells([(piece.base[0], -piece.base[1]) for piece in pieces], is_super=is_super)
    for index, piece in enumerate(pieces):
        x, y = piece.aligned or piece.base
        column, row = cells[index] if cells else (None, None)
        stage = piece.stage_um
        yield Tile(
            img_path=piece.img_path,
            name=_tile_name(piece),
            section=piece.section,
            position_px=(x, -y),
            width=None,
            height=None,
            raster_col=column,
            raster_row=row,
            raster_index=index,
            stage_x=round(stage[0] * 1000, 6) if stage else None,
            stage_y=round(stage[1] * 1000, 6) if stage else None,
            numbers={} if piece.correlation is None else {"edge_correlation": piece.correlation},
        )


def _tile_name(piece: _Piece) -> str:
    stem = PurePosixPath(piece.img_path).stem
    return stem if piece.section is None else f"{stem}_{piece.section:04d}"


def _cells(positions: list[Point], *, is_super: bool) -> Sequence[tuple[int, int]] | None:
    """Return column and row of each piece; None if the pieces are on no grid.

    In a supermontage, frames overlap by another distance than pieces do, so the steps are unequal: only columns and
    rows with a piece are counted.
    """
    if not is_super:
        found = cells_of(positions)
        return found.cells if found else None
    columns, rows = (sorted({position[axis] for position in positions}) for axis in (0, 1))
    cells = [(bisect_left(columns, x), bisect_left(rows, y)) for x, y in positions]
    return cells if len(set(cells)) == len(cells) else None


def _facts(file: Path, montage: Montage, first: _Piece, *, is_super: bool) -> dict[str, object]:
    """Return the facts: directory, file, navigator item and its number; without an item, that of the first section."""
    item = item_of(first.label, is_frame=is_super)
    number = int(item) if item and item.isascii() and item.isdigit() and len(item) <= 9 else None
    return {
        "specimen_id": file.parent.name or None,
        "session_id": _SUFFIX.sub("", file.name),
        "grid": item if item and item.isprintable() else None,
        "z_index": number if item else min(montage.sections),
    }


def _findings(montage: Montage, pieces: list[_Piece]) -> Iterator[Finding]:
    """Yield warnings about sections that were not finished, and pieces that SerialEM could not align."""
    unfinished = [str(number) for number, is_closed in montage.sections.items() if not is_closed]
    if unfinished:
        text = f"was not finished: [MontSection] is missing for {abbreviate(unfinished, 5)}, and later sections follow"
        yield Finding(Severity.WARNING, text)
    without = [piece.img_path for piece in pieces if piece.aligned is None]
    if 0 < len(without) < len(pieces):
        text = f"{len(without)} of {len(pieces)} images have no aligned coordinates: {abbreviate(without, 3)}"
        yield Finding(Severity.WARNING, text)
