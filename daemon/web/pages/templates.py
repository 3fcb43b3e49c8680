"""Render templates. Every value is made printable and escaped, whatever a metafile or a path contains."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from handlers.text import byte_size, printable, printable_lines, shorten, z_text

DIRECTORY = Path(__file__).parent / "templates"
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def _finalize(value: object) -> object:
    """Return a value as a template prints it: text on one line without control characters; None as empty."""
    if isinstance(value, Markup) or not isinstance(value, str | Path):
        return "" if value is None else value
    return printable(value)


def duration(seconds: float | None) -> str:
    """Return a duration in words, with one or two units.

    >>> duration(0.2), duration(42), duration(3700), duration(200_000), duration(None)
    ('< 1 s', '42 s', '1 h 1 min', '2 d 7 h', '-')
    """
    if seconds is None:
        return "-"
    if 0 < seconds < 1:
        return "< 1 s"
    whole = round(seconds)
    for large, small, size, unit in (("d", "h", 86_400, 3_600), ("h", "min", 3_600, 60)):
        if whole >= size:
            rest = whole % size // unit
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole // 60} min" if whole >= 60 else f"{whole} s"


def moment(seconds: float | None, form: str = "full") -> Markup:
    """Return a `time` element in UTC; the script shows it in the viewer's zone.

    The script's text has the same form, so that the layout does not change when it replaces this text. Without script,
    the style adds "UTC".

    Parameters
    ----------
    form : "full"; "age": the time since then; "since": time of day and age.
    """
    if seconds is None:
        return Markup("-")
    at = datetime.fromtimestamp(seconds, UTC)
    full, old = f"{at:%Y-%m-%d %H:%M:%S}", age(time.time() - seconds)
    short = f"{at:%H:%M}" if at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d %H:%M}"
    text = {"age": old if old == "now" else f"{old} ago", "since": f"{short} ({old})"}.get(form, full)
    element = Markup('<time datetime="{}" data-form="{}" title="{} UTC">{}</time>')
    return element.format(at.isoformat(timespec="seconds"), form, full, text)


def age(seconds: float) -> str:
    """Return an age in one unit, as times.js does.

    >>> age(59), age(61), age(7300), age(200_000)
    ('now', '1 min', '2 h', '2 d')
    """
    return next((f"{seconds // size:.0f} {unit}" for unit, size in _UNITS if seconds >= size), "now")


def rate(value: float | None) -> str:
    """Return a rate with two decimals below 10, one below 100, none above.

    >>> rate(0.1234), rate(12.34), rate(1234.5), rate(0)
    ('0.12', '12.3', '1234', '0')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def place(z: float | None) -> str:
    """Return a z without needless decimals.

    >>> place(1050.0), place(0.5), place(None)
    ('1050', '0.5', '?')
    """
    return "?" if z is None else z_text(z)


def lines(text: str) -> Markup:
    """Return a text with its own line breaks, each line printable and escaped."""
    return escape(printable_lines(text))


class Templates:
    """The templates of the pages."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(DIRECTORY),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            finalize=_finalize,
        )
        self._environment.filters.update(
            duration=duration, moment=moment, rate=rate, place=place, bytes=byte_size, short=shorten, lines=lines
        )

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Return a page. Blocks for some milliseconds, so call it in a thread."""
        return self._environment.get_template(name).render(values)
