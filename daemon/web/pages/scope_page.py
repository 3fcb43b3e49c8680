"""The page of a microscope: trends of its sections over days, drawn as SVG. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daemon.journal.tables.trends import TrendPoint

SECTIONS = 2_000
"""Largest number of sections on a page; the newest ones are shown."""
DAYS = (1, 7, 30, 365)
"""Periods that the page offers, days."""
DAY_S = 86_400.0
WIDTH, HEIGHT = 640, 150
_LEFT, _BOTTOM, _TOP = 84, 22, 8
"""Margins for the texts, which are larger on a phone; units of the SVG."""
NUMBERS = (
    ("focus", "Focus score", ""),
    ("std_dev", "Standard deviation", "grey values of 0 to 255"),
    ("interval_s", "From tile to tile", "s"),
    ("stage_error_px", "Stage error", "px"),
    ("pixel_size_nm", "Pixel size", "nm"),
)
"""Fields of a trend, with title and unit."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Chart of one number over time. Paths and heights are in units of the SVG."""

    title: str
    unit: str
    dots: str
    line: str
    """Polyline through the medians of 40 equal intervals."""
    ticks: tuple[tuple[float, str], ...]
    """Height and text of each tick."""
    limit_y: float | None
    last: float
    median: float
    least: float
    greatest: float
    count: int


def charts_of(points: Sequence[TrendPoint], since: float, now: float, min_focus: float | None) -> list[Chart]:
    """Return a chart for each number that at least one section has.

    Parameters
    ----------
    since, now : range of time, seconds since 1970 UTC.
    min_focus : limit that the focus chart shows; None: no limit.
    """
    charts = []
    for name, title, unit in NUMBERS:
        values = [(each.at, value) for each in points if (value := getattr(each.trend, name)) is not None]
        if values:
            charts.append(_chart(title, unit, values, (since, now), min_focus if name == "focus" else None))
    return charts


def _chart(
    title: str, unit: str, values: Sequence[tuple[float, float]], times: tuple[float, float], limit: float | None
) -> Chart:
    numbers = [value for _, value in values]
    low, high = min(numbers), max(numbers)
    if limit is not None:
        low, high = min(low, limit), max(high, limit)
    room = (high - low) * 0.08 or abs(high) * 0.02 or 1.0
    low, high = low - room, high + room
    begin, end = times
    ticks = {tick_text(value): value for value in (low + room, high - room)}

    def place(at: float, value: float) -> tuple[float, float]:
        return _LEFT + (WIDTH - _LEFT - 6) * (at - begin) / (end - begin), _height(value, low, high)

    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in (place(*each) for each in values))
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*each) for each in _medians(values, times)))
    return Chart(
        title=title,
        unit=unit,
        dots=dots,
        line=line,
        ticks=tuple((_height(value, low, high), text) for text, value in ticks.items()),
        limit_y=None if limit is None else _height(limit, low, high),
        last=numbers[-1],
        median=statistics.median(numbers),
        least=min(numbers),
        greatest=max(numbers),
        count=len(numbers),
    )


def tick_text(value: float) -> str:
    """Return a number as the label of a tick, at most seven characters.

    >>> tick_text(22.8471), tick_text(0.0025714)
    ('22.85', '0.0026')
    """
    text = f"{value:.4g}"
    return text if len(text) <= 7 else f"{value:.2g}"


def _height(value: float, low: float, high: float) -> float:
    return round(_TOP + (HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low), 1)


def _medians(values: Sequence[tuple[float, float]], times: tuple[float, float]) -> list[tuple[float, float]]:
    """Return time and median of 40 equal intervals; the time is the middle of the interval."""
    begin, end = times
    step = (end - begin) / 40
    grouped: dict[int, list[float]] = {}
    for at, value in values:
        grouped.setdefault(int((at - begin) // step), []).append(value)
    return [(begin + (number + 0.5) * step, statistics.median(group)) for number, group in sorted(grouped.items())]


def scope_values(
    watch: str, scope: str, points: Sequence[TrendPoint], days: int, now: float, min_focus: float | None
) -> dict[str, Any]:
    """Return the values of the template."""
    since = now - days * DAY_S
    return {
        "watch": watch,
        "scope": scope,
        "days": days,
        "choices": DAYS,
        "charts": charts_of(points, since, now, min_focus),
        "sections": len(points),
        "is_cut": len(points) == SECTIONS,
        "since": since,
        "now": now,
        "width": WIDTH,
        "height": HEIGHT,
        "left": _LEFT,
        "newest": points[-1] if points else None,
    }
