"""Silences: suspend messages about alerts for a time."""

import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from daemon.journal.journal import Journal
from daemon.journal.tables import silences as rows
from daemon.journal.tables.silences import SilenceRow
from daemon.montages.announcements import utc_text
from daemon.notify.alerts.rules import AlertKind, Condition
from handlers.text import printable

log = structlog.get_logger()

MAX_S = 30 * 86_400.0
MAX_SUBJECT = 4096
"""Longest subject, characters. A subject may be a path."""

_Name = Annotated[str, StringConstraints(strip_whitespace=True, max_length=100)]


class SilenceRequest(BaseModel):
    """The body of `POST /api/alerts/silence`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: AlertKind | None = None
    """Kind to silence, as in the title of its message. None: all kinds."""
    watch: _Name = ""
    """Watch to silence. Empty: all."""
    subject: Annotated[str, StringConstraints(max_length=MAX_SUBJECT)] = ""
    """Subject to silence: "montages/17", a directory, a microscope. Empty: all."""
    for_s: float = Field(ge=0, le=MAX_S, allow_inf_nan=False)
    """Seconds until the silence ends. 0 ends a silence of the same kind, watch and subject now."""
    by: _Name = ""
    """Name of the person."""
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""


async def silence(journal: Journal, request: SilenceRequest, wall: Callable[[], float] = time.time) -> dict[str, Any]:
    """Begin or end a silence; return the active silences as JSON."""
    now = wall()
    kind = str(request.kind or "")
    row = SilenceRow(
        kind, request.watch, request.subject, now + request.for_s, now, printable(request.by), printable(request.reason)
    )
    active = await journal.write(lambda connection: rows.put(connection, row, now))
    log.info("alert.silenced", kind=kind, watch=row.watch, subject=row.subject, for_s=request.for_s, by=row.made_by)
    return {"silences": [silence_json(each) for each in active]}


def silence_json(row: SilenceRow) -> dict[str, Any]:
    """Return a silence as JSON; kind, watch and subject are null where they match all."""
    return {
        "kind": row.kind or None,
        "watch": row.watch or None,
        "subject": row.subject or None,
        "until": utc_text(row.until),
        "by": row.made_by or None,
        "reason": row.reason or None,
    }


def silence_line(row: dict[str, Any]) -> str:
    """Return the JSON of a silence as a line of text.

    >>> silence_line({"kind": "disk low", "watch": None, "subject": None, "until": "2026-11-26T07:00:00.000Z",
    ...     "by": "anna", "reason": "new disks on Monday"})
    'silent   disk low, until 2026-11-26T07:00:00.000Z, by anna: new disks on Monday'
    """
    what = ", ".join(printable(row[key]) for key in ("kind", "watch", "subject") if row[key]) or "everything"
    by, reason = f", by {row['by']}" if row["by"] else "", f": {row['reason']}" if row["reason"] else ""
    return f"silent   {what}, until {row['until']}{by}{reason}"


def is_silent(condition: Condition, silences: Iterable[SilenceRow]) -> bool:
    """Whether an active silence covers a condition. The subject of a silence may be the condition's microscope.

    >>> broken = Condition(AlertKind.QC_BROKEN, "temca2", "montages/17", "min_focus", scope="TEMCA2")
    >>> row = SilenceRow("", "temca2", "TEMCA2", until=0.0, made_at=0.0, made_by="", reason="")
    >>> is_silent(broken, [row]), is_silent(broken, [row._replace(subject="montages/18")])
    (True, False)
    """
    return any(
        row.kind in ("", str(condition.kind))
        and row.watch in ("", condition.watch)
        and row.subject in ("", condition.subject, condition.scope)
        for row in silences
    )
