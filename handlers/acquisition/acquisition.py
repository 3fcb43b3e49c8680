"""One region as a microscope's files describe it, as values that are independent of the format. Pure.

A reader makes an `Acquisition` from the files of its format. All later steps (z, tile specs, arrival of images, stacks)
read only these values.
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
    """Name that is unique within the acquisition: the field {basename} of tile ids."""
    position_px: Point
    """x, y of the upper left corner in level-0 pixels, x to the right and y down, from the origin of the stage."""
    width: int | None
    """Pixels, as `height`; None if the format does not state the size, which is then in the image's header."""
    height: int | None
    section: int | None = None
    """Number of the image in the MRC file that `img_path` names, from 0; None: the file is the image."""
    rotation_deg: float = 0.0
    """Rotation of the image about its own centre: x' = x cos - y sin, y' = x sin + y cos (y down)."""
    scale: float = 1.0
    """Enlargement of the image: its pixel size divided by that of the acquisition."""
    raster_col: int | None = None
    """Column in the grid, from 0; as `raster_row` None if there is no grid."""
    raster_row: int | None = None
    grid: str | None = None
    """Name of the tile's grid, if a region has several."""
    raster_index: int | None = None
    """Order of acquisition, from 0."""
    stage_x: float | None = None
    """stageX of the layout (`stage_y`: stageY): nanometres, or whole pixels if the format has no stage position."""
    stage_y: float | None = None
    angle_deg: float | None = None
    """`rotation` of the layout: from stage to camera."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Quality numbers that the microscope recorded, by name."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """One region of one section, from which a montage is made."""

    name: str
    """Name of the file, for faults."""
    tiles: tuple[Tile, ...]
    """At least one, in the order of the file."""
    facts: Mapping[str, object]
    """Values for the names of stacks, tile ids and z rules, by field. A missing value is None or has no entry."""
    pixel_size_nm: Point | None
    """Nanometres per pixel in x and y; None if the format does not state it, so that the watch must."""
    scope_id: str | None = None
    """`temca` of the layout."""
    camera_id: str | None = None
    """`camera` of the layout."""
    thickness_nm: float | None = None
    """Thickness of the section; None if the format does not state it."""
    depth_nm: float | None = None
    """Depth of the section below the first one; None if the format does not state it."""
    is_reference: bool = False
    """Whether it is a lens-correction set."""
    declared_size: tuple[int, int] | None = None
    """Width and height of the images as the format states them, if the images may have another size."""
    shared_transform: object = None
    """Lens correction of all tiles, not validated."""
    findings: tuple[Finding, ...] = ()
    """Problems that were found while the files were read."""
    metafile: Metafile | None = None
    """The record of pyTEMCA, for values of that format alone: matches of neighbours, state of the scope."""

    def fact(self, name: str) -> object:
        """Return the value of a field; None if it is missing."""
        return self.facts.get(name)

    @property
    def grid_number(self) -> int | None:
        """The fact `grid` as a number; None if it is not a number."""
        return number_in(self.facts.get("grid"))


def number_in(text: object) -> int | None:
    """Return a text of at most 18 digits as a number; None for any other value.

    >>> number_in("001050"), number_in("20170502174047_reference"), number_in(None)
    (1050, None, None)
    """
    is_number = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18
    return int(str(text)) if is_number else None
