"""Contradictions inside a metafile of pyTEMCA and with its name, as errors and warnings. Pure."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final, TypeVar

from handlers.acquisition.fields import Numeral
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.geometry import Point
from handlers.acquisition.image_names import IMAGE_NAME
from handlers.acquisition.metafile import EdgeMatch, EdgeSide, Header, Metafile, TileRecord
from handlers.text import abbreviate, excerpt

STEP_TOLERANCE: Final = 0.02
"""Largest deviation of the step between neighbours, as a fraction of the frame's width (x) or height (y).

Twice the largest deviation in real files: stages of 2017 deviate by up to 36 px in frames of 3840 (0.94 %), those of
2018 by less than 1 px. The narrowest overlap in use is 7 %, so tiles within the tolerance do overlap."""

CALIBRATION_TOLERANCE: Final = 0.001
"""Largest relative difference of two pixel sizes that should be equal: 4 px across a frame of 3840."""

MOVE_SIZE_TOLERANCE: Final = 0.05
"""Largest relative difference between the pixel size measured by stage motion and the nominal pixel size."""

REFERENCE_NAME_DELAY_S: Final = 600.0
"""Largest difference between the times in the name and the header of a lens-correction set; usually seconds."""

_METAFILE_NAME = re.compile(r"_metadata_(\d{14})_(.+)_\.json", re.DOTALL)
_TIME = re.compile(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d(\d{3})?")
_LEADING_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_EXAMPLES = 3
_NEIGHBOUR: Final[Mapping[EdgeSide, tuple[int, int]]] = {
    EdgeSide.LEFT: (-1, 0),
    EdgeSide.TOP: (0, -1),
    EdgeSide.RIGHT: (1, 0),
}
_T = TypeVar("_T")


def check_metafile(
    metafile: Metafile, file_name: str, *, step_tolerance: float = STEP_TOLERANCE
) -> tuple[Finding, ...]:
    """Return every contradiction inside a metafile and with its name, errors first.

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


def _summarize(make: Callable[[str], Finding], problem: str, cases: list[str]) -> list[Finding]:
    """Return one finding for all cases of a problem, which names the first of them; none without cases."""
    if not cases:
        return []
    return [make(f"{problem}: {abbreviate(cases, _EXAMPLES, '; ')}")]


def _check_file_name(header: Header, file_name: str) -> Iterator[Finding]:
    named, expected = _METAFILE_NAME.fullmatch(file_name), header.metafile_name
    if named is None:
        yield _warning(
            f"the name {file_name!r} cannot be compared with the header: it has another form than {expected!r}"
        )
        return
    if header.name_core is None:
        lacking = [key for key in ("session_id", "grid", "roi_index") if getattr(header, key) is None]
        yield _warning(f"names cannot be compared with the header: it lacks {' and '.join(lacking)}")
    elif not _same_name(header, named[2], header.name_core) or not _names_time(header, named[1]):
        text = f"the name should be {expected!r} by the header, is {file_name!r}"
        yield _contradiction(header)(text)


def _has_numerals(header: Header) -> bool:
    """Whether the header contains a part of the names as a number."""
    parts = header.roi_creation_time, header.session_id, header.grid
    return any(isinstance(part, Numeral) for part in parts)


def _same_name(header: Header, named: str, expected: str) -> bool:
    """Whether two names are equal. If the header has numbers, which have no leading zeros, these are ignored."""
    if _has_numerals(header):
        named, expected = _LEADING_ZEROS.sub("", named), _LEADING_ZEROS.sub("", expected)
    return named == expected


def _contradiction(header: Header) -> Callable[[str], Finding]:
    """Return the function for a contradiction: an error, or a warning if a number may have lost more than zeros."""
    return _warning if _has_numerals(header) else _error


def _names_time(header: Header, named: str) -> bool:
    """Whether the time in a metafile's name is that of the header; for lens-correction sets, within a delay."""
    created = header.roi_creation_time
    if created is None or named == created:
        return True
    if not header.is_reference or not _TIME.fullmatch(created) or not _TIME.fullmatch(named):
        return False
    return abs(_rough_seconds(named) - _rough_seconds(created)) <= REFERENCE_NAME_DELAY_S


def _rough_seconds(time: str) -> int:
    """Return seconds from an arbitrary origin; differences are right within a month."""
    year, month, day = int(time[:4]), int(time[4:6]), int(time[6:8])
    days = (year * 12 + month) * 31 + day
    return days * 86400 + int(time[8:10]) * 3600 + int(time[10:12]) * 60 + int(time[12:14])


