"""Reader of SBEMimage: an acquisition is one slice, the lines of a log between two closing lines.

Positions are those of EMBL's importer: glob_x and glob_y divided by the pixel size. In a rotated grid, each image is
rotated about its own centre.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding, Severity
from handlers.acquisition.formats.rasters import Raster, raster_of
from handlers.acquisition.formats.sbemimage_lines import HINT, Grid, Record, records_in
from handlers.acquisition.formats.sbemimage_log import LogFollower
from handlers.acquisition.geometry import Point
from handlers.acquisition.limits import MAX_TILES
from handlers.acquisition.section_path import Region, file_of
from handlers.errors import MetafileFault, MetafilePartial

_SCOPE: Final = "3View"


class SbemImage:
    """Reader of SBEMimage's logs."""

    format = "sbemimage"
    pattern = "metadata_*.txt"
    fields = ("specimen_id", "session_id", "z_index", "roi_index", "array_index")
    tilespecs: Mapping[str, str] = {"tile_id": "{basename}", "positions": "exact", "origin": "stage"}
    states_pixel_size = True
    follower = LogFollower

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the slice in the lines of a log. Raises as `Reader.parse`."""
        subject = str(path)
        if not content.strip(b"\0\r\n\t "):
            raise MetafilePartial(subject, "is empty", "it may still be being copied")
        found = _latest(records_in(content, subject), subject)
        if not found:
            raise MetafilePartial(subject, "has no tile", "it may still be being written")
        return _acquisition(found, path)

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return the findings of `parse`."""
        return acquisition.findings

    def image_directory(self, path: Path) -> Path:
        """Return the base directory of the stack, which holds meta/logs and tiles."""
        return file_of(path).parent.parent.parent


def _latest(records: Iterator[Record], subject: str) -> list[Record]:
    """Return one record for each tile, in their order. If a tile is listed twice, its later record counts."""
    found: dict[str, Record] = {}
    for record in records:
        before = found.get(record.tile_id)
        if before is None or record.time >= before.time:
            found[record.tile_id] = record
        if len(found) > MAX_TILES:
            raise MetafileFault(subject, f"should have at most {MAX_TILES:,} tiles, has more", HINT)
    records_left = list(found.values())
    for what, values in (
        ("slices", {record.slice for record in records_left}),
        ("regions of an array", {record.region for record in records_left}),
    ):
        if len(values) > 1:
            raise MetafileFault(subject, f"should have tiles of one slice, has {len(values)} {what}", HINT)
    _require_one_size(records_left, subject)
    return records_left


def _require_one_size(records: list[Record], subject: str) -> None:
    sizes: dict[str, Grid] = {}
    for record in records:
        if sizes.setdefault(record.grid, record.grid_settings) != record.grid_settings:
            problem = f"grid {record.grid} changes its pixel size or rotation within the slice"
            raise MetafileFault(subject, problem, "image the slice again, with one setting")


def _acquisition(records: list[Record], path: Path) -> Acquisition:
    first, region = records[0], records[0].region
    log = file_of(path)
    size = first.grid_settings.pixel_size_nm
    rasters = _rasters(records)
    return Acquisition(
        name=path.name,
        tiles=tuple(
            _tile(record, index, size, rasters, region, interval_s)
            for index, (record, interval_s) in enumerate(zip(records, _intervals_s(records), strict=True))
        ),
        facts={
            "specimen_id": log.parent.parent.parent.name or None,
            "session_id": log.stem.removeprefix("metadata_"),
            "z_index": region[1] if region else first.slice,
            "roi_index": region[1] if region else None,
            "array_index": region[0] if region else None,
        },
        pixel_size_nm=(size, size),
        scope_id=_SCOPE,
        camera_id=_SCOPE,
        thickness_nm=first.session.thickness_nm,
        depth_nm=first.glob_nm[2],
        findings=tuple(_findings(records, rasters)),
    )


def _tile(
    record: Record,
    index: int,
    size_nm: float,
    rasters: Mapping[str, Raster | None],
    region: Region | None,
    interval_s: float | None,
) -> Tile:
    raster = rasters[record.grid]
    cell = raster.cells[record.number] if raster else None
    prefix = f"a{region[0]}.r{region[1]}." if region else ""
    return Tile(
        img_path=record.img_path,
        name=prefix + record.tile_id,
        position_px=(record.glob_nm[0] / size_nm, record.glob_nm[1] / size_nm),
        width=record.width,
        height=record.height,
        rotation_deg=record.grid_settings.rotation_deg,
        scale=record.grid_settings.pixel_size_nm / size_nm,
        raster_col=cell[0] if cell else None,
        raster_row=cell[1] if cell else None,
        grid=record.grid,
        raster_index=index,
        stage_x=record.glob_nm[0],
        stage_y=record.glob_nm[1],
        angle_deg=record.grid_settings.rotation_deg,
        numbers=record.numbers | ({"interval": interval_s} if interval_s is not None else {}),
    )


def _intervals_s(records: list[Record]) -> list[float | None]:
    """Return the seconds since the preceding tile; None for the first tile, and if the times are not in order."""
    steps = (after.time - before.time for before, after in itertools.pairwise(records))
    return [None, *(step if step >= 0 else None for step in steps)]


def _rasters(records: list[Record]) -> dict[str, Raster | None]:
    """Return the raster of each grid, from the positions of its tiles rotated back."""
    of_grid: dict[str, dict[int, Point]] = {}
    for record in records:
        turn = math.radians(record.grid_settings.rotation_deg)
        x, y, _ = record.glob_nm
        back = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        of_grid.setdefault(record.grid, {})[record.number] = back
    return {grid: raster_of(positions) for grid, positions in of_grid.items()}


def _findings(records: list[Record], rasters: Mapping[str, Raster | None]) -> Iterator[Finding]:
    """Yield a warning for each grid whose tiles are further apart than they are large."""
    for grid, raster in rasters.items():
        record = next(record for record in records if record.grid == grid)
        size = record.grid_settings.pixel_size_nm
        sides = (("x", raster and raster.step_x, record.width), ("y", raster and raster.step_y, record.height))
        for axis, step, side in sides:
            if step and step > side * size * 1.001:
                text = (
                    f"grid {grid}: neighbours are {step:g} nm apart in {axis}, but a tile has {side} pixels of "
                    f"{size:g} nm: the pixel size of the session contradicts the positions"
                )
                yield Finding(Severity.WARNING, text)
