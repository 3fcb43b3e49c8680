"""The metafile that pyTEMCA writes after a region, as frozen records; `parse` makes them from its bytes.

Values that tile specs need are required; docs/compatibility.md lists them. Every other value is None if it is absent or
has an unexpected type (also NaN). A z rule, a stack's name or a tile id that needs such a value reports it as missing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from pydantic import AliasPath, Field

from handlers.acquisition.fields import (
    Count,
    CountOrAbsent,
    FilledText,
    FilledTextOrAbsent,
    FractionOrAbsent,
    FrameSide,
    Integer,
    IntegerOrAbsent,
    Number,
    NumberOrAbsent,
    ObjectOrAbsent,
    OrAbsent,
    PixelSize,
    PixelSizeOrAbsent,
    StageNm,
    Text,
    TextOrAbsent,
    in_image,
)
from handlers.acquisition.geometry import Point, stage_to_pixel
from handlers.acquisition.image_names import IMAGE_NAME


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera, as the header describes it. Only the image files show their depth (8 or 16 bits)."""

    width: FrameSide
    """Pixels, as `height`."""
    height: FrameSide
    camera_id: FilledText


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of one magnification."""

    x_nm_per_pix: PixelSize
    y_nm_per_pix: PixelSizeOrAbsent = None
    nm_per_pix: PixelSizeOrAbsent = None
    angle_deg: Annotated[NumberOrAbsent, Field(validation_alias="angle")] = None
    """Rotation from stage to camera."""

    @property
    def pixel_size_nm(self) -> Point:
        """x, y; if y is absent, pixels are square."""
        return self.x_nm_per_pix, self.x_nm_per_pix if self.y_nm_per_pix is None else self.y_nm_per_pix


@dataclass(frozen=True, slots=True)
class Header:
    """The part of a metafile that describes the region as a whole."""

    temca_id: FilledText
    camera: Annotated[Camera, Field(validation_alias="camera_info")]
    highmag: Annotated[Calibration, Field(validation_alias=AliasPath("calibration", "highmag"))]
    roi_creation_time: FilledTextOrAbsent = None
    """YYYYMMDDHHMMSS, the microscope's local time, when the region was set up."""
    session_id: FilledTextOrAbsent = None
    grid: FilledTextOrAbsent = None
    """Barcode of the aperture: six digits for sections, `<14 digits>_reference` for lens-correction sets."""
    roi_index: CountOrAbsent = None
    """Number of the region within the aperture, from 0."""
    overlap: FractionOrAbsent = None
    """Nominal overlap of neighbours in both directions, as a fraction of the frame."""
    specimen_id: TextOrAbsent = None
    """Name of the block; None if the operator entered none."""
    media: TextOrAbsent = None
    """The substrate, as in `tape`."""
    media_id: TextOrAbsent = None
    """The reel, as in `0151`."""
    z_index: Annotated[Integer | Number | None, Field(union_mode="left_to_right"), OrAbsent()] = None
    """Number of the section on its media, not its z in the volume; None for lens-correction sets."""
    lims_specimen_id: TextOrAbsent = None
    aperture_x_nm: Annotated[NumberOrAbsent, Field(validation_alias=AliasPath("aperture_centroid", "x"))] = None
    """Stage position of the aperture's centre, x (`aperture_y_nm`: y); None if it was not measured."""
    aperture_y_nm: Annotated[NumberOrAbsent, Field(validation_alias=AliasPath("aperture_centroid", "y"))] = None
    autofocus_value: NumberOrAbsent = None
    """Result of the last autofocus; 0 when it is off."""
    placement_id: TextOrAbsent = None
    tape_id: TextOrAbsent = None
    beam_centering: ObjectOrAbsent = None

    @property
    def is_reference(self) -> bool:
        """Whether the aperture's name marks a lens-correction set."""
        return self.grid is not None and "reference" in self.grid

    @property
    def grid_number(self) -> int | None:
        """The number of a section's aperture; None for a lens-correction set."""
        return int(self.grid) if self.grid is not None and re.fullmatch("[0-9]{1,18}", self.grid) else None

    @property
    def name_core(self) -> str | None:
        """The common part of the names of the metafile and its images; None if the header lacks a piece of it."""
        parts = self.session_id, self.grid, self.roi_index
        return None if None in parts else "_".join(map(str, parts))

    @property
    def metafile_name(self) -> str:
        """The name that pyTEMCA gives to a metafile with this header; `*` stands for missing values."""
        return f"_metadata_{self.roi_creation_time or '*'}_{self.name_core or '*'}_.json"


