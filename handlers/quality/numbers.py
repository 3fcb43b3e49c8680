"""Numbers of a montage's tiles, as columns. Pure.

Every number of a tile is a field of `TileNumbers`, annotated with its unit and the step in which it is stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple, Self, get_type_hints

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def median(values: npt.ArrayLike) -> float:
    """Return the median of at least one value, none of which is NaN.

    numpy.median would import numpy.ma, which takes 10 MB of memory.

    >>> median([3, 1, 2]), median([4.0, 1.0, 2.0, 3.0]), median([1.5e308, 1.5e308])
    (2.0, 2.5, 1.5e+308)
    """
    ordered = np.sort(values)
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return sum(float(each) / 2 for each in middle)  # the sum of two large values would overflow


class Unit(NamedTuple):
    """Unit of a column's values."""

    text: str
    """Unit, as shown beside a value; empty for counts, scores and fractions."""
    step: float
    """The journal stores the nearest multiple of this step."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TileNumbers:
    """Numbers of n tiles, in the order of the metafile.

    Every column is a float64 array of shape (n,). Unknown numbers are NaN. "Grey 16" values are on the scale 0 to 65535
    at any depth, "grey 8" values on the scale 0 to 255. Pixels are those of level 0, x along a row of tiles, y along a
    column.
    """

    tile_ids: tuple[str, ...]

    # --- from the metafile
    raster_col: Annotated[Floats, Unit("", 1)]
    """Column in one raster of the whole section, in which several grids lie side by side; see `section_cells`."""
    raster_row: Annotated[Floats, Unit("", 1)]
    raster_index: Annotated[Floats, Unit("", 1)]
    """Order of acquisition, from 0."""
    focus_score: Annotated[Floats, Unit("", 0.01)]
    """Focus score of the microscope, about 20 to 25; higher is sharper."""
    mean: Annotated[Floats, Unit("grey 16", 1)]
    minimum: Annotated[Floats, Unit("grey 16", 1)]
    maximum: Annotated[Floats, Unit("grey 16", 1)]
    std_dev: Annotated[Floats, Unit("grey 8", 0.01)]
    """Standard deviation; on another scale than `mean`."""
    left_quality: Annotated[Floats, Unit("", 1)]
    """Number of matches with the left neighbour; unknown if there is no neighbour that was imaged before."""
    left_dx: Annotated[Floats, Unit("px", 0.05)]
    """Shift relative to the left neighbour; like `left_dy`, distance and rotation unknown without a match."""
    left_dy: Annotated[Floats, Unit("px", 0.05)]
    left_distance: Annotated[Floats, Unit("px", 0.05)]
    left_rotation: Annotated[Floats, Unit("rad", 1e-5)]
    top_quality: Annotated[Floats, Unit("", 1)]
    """The same with the upper neighbour."""
    top_dx: Annotated[Floats, Unit("px", 0.05)]
    top_dy: Annotated[Floats, Unit("px", 0.05)]
    top_distance: Annotated[Floats, Unit("px", 0.05)]
    top_rotation: Annotated[Floats, Unit("rad", 1e-5)]
    right_quality: Annotated[Floats, Unit("", 1)]
    """The same with the right neighbour, which was imaged before in rows that are acquired from right to left."""
    right_dx: Annotated[Floats, Unit("px", 0.05)]
    right_dy: Annotated[Floats, Unit("px", 0.05)]
    right_distance: Annotated[Floats, Unit("px", 0.05)]
    right_rotation: Annotated[Floats, Unit("rad", 1e-5)]
    raster_offset_x: Annotated[Floats, Unit("px", 0.1)]
    """Stage position minus position in the ideal raster, whose step is a frame minus the nominal overlap; median 0."""
    raster_offset_y: Annotated[Floats, Unit("px", 0.1)]
    interval: Annotated[Floats, Unit("s", 0.001)]
    """Time since the preceding tile in the order of acquisition; unknown for the first tile."""
    working_distance: Annotated[Floats, Unit("m", 1e-9)]
    """Working distance of a scanning microscope; a jump is a change of focus."""
    stigmation_x: Annotated[Floats, Unit("%", 0.001)]
    stigmation_y: Annotated[Floats, Unit("%", 0.001)]
    edge_correlation: Annotated[Floats, Unit("", 1e-4)]
    """Lower correlation of the tile with its right and its upper neighbour; only SerialEM records it."""

    # --- measured while mipmaps are made
    bits: Annotated[Floats, Unit("", 1)]
    """Bits per pixel of level 0, 8 or 16: the scale of `darkest` and `brightest`."""
    darkest: Annotated[Floats, Unit("grey", 1)]
    """Smallest pixel value of level 0, in grey values of the file. A frame is blank if `brightest` is equal."""
    brightest: Annotated[Floats, Unit("grey", 1)]
    dark_share: Annotated[Floats, Unit("", 1e-5)]
    """Fraction of the pixels of level 0 that are 0."""
    saturated_share: Annotated[Floats, Unit("", 1e-5)]
    """Fraction of the pixels of level 0 at full scale: 255, or at least 0xfff0 with 16 bits."""
    sharpness: Annotated[Floats, Unit("grey 8 squared", 0.05)]
    """Variance of the Laplacian at level 3, a measure of focus that does not depend on the scope; higher is sharper."""
    repeat_of: Annotated[Floats, Unit("", 1)]
    """Index of the first acquired tile with the same image; unknown if there is none."""

    # --- overlaps of raster neighbours, compared at level 3
    left_stage_x: Annotated[Floats, Unit("px", 0.25)]
    """Measured position relative to the left neighbour, minus that by the tile specs; unknown without a neighbour or
    without enough contrast in the overlap."""
    left_stage_y: Annotated[Floats, Unit("px", 0.25)]
    left_stage_error: Annotated[Floats, Unit("", 0.01)]
    """Error estimate: RMS difference of the two aligned windows, relative to their contrast; 0 is equal."""
    top_stage_x: Annotated[Floats, Unit("px", 0.25)]
    top_stage_y: Annotated[Floats, Unit("px", 0.25)]
    top_stage_error: Annotated[Floats, Unit("", 0.01)]
    stage_x: Annotated[Floats, Unit("px", 0.25)]
    """Displacement of the tile from its stage position, relative to the tiles around it, by all its overlaps."""
    stage_y: Annotated[Floats, Unit("px", 0.25)]

    @classmethod
    def of(cls, tile_ids: tuple[str, ...], columns: Mapping[str, Floats]) -> Self:
        """Return numbers with these columns; all other columns are unknown.

        Raises
        ------
        ValueError
            If a column does not exist, or has another length than there are tiles.
        """
        count = len(tile_ids)
        if not UNITS.keys() >= columns.keys() or any(each.shape != (count,) for each in columns.values()):
            shapes = {name: each.shape for name, each in columns.items()}
            raise ValueError(f"expected known columns of {count} values, found {shapes}")
        rest = {name: np.full(count, np.nan) for name in UNITS if name not in columns}
        return cls(tile_ids=tile_ids, **rest, **columns)

    def replaced(self, columns: Mapping[str, Floats]) -> Self:
        """Return these numbers with some columns replaced. Raises as `of`."""
        return self.of(self.tile_ids, {**self.columns, **columns})

    @property
    def columns(self) -> dict[str, Floats]:
        """Every column by its name, in a fixed order."""
        return {name: getattr(self, name) for name in UNITS}

    @property
    def is_blank(self) -> npt.NDArray[np.bool_]:
        """Whether all pixels of each tile are equal, (n,); False if that is unknown."""
        blank: npt.NDArray[np.bool_] = self.darkest == self.brightest
        return blank


UNITS: Final[Mapping[str, Unit]] = MappingProxyType(
    {
        name: hint.__metadata__[0]
        for name, hint in get_type_hints(TileNumbers, include_extras=True).items()
        if name != "tile_ids"
    }
)
"""Unit and step of each column by its name, in the order of `TileNumbers`."""


@dataclass(frozen=True, slots=True)
class SectionNumbers:
    """Numbers of a region as a whole, from its metafile. Unknown numbers are None."""

    overlap: float | None = None
    """Nominal overlap of neighbours, as a fraction of the frame."""
    aperture_x_nm: float | None = None
    """Stage position of the aperture's centre, x (`aperture_y_nm`: y)."""
    aperture_y_nm: float | None = None
    autofocus_value: float | None = None
    """Result of the last autofocus; 0 when it is off."""
    beam_center_active: bool | None = None
    """Whether the beam was being centred."""
    beam_center_changed: bool | None = None
    beam_offset_x: float | None = None
    """Beam offset in x (`beam_offset_y`: y), in the microscope's own unit, which it does not state."""
    beam_offset_y: float | None = None
