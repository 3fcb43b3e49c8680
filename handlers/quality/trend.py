"""Medians of a section's numbers, for trends over days. Pure; imports no numpy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trend:
    """Medians of the tiles of a section. Unknown medians are None."""

    focus: float | None = None
    """Focus score of the microscope."""
    std_dev: float | None = None
    """Standard deviation, on the scale 0 to 255."""
    interval_s: float | None = None
    """Time from tile to tile."""
    stage_error_px: float | None = None
    """Displacement of a tile from its stage position, level-0 pixels."""
    pixel_size_nm: float | None = None
    """Pixel size by the calibration of the microscope."""
