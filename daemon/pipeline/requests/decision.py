"""Record a person's decision about the quality of a montage."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, StringConstraints

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.verdicts import Decision, verdict_json

log = structlog.get_logger()


class DecisionRequest(BaseModel):
    """The body of `POST /api/montages/{id}/verdict`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Decision
    """pass, fail or re-image; computed withdraws the earlier decision."""
    by: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    """Name of the person."""
    note: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""
    """Reason of the decision."""


async def decide(
    journal: Journal,
    montage_id: int,
    request: DecisionRequest,
    on_decided: Callable[[Montage], Awaitable[object]] | None = None,
) -> dict[str, Any] | None:
    """Record a decision; return the effective verdict as JSON, None if there is no such montage.

    Parameters
    ----------
    on_decided : awaited with the montage, which may have waited for the decision.
    """
    montage = await journal.decide(montage_id, request.verdict, request.by, request.note)
    verdict = await journal.verdict(montage_id)
    if montage is None or verdict is None:
        return None
    log.info(
        "montage.decided",
        montage=montage.id,
        metafile=str(montage.metafile),
        verdict=montage.verdict,
        decision=str(request.verdict),
        by=request.by,
        note=request.note,
    )
    if on_decided is not None:
        await on_decided(montage)
    return {"id": montage.id, "metafile": str(montage.metafile), **verdict_json(verdict)}
