"""Format a log line: fixed order of keys, no secrets, printable text. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from handlers.text import fitted, printable, printable_lines
from handlers.uris import without_userinfo

FIRST = (
    "time", "level", "event", "watch", "montage", "z", "stack", "step", "attempt", "state",
    "tiles", "images", "montages", "seconds",
)  # fmt: skip
"""Keys at the start of a line: time, severity, event, context, counts, duration. Other keys follow alphabetically."""
LAST = ("reason", "problem", "fault", "hint", "note", "directory", "metafile", "exception")
"""Keys at the end of a line: long texts and paths."""
_NARROWEST_EVENT = 18
_INDENT = " " * 8
"""Before the facts that do not fit into the first line."""
_COLOURS = {"debug": "36", "info": "32", "warning": "33", "error": "31", "critical": "31"}


def arranged(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in their fixed order. Facts that are None are left out; the metafile's path appears only once.

    >>> list(arranged({"metafile": "m", "zoom": 1, "z": None, "montage": 7, "event": "e", "area": 2}))
    ['event', 'montage', 'area', 'zoom', 'metafile']
    >>> arranged({"fault": "/data/m: has no data", "subject": "/data/m", "metafile": "/data/m"})
    {'fault': 'has no data', 'metafile': '/data/m'}
    """
    path = facts.get("metafile")
    named = {key: value for key, value in facts.items() if value is not None and (key == "metafile" or value != path)}
    for key in named.keys() & {"fault", "problem", "reason"}:
        named[key] = str(named[key]).removeprefix(f"{path}: ")
    others = sorted(named.keys() - {*FIRST, *LAST})
    return {key: named[key] for key in (*FIRST, *others, *LAST) if key in named}


def safe(value: Any) -> Any:
    """Return a fact as printable text without user names and passwords of URLs, also inside lists and mappings.

    >>> safe(["http://em:secret@render", {"a\\x1b": 1}, 2.5, None])
    ['http://render', {'a\\\\x1b': 1}, 2.5, None]
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {printable(str(key)): safe(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [safe(each) for each in value]
    return printable(without_userinfo(str(value)))


def safe_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a line after `safe`. A traceback keeps its line breaks."""
    found: dict[str, Any] = safe({key: value for key, value in facts.items() if key != "exception"})
    if "exception" in facts:
        found["exception"] = printable_lines(without_userinfo(str(facts["exception"])))
    return found


def console_line(facts: Mapping[str, Any], *, colours: bool = False, width: int | None = None) -> str:
    """Return a readable line: time to the second, severity, event, then `key=value`; a traceback is indented.

    Empty lists are left out.

    Parameters
    ----------
    width : columns of the terminal; a longer line is wrapped, its continuation indented. None: one line.

    >>> facts = {"time": "2026-01-02T03:04:05.6Z", "level": "info", "event": "tiles.lost"}
    >>> console_line({**facts, "z": 7.0, "new": [], "a": ["b", True]})
    '2026-01-02 03:04:05 info    tiles.lost         z=7 a="b; true"'
    """
    rest = {key: value for key, value in facts.items() if key not in {"time", "level", "event", "exception"}}
    time, level = str(facts.get("time", ""))[:19].replace("T", " "), str(facts.get("level", ""))
    head, text = f"{time} {level:<7} {facts['event']:<{_NARROWEST_EVENT}} ", " ".join(_pairs(rest))
    line = (head + text).rstrip() if width is None or not text else "\n".join(fitted(text, width, head, _INDENT))
    if colours:
        end = len(time) + 1 + len(level)
        line = f"{line[: len(time)]} \x1b[{_COLOURS.get(level, '0')}m{level}\x1b[0m{line[end:]}"
    return line + "".join(f"\n    {each}" for each in str(facts.get("exception", "")).splitlines())


def _pairs(facts: Mapping[str, Any]) -> Iterable[str]:
    for key, value in facts.items():
        if value == []:
            continue
        text = _text(value)
        quoted = '"' + text.replace('"', '\\"') + '"'
        yield f"{key}={quoted if ' ' in text or not text else text}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(_text, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)
