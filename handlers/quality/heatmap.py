"""Drawing heatmaps: one number of each tile of a section as a colour in the raster of the montage, as a PNG."""

import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from handlers.quality.colours import DIVERGING, OUTSIDE, SEQUENTIAL, UNKNOWN, Colours, colour_index
from handlers.text import counted

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

MAX_PX = 1000
"""Longest side of the raster in the picture, pixels."""
LARGEST_CELL_PX = 64
SMALLEST_CELL_PX = 2
_MARGIN, _BAR_WIDTH, _FONT_PX = 12, 320, 14
_INK, _PAPER, _GROUND = (20, 20, 20), (255, 255, 255), (235, 235, 235)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """Content of a heatmap."""

    title: str
    """The number with its unit, and the section; printable."""
    columns: Ints
    """Raster column of each tile."""
    rows: Ints
    """Raster row of each tile."""
    values: Floats
    """The number of each tile; NaN if it is unknown."""
    scale: tuple[float, float]
    """Values at the two ends of the colour map."""
    outside: Flags
    """Whether each tile is outside the limit, so that it is outlined."""
    limit: float | None = None
    """Limit that the legend shows; None: the number has no limit, or its rule is off."""
    limit_text: str = ""
    """Description of the limit, as in "at least 16"."""
    is_diverging: bool = False
    """Whether zero is the middle of the scale."""


