"""Timeline of a montage: its events and attempts in one list, in order of time. Pure."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_DETAILS = ("reason", "because", "tiles", "found_by", "from", "onto", "images", "names", "evidence", "by")
"""Details of an event that are shown, in this order."""


@dataclass(frozen=True, slots=True)
class Line:
    """An event, or consecutive attempts at a step with the same outcome: a waiting section makes one a minute."""

    at: float
    """Seconds since 1970 UTC; for attempts, the begin of the first one."""
    what: str
    """The event, or the attempted step."""
    text: str
    """Details of the event, or the problem of the attempts."""
    count: int = 0
    """Number of attempts; 0 for an event."""
    outcome: str = ""
    """Outcome of the attempts; empty for an event."""
    took_s: float | None = None
    """Seconds from the first attempt's begin to the last one's end; None for an event and for a running attempt."""


def timeline(events: Iterable[Mapping[str, Any]], attempts: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return events and attempts in order of time; equal consecutive attempts are one line.

    If the times are equal, the event comes first, since the attempt follows from it.
    """
    recorded = [(float(each["at"]), False, each) for each in events]
    tried = [(float(each["started_at"]), True, each) for each in attempts]
    whole = sorted([*recorded, *tried], key=lambda entry: entry[:2])
    lines: list[Line] = []
    for is_attempt, part in itertools.groupby(whole, lambda entry: entry[1]):
        records = [each for *_, each in part]
        lines += _attempt_lines(records) if is_attempt else map(_event_line, records)
    return lines


def _event_line(event: Mapping[str, Any]) -> Line:
    return Line(event["at"], str(event["event"]).replace("_", " "), event_text(event["detail"]))


def _attempt_lines(attempts: Sequence[Mapping[str, Any]]) -> Iterator[Line]:
    alike = itertools.groupby(attempts, lambda each: (each["step"], each["outcome"], _problem(each)))
    for (step, outcome, problem), group in alike:
        same = list(group)
        ended_at = same[-1]["ended_at"]
        took_s = None if ended_at is None else ended_at - same[0]["started_at"]
        yield Line(same[0]["started_at"], step, problem, len(same), outcome or "running", took_s)


def _problem(attempt: Mapping[str, Any]) -> str:
    return str(attempt["fault"].get("problem", "")) if attempt["fault"] else ""


def event_text(detail: Mapping[str, Any]) -> str:
    """Return the details of an event as text.

    >>> event_text({"tiles": 24, "z": 1050.0}), event_text({"reason": "lens set"}), event_text({})
    ('24 tiles', 'lens set', '')
    >>> event_text({"images": 1, "names": ["a.tif"]})
    '1 image; a.tif'
    >>> event_text({"found_by": "scan", "by": "annabel"})
    'found by scan; by annabel'
    """
    if isinstance(detail.get("fault"), dict):
        return str(detail["fault"].get("problem", ""))
    given = [(name, detail[name]) for name in _DETAILS if name in detail]
    return "; ".join(_in_words(*each) for each in given)


def _in_words(name: str, value: Any) -> str:
    if name in ("tiles", "images") and isinstance(value, int):
        return f"{value:,} {name.removesuffix('s') if value == 1 else name}"
    if name == "names" and isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value) if name in ("reason", "because") else f"{name.replace('_', ' ')} {value}"
