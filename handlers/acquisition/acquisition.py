"""A microscope's files of one region as values, independent of the format. Pure.

A reader makes an `Acquisition` from the files of its format. Everything behind it (z, tile specs, arrival of images,
stacks) reads these values only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from handlers.acquisition.findings import Finding
from handlers.acquisition.geometry import Point
from handlers.acquisition.metafile import Metafile


@dataclass(frozen=True, slots=True)
class Tile:
    """One image of a region."""

    img_path: str
    """File name relative to the acquisition's image directory, with forward slashes; never leads out of it."""
    name: str
    """Unique within the acquisition: the field {basename} of tile ids."""
    position_px: Point
    """x, y of the upper left corner in level-0 pixels, x to the right and y down, from the origin of the stage."""
    width: int | None
    """Pixels, as is `height`; None where the format does not state it: the image's own header does."""
    height: int | None
    section: int | None = None
    """Number of the image in the MRC stack that `img_path` names, from 0; None: the file is the image."""
    rotation_deg: float = 0.0
    """By which the image is turned about its own centre: x' = x cos - y sin, y' = x sin + y cos (y down)."""
    scale: float = 1.0
    """By which the image is enlarged: its pixel size over that of the acquisition."""
    raster_col: int | None = None
    """Place in the grid, from 0, as is `raster_row`; None where there is no grid."""
    raster_row: int | None = None
    grid: str | None = None
    """The grid of column and row, where a region has several."""
    raster_index: int | None = None
    """Order of acquisition, from 0."""
    stage_x: float | None = None
    """stageX of the layout, as is `stage_y`: nanometres, or whole pixels where the format has no stage position."""
    stage_y: float | None = None
    angle_deg: float | None = None
    """Rotation of the layout: from stage to camera."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Quality numbers that the microscope recorded, by name."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One region of one section: what becomes a montage."""

    name: str
    """Name of the file for faults, as the microscope gives it."""
    tiles: tuple[Tile, ...]
    """At least one, in the order of the file."""
    facts: Mapping[str, object]
    """Values for the names of stacks, tile ids and z rules, by field. None, or absent, where there is none."""
    pixel_size_nm: Point | None
    """x, y of the region; None where the format does not state it: the watch does."""
    scope_id: str | None = None
    """temca of the layout."""
    camera_id: str | None = None
    thickness_nm: float | None = None
    """Thickness of the section; None if the format does not state it."""
    depth_nm: float | None = None
    """Depth of the section below the first one; None if the format does not state it."""
    is_reference: bool = False
    """Whether it is a lens-correction set."""
    declared_size: tuple[int, int] | None = None
    """Width and height of the images as the format states them, where only the images show the true ones."""
    shared_transform: object = None
    """Lens correction of all tiles, not validated."""
    findings: tuple[Finding, ...] = ()
    """Oddities seen while it was read."""
    metafile: Metafile | None = None
    """The record of pyTEMCA, with what only that format has: matches of neighbours, state of the scope."""

    def fact(self, name: str) -> object:
        """Return a value, or None if there is none."""
        return self.facts.get(name)

    @property
    def grid_number(self) -> int | None:
        """The fact `grid` as a number; None if it is no number."""
        return number_in(self.facts.get("grid"))


def number_in(text: object) -> int | None:
    """Return the whole number that a text of at most 18 digits is; None for everything else.

    >>> number_in("001050"), number_in("20170502174047_reference"), number_in(None)
    (1050, None, None)
    """
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18
    return int(str(text)) if is_number else None
