"""Plan a section: position and time of each tile. Pure; 20,000 tiles take 0.3 s."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import cos, floor, radians, sin
from pathlib import PurePosixPath

import numpy as np

from daemon.simulator.tissue.field import Tissue
from daemon.simulator.tissue.lattice import SECTION_THICKNESS

TILE_PERIOD_S = 1035 / 2772
"""Time for each tile of a production section of 2018."""
_STAGE_ERROR_PX = 0.12
"""Largest error of the stage. With rounding to whole nm, a step is exact to half a pixel, as on stages since 2018."""


@dataclass(frozen=True, slots=True)
class Camera:
    """The camera as the header describes it."""

    width: int = 1024
    height: int = 1024
    bits: int = 8
    """8, or 12 in the upper bits of 16-bit values."""
    camera_id: str = "49600328"
    camera_model: str = "Ximea CB200MG"


class TileFault(StrEnum):
    """Fault of a tile whose file is valid."""

    BLURRED = "blurred"
    """Out of focus."""
    SATURATED = "saturated"
    """Too bright: a large part is white."""
    REPEATED = "repeated"
    """The camera was stuck: the image is that of the previous tile."""
    SHIFTED = "shifted"
    """Imaged at another place than the stage reported."""


@dataclass(frozen=True, slots=True)
class TilePlan:
    """One exposure."""

    raster_index: int
    raster_col: int
    raster_row: int
    stage_x_nm: int
    stage_y_nm: int
    left_px: int
    top_px: int
    """Corner of the frame, pixels of the tissue from the centre of the ROI; the same for left_px."""
    exposed_at: datetime
    image_name: str
    above: int | None
    """raster_index of the tile above; None if there is none."""
    before: int | None
    """raster_index of the left neighbour; None if there is none."""
    fault: TileFault | None = None


@dataclass(frozen=True, slots=True)
class SectionPlan:
    """One ROI of one section."""

    project: str
    specimen_id: str
    temca_id: str
    session_id: str
    grid: str
    roi_index: int
    media_id: str
    z_index: int
    lims_specimen_id: str
    camera: Camera
    pixel_size_nm: float
    angle_deg: float
    """Rotation from stage to image, degrees."""
    overlap: float
    """Overlap of neighbours as a fraction of a tile's width and height."""
    roi_center_nm: tuple[int, int]
    """Stage (x, y), nm."""
    created_at: datetime
    seed: int
    """Seed of the tissue and of all errors."""
    tiles: tuple[TilePlan, ...]

    @property
    def directory(self) -> PurePosixPath:
        """Directory of its files below the root: project/scope/session/grid/roi."""
        return PurePosixPath(self.project, self.temca_id.upper(), self.session_id, self.grid, str(self.roi_index))

    @property
    def metafile_name(self) -> str:
        created = self.created_at.strftime("%Y%m%d%H%M%S")
        return f"_metadata_{created}_{self.session_id}_{self.grid}_{self.roi_index}_.json"

    @property
    def tissue(self) -> Tissue:
        return Tissue(self.seed, self.z_index * SECTION_THICKNESS)


def plan_section(
    *,
    tiles: int = 12,
    size: tuple[int, int] = (1024, 1024),
    grid: int = 1050,
    roi_index: int = 0,
    bits: int = 8,
    angle_deg: float = 180.0,
    overlap: float = 0.07,
    pixel_size_nm: float = 4.0,
    project: str = "demo",
    specimen_id: str = "20314_2L",
    temca_id: str = "temca2",
    session_id: str = "20314_2L_0151_07",
    media_id: str = "0151",
    roi_center_nm: tuple[int, int] = (-447952, 260651),
    first_col: int = 1,
    created_at: datetime = datetime(2018, 11, 20, 9, 14, 39, tzinfo=UTC),
    seed: int = 0,
) -> SectionPlan:
    """Plan a section in an ROI without corners. The same arguments give the same plan.

    Parameters
    ----------
    tiles : number of tiles.
    size : width and height of a tile, pixels.
    created_at : local time of the microscope, written unchanged.
    """
    plan = SectionPlan(
        project=project,
        specimen_id=specimen_id,
        temca_id=temca_id,
        session_id=session_id,
        grid=f"{grid:06d}",
        roi_index=roi_index,
        media_id=media_id,
        z_index=grid,
        lims_specimen_id="0674542505",
        camera=Camera(width=size[0], height=size[1], bits=bits),
        pixel_size_nm=pixel_size_nm,
        angle_deg=angle_deg,
        overlap=overlap,
        roi_center_nm=roi_center_nm,
        created_at=created_at,
        seed=seed,
        tiles=(),
    )
    return replace(plan, tiles=_tile_plans(plan, roi_cells(tiles, first_col)))


