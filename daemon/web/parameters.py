"""Parse query parameters. Each function raises HTTPBadRequest for an invalid value."""

import math
from pathlib import Path

from aiohttp import web

from daemon.journal.tables.overview import Filter
from daemon.montages.states import MontageState

MAX_LIMIT = 10_000
"""Largest number of montages in one response."""


def states_of(request: web.Request) -> list[MontageState] | None:
    """Return the states of `?state=failed,complete`; None for all."""
    names = [name for value in request.query.getall("state", []) for name in value.split(",") if name]
    if not names or names == ["all"]:
        return None
    try:
        return [MontageState(name) for name in names]
    except ValueError:
        raise web.HTTPBadRequest(reason=f"state: must be one of {', '.join(MontageState)}, all") from None


def z_of(request: web.Request) -> float | None:
    """Return the number of `?z=1050`."""
    text = request.query.get("z")
    try:
        return None if text is None else float(text)
    except ValueError:
        raise web.HTTPBadRequest(reason="z: must be a number") from None


def ids_of(request: web.Request, key: str = "id") -> list[int] | None:
    """Return the numbers of `?id=1,2`."""
    text = request.query.get(key)
    if text is None:
        return None
    parts = text.split(",")
    if not all(_is_number(part, max_digits=18) for part in parts):
        raise web.HTTPBadRequest(reason=f"{key}: must be whole numbers, separated by commas")
    return [int(part) for part in parts]


def metafile_of(request: web.Request) -> Path | None:
    """Return the path of `?metafile=/data/x.json`."""
    text = request.query.get("metafile")
    if text is None:
        return None
    if not text.startswith("/") or "\0" in text:
        raise web.HTTPBadRequest(reason="metafile: must be an absolute path")
    return Path(text)


def limit_of(request: web.Request) -> int:
    """Return the number of `?limit=100`."""
    text = request.query.get("limit", "100")
    if not (_is_number(text, max_digits=9) and 1 <= int(text) <= MAX_LIMIT):
        raise web.HTTPBadRequest(reason=f"limit: must be a whole number from 1 to {MAX_LIMIT}")
    return int(text)


def montage_id_of(request: web.Request) -> int:
    """Return the id in the path. Raises HTTPNotFound for other texts."""
    text = request.match_info["id"]
    if not _is_number(text, max_digits=18):
        raise web.HTTPNotFound(reason="no such montage")
    return int(text)


def place_of(request: web.Request) -> tuple[int, int]:
    """Return column and row of `?column=3&row=4`."""
    found = [_count(key, request.query.get(key, "").strip()) for key in ("column", "row")]
    if found[0] is None or found[1] is None:
        raise web.HTTPBadRequest(reason="column and row: must be whole numbers")
    return found[0], found[1]


def days_of(request: web.Request, choices: tuple[int, ...]) -> int:
    """Return the number of `?days=30`, which must be one of the choices; by default the second one."""
    text = request.query.get("days", str(choices[1]))
    if text not in map(str, choices):
        raise web.HTTPBadRequest(reason=f"days: must be one of {', '.join(map(str, choices))}")
    return int(text)


def size_of(request: web.Request, sizes: tuple[int, ...]) -> int:
    """Return the number of `?size=256`, which must be one of `sizes`; by default the last one."""
    text = request.query.get("size", str(sizes[-1]))
    if text not in map(str, sizes):
        raise web.HTTPBadRequest(reason=f"size: must be {' or '.join(map(str, sizes))}")
    return int(text)


def _is_number(text: str, *, max_digits: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= max_digits


# --- the filter of the pages

FILTER_KEYS = ("watch", "scope", "tape", "state", "z_from", "z_to", "before")
"""Parameters of the overview's filter."""


def filter_of(request: web.Request) -> Filter:
    """Return the filter of `?watch=&scope=&tape=&state=&z_from=&z_to=&before=`. An empty value does not restrict."""
    given = {key: request.query[key].strip() for key in FILTER_KEYS if request.query.get(key, "").strip()}
    return Filter(
        watch=given.get("watch"),
        scope=given.get("scope"),
        tape=given.get("tape"),
        state=_state(given.get("state")),
        z_from=_finite("z_from", given.get("z_from")),
        z_to=_finite("z_to", given.get("z_to")),
        before=_count("before", given.get("before")),
    )


def _state(text: str | None) -> MontageState | None:
    try:
        return None if text is None else MontageState(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"state: must be one of {', '.join(MontageState)}") from None


def _finite(key: str, text: str | None) -> float | None:
    try:
        value = None if text is None else float(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"{key}: must be a number") from None
    if value is not None and not math.isfinite(value):
        raise web.HTTPBadRequest(reason=f"{key}: must be a number")
    return value


def _count(key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not _is_number(text, max_digits=18):
        raise web.HTTPBadRequest(reason=f"{key}: must be a whole number")
    return int(text)
