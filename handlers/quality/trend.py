"""One number of each kind for a whole section, for trends over days. Pure; loads no numpy."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trend:
    """Medians of the tiles of a section; None where unknown."""

    focus: float | None = None
    """Focus score of the microscope."""
    std_dev: float | None = None
    """Grey values of 0 to 255."""
    interval_s: float | None = None
    """From tile to tile."""
    stage_error_px: float | None = None
    """Distance of a tile from where the stage said."""
    pixel_size_nm: float | None = None
    """As the microscope was calibrated."""