def common_scale(columns: Iterable[Floats], limit: float | None = None, *, is_diverging: bool) -> tuple[float, float]:
    """Return the scale on which sections are compared: it contains every known value and the limit.

    A diverging scale is symmetric. Without any known value, the scale is from 0 to 1, or from -1 to 1.

    >>> common_scale([np.array([17.0, np.nan]), np.array([23.0])], 16.0, is_diverging=False)
    (16.0, 23.0)
    >>> common_scale([np.array([-3.0, 2.0])], is_diverging=True)
    (-3.0, 3.0)
    """
    known = [
        float(each)
        for values in columns
        for each in (values[np.isfinite(values)],)
        if each.size
        for each in (each.min(), each.max())
    ]
    known += [] if limit is None else [limit]
    if is_diverging:
        reach = max(map(abs, known), default=0.0) or 1.0
        return -reach, reach
    low, high = min(known, default=0.0), max(known, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def draw_heatmap(heatmap: Heatmap) -> bytes:
    """Return the picture as PNG."""
    table = DIVERGING if heatmap.is_diverging else SEQUENTIAL
    columns, rows = _from_zero(heatmap.columns), _from_zero(heatmap.rows)
    across, down = int(columns.max()) + 1, int(rows.max()) + 1
    cell = max(SMALLEST_CELL_PX, min(LARGEST_CELL_PX, MAX_PX // max(across, down)))
    return _with_legend(heatmap, table, _raster(heatmap, table, columns, rows, (across, down), cell))


def _from_zero(positions: Ints) -> Ints:
    """Return columns or rows counted from 0; without gaps if these would make the picture too large."""
    counted_from_0: Ints = positions - positions.min()
    if counted_from_0.max() >= MAX_PX // SMALLEST_CELL_PX:
        counted_from_0 = np.unique(counted_from_0, return_inverse=True)[1]
    return counted_from_0


def _raster(
    heatmap: Heatmap, table: Colours, columns: Ints, rows: Ints, size: tuple[int, int], cell: int
) -> Image.Image:
    """Return the picture of the cells, with crosses for unknown numbers and outlines for tiles outside the limit."""
    across, down = size
    cells = np.full((down, across, 3), _GROUND, np.uint8)
    known = np.isfinite(heatmap.values)
    cells[rows[known], columns[known]] = table[colour_index(heatmap.values[known], *heatmap.scale)]
    cells[rows[~known], columns[~known]] = UNKNOWN
    picture = Image.fromarray(cells.repeat(cell, axis=0).repeat(cell, axis=1))
    draw = ImageDraw.Draw(picture)
    for column, row in zip(columns[~known].tolist(), rows[~known].tolist(), strict=True):
        left, top, inset = column * cell, row * cell, cell // 4
        right, bottom = left + cell - 1 - inset, top + cell - 1 - inset
        draw.line((left + inset, top + inset, right, bottom), fill=_INK)
        draw.line((left + inset, bottom, right, top + inset), fill=_INK)
    width = max(1, cell // 12)
    for column, row in zip(columns[heatmap.outside].tolist(), rows[heatmap.outside].tolist(), strict=True):
        x, y = column * cell, row * cell
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=_PAPER, width=2 * width)
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=OUTSIDE, width=width)
    return picture


def _with_legend(heatmap: Heatmap, table: Colours, raster: Image.Image) -> bytes:
    """Return the PNG: title, raster and legend."""
    font = ImageFont.load_default(_FONT_PX)
    lines = _legend_lines(heatmap)
    texts = [heatmap.title, *lines, _corner_text(heatmap)]
    width = 2 * _MARGIN + max(raster.width, _BAR_WIDTH + 60, *(math.ceil(font.getlength(text)) for text in texts))
    line_px = _FONT_PX + 6
    bar_top = _MARGIN + line_px + raster.height + line_px + _MARGIN
    page = Image.new("RGB", (width, bar_top + 3 * line_px + line_px * len(lines) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((_MARGIN, _MARGIN), heatmap.title, fill=_INK, font=font)
    page.paste(raster, (_MARGIN, _MARGIN + line_px))
    draw.text((_MARGIN, _MARGIN + line_px + raster.height + 4), texts[-1], fill=_INK, font=font)
    _draw_bar(draw, page, heatmap, table, bar_top, font)
    for index, text in enumerate(lines):
        draw.text((_MARGIN, bar_top + 3 * line_px + index * line_px), text, fill=_INK, font=font)
    file = io.BytesIO()
    page.save(file, "PNG")
    return file.getvalue()


def _draw_bar(
    draw: ImageDraw.ImageDraw,
    page: Image.Image,
    heatmap: Heatmap,
    table: Colours,
    top: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw the colour map with the values of both ends, and a mark at the limit."""
    low, high = heatmap.scale
    line_px = _FONT_PX + 6
    bar = table[np.linspace(0, 255, _BAR_WIDTH).astype(np.intp)][np.newaxis].repeat(line_px - 4, axis=0)
    page.paste(Image.fromarray(bar), (_MARGIN, top + line_px))
    draw.text((_MARGIN, top + 2 * line_px), number_text(low), fill=_INK, font=font)
    draw.text((_MARGIN + _BAR_WIDTH, top + 2 * line_px), number_text(high), fill=_INK, font=font, anchor="ra")
    if heatmap.limit is None or not low <= heatmap.limit <= high:
        return
    x = _MARGIN + round((heatmap.limit - low) / (high - low) * (_BAR_WIDTH - 1))
    draw.line((x, top + line_px - 4, x, top + 2 * line_px), fill=OUTSIDE, width=2)
    anchor = "la" if x < _MARGIN + _BAR_WIDTH / 2 else "ra"
    draw.text((x, top), f"limit {number_text(heatmap.limit)}", fill=OUTSIDE, font=font, anchor=anchor)


def _legend_lines(heatmap: Heatmap) -> list[str]:
    known = np.isfinite(heatmap.values)
    lines = []
    if heatmap.limit_text:
        lines.append(f"limit: {heatmap.limit_text}; outside, outlined in red: {_tiles(heatmap.outside)}")
    elif heatmap.outside.any():
        lines.append(f"outlined in red: {_tiles(heatmap.outside)}")
    if not known.all():
        lines.append(f"unknown, crossed out: {int((~known).sum())} of {known.size} tiles")
    return lines


def _tiles(flags: Flags) -> str:
    return counted(int(flags.sum()), "tile")


def _corner_text(heatmap: Heatmap) -> str:
    columns, rows = heatmap.columns, heatmap.rows
    return f"columns {columns.min()} to {columns.max()}, rows {rows.min()} to {rows.max()}"


def number_text(value: float) -> str:
    """Return a number with at most four significant digits.

    >>> number_text(16.0), number_text(0.01234567), number_text(-0.0), number_text(123456.0)
    ('16', '0.01235', '0', '123456')
    """
    return f"{value + 0.0:.0f}" if abs(value) >= 1000 else f"{value + 0.0:.4g}"