def roi_cells(count: int, first_col: int = 0) -> tuple[tuple[int, int], ...]:
    """Return the raster positions (col, row) of an ROI of `count` tiles in imaging order: a box without corners.

    >>> roi_cells(7)
    ((1, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2))
    """
    rows = max(1, round((1.25 * count) ** 0.5))
    columns = -(-count * 5 // (4 * rows))
    row, col = np.indices((rows, columns))
    # A centre slightly off the middle breaks ties and makes the outline irregular, as if drawn by hand.
    across, down = col - (columns - 1) * 0.501, row - (rows - 1) * 0.505
    away = np.abs(across / columns) ** 2.6 + np.abs(down / rows) ** 2.6
    chosen = np.sort(np.argsort(away.ravel(), kind="stable")[:count])
    cols, rows_of = chosen % columns, chosen // columns
    return tuple(zip((cols - cols.min() + first_col).tolist(), (rows_of - rows_of.min()).tolist(), strict=True))


def _tile_plans(plan: SectionPlan, cells: tuple[tuple[int, int], ...]) -> tuple[TilePlan, ...]:
    random = np.random.default_rng([plan.seed, plan.z_index, plan.roi_index])
    errors_px = random.uniform(-_STAGE_ERROR_PX, _STAGE_ERROR_PX, (len(cells), 2)).tolist()
    periods_ms = 1000 * TILE_PERIOD_S * random.uniform(0.8, 1.2, len(cells))
    times = [plan.created_at + timedelta(milliseconds=int(after)) for after in 9000 + periods_ms.cumsum()]
    index_of = {cell: index for index, cell in enumerate(cells)}
    middle = [(min(axis) + max(axis)) / 2 for axis in zip(*cells, strict=True)]
    return tuple(
        _tile_plan(plan, index, cell, middle, error_px, at, index_of)
        for index, (cell, error_px, at) in enumerate(zip(cells, errors_px, times, strict=True))
    )


def _tile_plan(
    plan: SectionPlan,
    index: int,
    cell: tuple[int, int],
    middle: list[float],
    error_px: list[float],
    at: datetime,
    index_of: dict[tuple[int, int], int],
) -> TilePlan:
    col, row = cell
    stage_x_nm, stage_y_nm = _stage_position(
        plan,
        (col - middle[0]) * plan.camera.width * (1 - plan.overlap) + error_px[0],
        (row - middle[1]) * plan.camera.height * (1 - plan.overlap) + error_px[1],
    )
    left_px, top_px = _frame_corner(plan, stage_x_nm, stage_y_nm)
    stamp = f"{at:%Y%m%d%H%M%S}{at.microsecond // 1000:03d}"
    return TilePlan(
        raster_index=index,
        raster_col=col,
        raster_row=row,
        stage_x_nm=stage_x_nm,
        stage_y_nm=stage_y_nm,
        left_px=left_px,
        top_px=top_px,
        exposed_at=at,
        image_name=f"{stamp}_{plan.session_id}_{plan.grid}_{plan.roi_index}_{col}_{row}.tif",
        above=index_of.get((col, row - 1)),
        before=index_of.get((col - 1, row)),
    )


def _stage_position(plan: SectionPlan, x_px: float, y_px: float) -> tuple[int, int]:
    """Return the stage (x, y) in whole nm of a position in image pixels from the centre of the ROI."""
    turn = radians(plan.angle_deg)
    dx, dy = x_px * cos(turn) - y_px * sin(turn), x_px * sin(turn) + y_px * cos(turn)
    center_x_nm, center_y_nm = plan.roi_center_nm
    return round(center_x_nm + dx * plan.pixel_size_nm), round(center_y_nm + dy * plan.pixel_size_nm)


def _frame_corner(plan: SectionPlan, stage_x_nm: int, stage_y_nm: int) -> tuple[int, int]:
    """Return the corner (x, y) of a frame in whole pixels from the centre of the ROI.

    Tile and centre are rounded down in the stage's frame, as in tile specs with integer positions (if no coordinate
    changes its sign within the ROI), so that tiles that are placed by their specs show no seam.
    """
    x, y = _in_pixels(plan, stage_x_nm, stage_y_nm)
    center_x, center_y = _in_pixels(plan, *plan.roi_center_nm)
    return floor(x) - floor(center_x), floor(y) - floor(center_y)


def _in_pixels(plan: SectionPlan, stage_x_nm: int, stage_y_nm: int) -> tuple[float, float]:
    """Return a stage position in pixels, rotated into the image frame.

    Source: TEMCA metafile, fields stage_pos, pixel_size_x_move, pixel_size_y_move, angle.
    """
    turn = radians(plan.angle_deg)
    x, y = stage_x_nm / plan.pixel_size_nm, stage_y_nm / plan.pixel_size_nm
    return x * cos(turn) + y * sin(turn), y * cos(turn) - x * sin(turn)