def _check_image_names(metafile: Metafile) -> Iterator[Finding]:
    header, contradicting, unknown = metafile.header, [], []
    core = header.name_core
    for number, tile in enumerate(metafile.tiles):
        named = IMAGE_NAME.fullmatch(tile.img_path)
        if named is None:
            unknown.append(f"data[{number}] {tile.img_path!r}")
        elif core is not None and not _same_name(header, named[2], f"{core}_{tile.raster_col}_{tile.raster_row}"):
            contradicting.append(
                f"data[{number}] {tile.img_path!r} should end in '_{core}_{tile.raster_col}_{tile.raster_row}'"
            )
    yield from _summarize(_contradiction(header), "image names contradict the header or raster_pos", contradicting)
    yield from _summarize(_warning, "image names cannot be compared: they do not have pyTEMCA's form", unknown)


def _check_duplicates(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """Require that every image, every tile id and every raster position occurs once."""
    paths = Counter(tile.img_path for tile in tiles)
    yield from _summarize(_error, "img_path occurs more than once", _repeated(paths))
    names = Counter({tile.img_path: tile.basename for tile in tiles}.values())
    yield from _summarize(
        _error, "images differ only in directory or extension, so tiles would share an id", _repeated(names)
    )
    places = Counter(tile.raster_pos for tile in tiles)
    yield from _summarize(_error, "raster_pos (column, row) occurs more than once", _repeated(places))


def _repeated(counts: Mapping[_T, int]) -> list[str]:
    return [f"{value!r} ({times} times)" for value, times in counts.items() if times > 1]


def _check_raster_index(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """Require that the order of acquisition counts from 0 to n-1."""
    found = Counter(tile.raster_index for tile in tiles)
    absent = found.pop(None, 0)
    if absent:
        yield _warning(f"the order of the tiles cannot be checked: {absent} of {len(tiles)} have no raster_index")
        return
    yield from _summarize(_warning, "raster_index occurs more than once", _repeated(found))
    missing = [str(number) for number in range(len(tiles)) if number not in found]
    yield from _summarize(_warning, f"raster_index is missing between 0 and {len(tiles) - 1}", missing)


def _in_order(tiles: tuple[TileRecord, ...]) -> list[TileRecord]:
    """Return the tiles that have a raster_index, sorted by it."""
    numbered = [(tile.raster_index, tile) for tile in tiles if tile.raster_index is not None]
    return [tile for _, tile in sorted(numbered, key=lambda item: item[0])]


def _check_time_stamps(metafile: Metafile) -> Iterator[Finding]:
    """Require that the times in the image names rise with raster_index, from roi_creation_time on."""
    stamps = [(stamp, tile.img_path) for tile in _in_order(metafile.tiles) if (stamp := tile.time_stamp) is not None]
    wrong = [repr(name) for stamp, name in stamps if not _TIME.fullmatch(stamp)]
    yield from _summarize(_warning, "image names should begin with a time", wrong)
    back = [
        f"{name!r} after {name_before!r}"
        for (before, name_before), (stamp, name) in itertools.pairwise(stamps)
        if stamp <= before
    ]
    yield from _summarize(_warning, "time stamps do not rise with raster_index", back)
    created = metafile.header.roi_creation_time
    if created is not None and stamps and not metafile.header.is_reference and stamps[0][0][:14] < created:
        yield _warning(f"the first image, {stamps[0][1]!r}, is older than the region, which was set up at {created}")


def _check_uniform(metafile: Metafile) -> Iterator[Finding]:
    """Require one angle and one pixel size in all tiles, equal to those of the header."""
    tiles, highmag = metafile.tiles, metafile.header.highmag
    for name, nominal, found in (
        ("angle", highmag.angle_deg, {tile.angle_deg for tile in tiles}),
        ("pixel_size", highmag.nm_per_pix, {tile.pixel_size_nm for tile in tiles}),
        ("pixel_size_x_move", None, {tile.pixel_size_x_move_nm for tile in tiles}),
        ("pixel_size_y_move", None, {tile.pixel_size_y_move_nm for tile in tiles}),
    ):
        values = [value for value in found if value is not None]
        if len(values) > 1:
            yield _warning(f"{name} should be the same in all tiles, varies from {min(values)} to {max(values)}")
        elif nominal is not None and values and not math.isclose(nominal, values[0], rel_tol=CALIBRATION_TOLERANCE):
            yield _warning(f"{name} is {values[0]} in the tiles and {nominal} in the header's highmag calibration")
    nominal = tiles[0].pixel_size_nm
    for name, size in (("x", tiles[0].pixel_size_x_move_nm), ("y", tiles[0].pixel_size_y_move_nm)):
        if nominal is not None and not math.isclose(size, nominal, rel_tol=MOVE_SIZE_TOLERANCE):
            yield _warning(f"pixel_size_{name}_move is {size}, far from the nominal {nominal}")


def _check_calibration(header: Header) -> Iterator[Finding]:
    x, y = header.highmag.pixel_size_nm
    if not math.isclose(x, y, rel_tol=CALIBRATION_TOLERANCE):
        yield _warning(
            f"highmag calibration is {x} nm per pixel in x and {y} in y; the layout of a tile spec holds x only"
        )


def _check_steps(metafile: Metafile, tolerance: float) -> Iterator[Finding]:
    """Require that neighbours in the grid are one step apart: (width, 0) or (0, height), minus the overlap."""
    header, camera = metafile.header, metafile.header.camera
    if header.overlap is None:
        yield _warning("the steps between tiles cannot be checked: the header has no overlap")
        return
    places = {tile.raster_pos: tile.position_px for tile in metafile.tiles}
    slack = tolerance * camera.width, tolerance * camera.height
    steps = (camera.width * (1 - header.overlap), 0.0), (0.0, camera.height * (1 - header.overlap))
    for direction, neighbour, step in zip(("column", "row"), ((1, 0), (0, 1)), steps, strict=True):
        off = list(_deviating_steps(places, neighbour, step, slack))
        expected = f"({step[0]:.1f}, {step[1]:.1f}) px, within ({slack[0]:.1f}, {slack[1]:.1f})"
        yield from _summarize(
            _warning, f"stage positions are off the grid: a {direction} step should be {expected}", off
        )


def _deviating_steps(
    places: Mapping[tuple[int, int], Point], neighbour: tuple[int, int], step: Point, slack: Point
) -> Iterator[str]:
    """Yield, as text, each step to a neighbour that deviates by more than `slack` in x or y."""
    for here, (x, y) in places.items():
        there = here[0] + neighbour[0], here[1] + neighbour[1]
        if there in places:
            dx, dy = places[there][0] - x, places[there][1] - y
            if abs(dx - step[0]) > slack[0] or abs(dy - step[1]) > slack[1]:
                yield f"from {here} to {there} it is ({dx:.1f}, {dy:.1f})"


def _check_matches(tiles: tuple[TileRecord, ...]) -> Iterator[Finding]:
    """Require match_quality -1 where, and only where, no neighbour was imaged before.

    Also require that each match is recorded at its tile or at the neighbour.
    """
    imaged = {tile.raster_pos: tile.raster_index for tile in tiles}
    wrong_quality, wrong_place = [], []
    for tile, match, other in _edges(tiles):
        if _contradicts(match.match_quality, tile.raster_index, imaged.get(other, tile.raster_index)):
            wrong_quality.append(f"{tile.raster_pos} {match.side} has {match.match_quality}")
        place = match.col, match.row
        if None not in place and place not in {tile.raster_pos, other}:
            wrong_place.append(f"{tile.raster_pos} {match.side} is recorded at {place}")
    yield from _summarize(
        _warning, "match_quality should be -1 where, and only where, the neighbour is absent", wrong_quality
    )
    yield from _summarize(
        _warning, "template matches are recorded at places other than the tile and its neighbour", wrong_place
    )


def _contradicts(quality: int | None, here: int | None, there: int | None) -> bool:
    """Whether a match's quality contradicts the order of acquisition of the tile and its neighbour."""
    if quality is None or here is None or there is None:
        return False
    return (there < here) == (quality == -1)


def _edges(tiles: tuple[TileRecord, ...]) -> Iterator[tuple[TileRecord, EdgeMatch, tuple[int, int]]]:
    """Yield every template match with its tile and the grid position of the neighbour."""
    for tile in tiles:
        for match in tile.matcher or ():
            if match.side is not None:
                dcol, drow = _NEIGHBOUR[match.side]
                yield tile, match, (tile.raster_col + dcol, tile.raster_row + drow)


def _check_z_index(header: Header) -> Iterator[Finding]:
    grid = header.grid_number
    if header.z_index is not None and grid is not None and header.z_index != grid:
        yield _warning(f"z_index is {header.z_index}, but the grid is {header.grid}")


def _check_shared_transform(metafile: Metafile) -> Iterator[Finding]:
    """Require that a sharedTransform is an object or null."""
    found = metafile.shared_transform
    if found is not None and not isinstance(found, dict):
        yield _warning(f"sharedTransform should be an object, is {excerpt(found)}")