class EdgeSide(StrEnum):
    """The side of a tile on which a neighbour was matched."""

    TOP = "top"
    LEFT = "left"
    RIGHT = "right"


_SIDES: Final[Mapping[int, EdgeSide]] = {2: EdgeSide.LEFT, 3: EdgeSide.TOP, 4: EdgeSide.RIGHT}


@dataclass(frozen=True, slots=True)
class EdgeMatch:
    """Template match of a tile with a neighbour imaged before it."""

    position: IntegerOrAbsent = None
    """2 left, 3 top, 4 right."""
    row: IntegerOrAbsent = None
    """Row of the tile itself (`col`: its column); on later scopes, of the neighbour."""
    col: IntegerOrAbsent = None
    match_quality: IntegerOrAbsent = None
    """Number of matches found; -1 if there is no neighbour."""
    dx: Annotated[NumberOrAbsent, Field(validation_alias="dX")] = None
    """Shift in pixels, as `dy` and `distance`."""
    dy: Annotated[NumberOrAbsent, Field(validation_alias="dY")] = None
    distance: NumberOrAbsent = None
    rotation: NumberOrAbsent = None
    """Radians."""

    @property
    def side(self) -> EdgeSide | None:
        """Side of the neighbour; None if `position` is absent or unknown."""
        return None if self.position is None else _SIDES.get(self.position)


@dataclass(frozen=True, slots=True)
class TileRecord:
    """One camera frame."""

    img_path: Text
    """File name relative to the metafile's directory; never leads out of it."""
    stage_x_nm: Annotated[StageNm, in_image("stage_pos", 0)]
    """Stage position at exposure; may be negative."""
    stage_y_nm: Annotated[StageNm, in_image("stage_pos", 1)]
    raster_col: Annotated[Count, in_image("raster_pos", 0)]
    """Column in the grid of the montage, from 0; a montage need not fill its rows or start at column 0."""
    raster_row: Annotated[Count, in_image("raster_pos", 1)]
    angle_deg: Annotated[Number, in_image("angle")]
    """Rotation from stage to camera."""
    pixel_size_x_move_nm: Annotated[PixelSize, in_image("pixel_size_x_move")]
    """Effective nanometres per pixel for stage motion in x."""
    pixel_size_y_move_nm: Annotated[PixelSize, in_image("pixel_size_y_move")]
    raster_index: Annotated[CountOrAbsent, in_image("raster_index")] = None
    """Order of acquisition, from 0."""
    pixel_size_nm: Annotated[PixelSizeOrAbsent, in_image("pixel_size")] = None
    """Nominal nanometres per pixel."""
    minimum: Annotated[IntegerOrAbsent, Field(validation_alias="min")] = None
    """Darkest pixel on the scale 0 to 65535 at any depth of the file; `maximum` and `mean` use the same scale."""
    maximum: Annotated[IntegerOrAbsent, Field(validation_alias="max")] = None
    mean: NumberOrAbsent = None
    std_dev: NumberOrAbsent = None
    """Standard deviation on the scale 0 to 255 (not that of `mean`)."""
    focus_score: NumberOrAbsent = None
    """About 20 to 25, higher is sharper."""
    astig_score: NumberOrAbsent = None
    astig_angle: NumberOrAbsent = None
    matcher: Annotated[tuple[EdgeMatch, ...] | None, OrAbsent()] = None

    @property
    def basename(self) -> str:
        """Name of the image without directory and extension."""
        name = self.img_path.rpartition("/")[2]
        stem = name.rpartition(".")[0]
        return stem if stem.strip(".") else name  # dots at the beginning are not those of an extension

    @property
    def time_stamp(self) -> str | None:
        """Local time of the exposure from the image's name, YYYYMMDDHHMMSSmmm; None if the name has none."""
        name = IMAGE_NAME.fullmatch(self.img_path)
        return None if name is None else name[1]

    @property
    def raster_pos(self) -> tuple[int, int]:
        """Column, row."""
        return self.raster_col, self.raster_row

    @property
    def position_px(self) -> Point:
        """x, y in level-0 pixels, in the camera frame, relative to the stage's origin."""
        sizes = self.pixel_size_x_move_nm, self.pixel_size_y_move_nm
        return stage_to_pixel((self.stage_x_nm, self.stage_y_nm), sizes, self.angle_deg)


@dataclass(frozen=True, slots=True)
class Metafile:
    """A metafile with all required values. `check_metafile` reports its contradictions."""

    header: Header
    tiles: tuple[TileRecord, ...]
    """At least one, in the order of the file."""
    shared_transform: object = None
    """Lens-correction transform that the scope appended, not validated; a valid one is an object in render's form."""
