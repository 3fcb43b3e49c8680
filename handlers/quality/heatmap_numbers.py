"""The numbers that heatmaps show: the column of each number, and the rule that limits it. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np

from handlers.quality.heatmap import Flags, Floats, Heatmap, Ints, common_scale, number_text
from handlers.quality.numbers import TileNumbers
from handlers.quality.rules import Finding, Rule
from handlers.quality.verdict import outside, stage_error


class Number(StrEnum):
    """A number of a tile, by its name in addresses and file names."""

    FOCUS = "focus"
    STD_DEV = "std_dev"
    ROW_MATCH = "row_match"
    COLUMN_MATCH = "column_match"
    X_OFFSET = "x_offset"
    Y_OFFSET = "y_offset"
    MEASURED_FOCUS = "measured_focus"
    STAGE_ERROR = "stage_error"
    SATURATION = "saturation"


@dataclass(frozen=True, slots=True)
class _Shown:
    title: str
    values: Callable[[TileNumbers], Floats]
    rule: Rule | None = None
    """The rule whose limit the heatmap shows."""
    is_diverging: bool = False


def _row_match(numbers: TileNumbers) -> Floats:
    """Return the matches with the neighbour in the row that was imaged before, which is the left or the right one."""
    return np.where(np.isnan(numbers.left_quality), numbers.right_quality, numbers.left_quality)


_SHOWN: Final[Mapping[Number, _Shown]] = MappingProxyType(
    {
        Number.FOCUS: _Shown("focus score of the microscope", lambda each: each.focus_score, Rule.MIN_FOCUS),
        Number.STD_DEV: _Shown(
            "standard deviation, grey values of 0 to 255", lambda each: each.std_dev, Rule.MIN_STD_DEV
        ),
        Number.ROW_MATCH: _Shown("matches with the neighbour in the row", _row_match, Rule.MAX_UNMATCHED_EDGES),
        Number.COLUMN_MATCH: _Shown(
            "matches with the neighbour in the column", lambda each: each.top_quality, Rule.MAX_UNMATCHED_EDGES
        ),
        Number.X_OFFSET: _Shown("x offset from the ideal raster, px", lambda each: each.raster_offset_x, None, True),
        Number.Y_OFFSET: _Shown("y offset from the ideal raster, px", lambda each: each.raster_offset_y, None, True),
        Number.MEASURED_FOCUS: _Shown(
            "measured focus: variance of the Laplacian at level 3", lambda each: each.sharpness
        ),
        Number.STAGE_ERROR: _Shown("stage error, px", stage_error, Rule.MAX_STAGE_ERROR_SHARE),
        Number.SATURATION: _Shown(
            "share of pixels at full scale", lambda each: each.saturated_share, Rule.MAX_SATURATED_SHARE
        ),
    }
)


def values_of(number: Number, numbers: TileNumbers) -> Floats:
    """Return a number of each tile, (n,); NaN if it is unknown."""
    return _SHOWN[number].values(numbers)


def heatmap_of(
    number: Number,
    numbers: TileNumbers,
    findings: Mapping[Rule, Finding],
    *,
    title: str,
    compared: Sequence[Floats] = (),
) -> Heatmap:
    """Return the heatmap of a number.

    Parameters
    ----------
    findings : findings of the montage, whose limits are shown. A missing rule has no limit.
    title : name of the section; printable.
    compared : values of the number in other sections, which the scale must also contain.
    """
    shown = _SHOWN[number]
    values = shown.values(numbers)
    limit, text, is_outside = _limit(number, shown, numbers, findings)
    columns, rows, note = _raster(numbers)
    return Heatmap(
        title=f"{shown.title}; {title}{note}",
        columns=columns,
        rows=rows,
        values=values,
        scale=common_scale([values, *compared], limit, is_diverging=shown.is_diverging),
        outside=is_outside,
        limit=limit,
        limit_text=text,
        is_diverging=shown.is_diverging,
    )


def _raster(numbers: TileNumbers) -> tuple[Ints, Ints, str]:
    """Return column and row of each tile, and a note about them for the title.

    Tiles of a format without a grid are placed in rows of equal length, in the order of the file.
    """
    if np.isfinite(numbers.raster_col).all() and np.isfinite(numbers.raster_row).all():
        return numbers.raster_col.astype(np.int64), numbers.raster_row.astype(np.int64), ""
    places = np.arange(len(numbers.tile_ids))
    across = math.ceil(math.sqrt(len(places)))
    return places % across, places // across, "; no grid: tiles in the order of the file"


def _limit(
    number: Number, shown: _Shown, numbers: TileNumbers, findings: Mapping[Rule, Finding]
) -> tuple[float | None, str, Flags]:
    """Return the limit of a tile, its description, and whether each tile is outside it."""
    values = shown.values(numbers)
    if number in (Number.ROW_MATCH, Number.COLUMN_MATCH):
        least = 2 if Rule.MAX_WEAK_EDGES in findings else 1 if Rule.MAX_UNMATCHED_EDGES in findings else None
        return least, "" if least is None else f"at least {least}", values < (least or 0)
    finding = findings.get(shown.rule) if shown.rule else None
    if finding is None:
        return None, "", np.zeros(values.shape, np.bool_)
    side = "at least" if number in (Number.FOCUS, Number.STD_DEV) else "at most"
    return finding.limit, f"{side} {number_text(finding.limit)}", outside(finding.rule, finding.limit, numbers)
