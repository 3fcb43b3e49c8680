"""Reader of pyTEMCA's metafiles: one JSON file per region. Pure."""

from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Final

from handlers.acquisition.acquisition import Acquisition, Tile
from handlers.acquisition.findings import Finding
from handlers.acquisition.formats.pytemca_consistency import check_metafile
from handlers.acquisition.formats.pytemca_parse import parse_metafile
from handlers.acquisition.metafile import Header, Metafile, TileRecord

FIELDS: Final = (
    "specimen_id",
    "grid",
    "roi_index",
    "session_id",
    "temca_id",
    "media",
    "media_id",
    "tape_id",
    "z_index",
    "lims_specimen_id",
    "placement_id",
    "roi_creation_time",
)
"""Header values that names of stacks may contain."""

_NUMBERS: Final = ("minimum", "maximum", "mean", "std_dev", "focus_score", "astig_score", "astig_angle")
_numbers_of: Callable[[TileRecord], tuple[float | None, ...]] = attrgetter(*_NUMBERS)


class PyTemca:
    """Reader of pyTEMCA's metafiles."""

    format = "pytemca"
    pattern = "_metadata_*.json"
    fields = FIELDS
    tilespecs: Mapping[str, str] = {}
    follower = None
    states_pixel_size = True

    def parse(self, content: bytes, path: Path) -> Acquisition:
        """Return the region of a metafile. Raises as `parse_metafile`."""
        return acquisition_of(parse_metafile(content, str(path)))

    def check(self, acquisition: Acquisition, path: Path) -> tuple[Finding, ...]:
        """Return every contradiction inside a metafile and with its name, errors first."""
        assert acquisition.metafile is not None
        return check_metafile(acquisition.metafile, path.name)

    def image_directory(self, path: Path) -> Path:
        """Return the metafile's own directory."""
        return path.parent


def acquisition_of(metafile: Metafile) -> Acquisition:
    """Return the region that a metafile describes."""
    header = metafile.header
    return Acquisition(
        name=header.metafile_name,
        tiles=tuple(_tile(record, header) for record in metafile.tiles),
        facts={field: getattr(header, field) for field in FIELDS},
        pixel_size_nm=header.highmag.pixel_size_nm,
        scope_id=str(header.temca_id),  # plain text, also of a number: every tile spec contains it
        camera_id=str(header.camera.camera_id),
        is_reference=header.is_reference,
        shared_transform=metafile.shared_transform,
        metafile=metafile,
    )


def _tile(record: TileRecord, header: Header) -> Tile:
    values = _numbers_of(record)
    numbers = {name: value for name, value in zip(_NUMBERS, values, strict=True) if value is not None}
    return Tile(
        img_path=record.img_path,
        name=record.basename,
        position_px=record.position_px,
        width=header.camera.width,
        height=header.camera.height,
        raster_col=record.raster_col,
        raster_row=record.raster_row,
        raster_index=record.raster_index,
        stage_x=record.stage_x_nm,
        stage_y=record.stage_y_nm,
        angle_deg=record.angle_deg,
        numbers=numbers,
    )
