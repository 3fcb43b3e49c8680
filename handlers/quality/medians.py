"""Medians of the numbers of a section's tiles. Pure."""

import numpy as np

from handlers.quality.numbers import Floats, TileNumbers, median
from handlers.quality.trend import Trend
from handlers.quality.verdict import stage_error


def trend_of(numbers: TileNumbers, pixel_size_nm: float | None) -> Trend:
    """Return the medians of the tiles of a section."""
    return Trend(
        focus=_median(numbers.focus_score),
        std_dev=_median(numbers.std_dev),
        interval_s=_median(numbers.interval),
        stage_error_px=_median(stage_error(numbers)),
        pixel_size_nm=pixel_size_nm,
    )


def _median(column: Floats) -> float | None:
    known = column[~np.isnan(column)]
    return median(known) if known.size else None
