"""Whether a daemon's answers have the fields that `temwatch status` shows: another version may have others. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

_TYPES: Mapping[str, type] = {
    "ready": bool,
    "reasons": list,
    "warnings": list,
    "counts": dict,
    "montages": list,
    "watches": list,
    "disks": list,
}
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "montages": (
        *("id", "watch", "metafile", "state", "failed_in", "z", "tiles", "fault", "waiting_for", "attempt"),
        *("noticed_at", "changed_at"),
    ),
    "watches": ("name", "status"),
    "disks": ("directory", "free_bytes", "needed_bytes", "problem"),
}
"""Fields of each entry of a list."""
_OF_WORKERS = ("hosts", "scheduler", "tiles_submitted")


def missing_field(report: Mapping[str, Any]) -> str:
    """Return the first field that a report lacks, or has in another type; empty if it has all.

    >>> missing_field({"ready": True, "reasons": "none"})
    'reasons'
    """
    return next(_missing(report), "")


def _missing(report: Mapping[str, Any]) -> Iterator[str]:
    wrong = [name for name, kind in _TYPES.items() if not isinstance(report.get(name), kind)]
    if wrong:
        yield from wrong
        return
    yield from (name for name in ("reasons", "warnings") if not all(isinstance(line, str) for line in report[name]))
    yield from ("counts" for states in report["counts"].values() if not isinstance(states, dict))
    for name, fields in _FIELDS.items():
        for entry in report[name]:
            yield from (f"{name}.{field}" for field in fields if not isinstance(entry, dict) or field not in entry)
    if (workers := report.get("workers")) is not None:
        yield from (f"workers.{field}" for field in _OF_WORKERS if field not in workers)
