"""Dismiss montages, because an operator decided that nothing is to be done.

A FAILED montage can be dismissed, or a COMPLETE one whose metafile is gone. Then another metafile may replace its
tiles.
"""

import asyncio
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.settling.claims import Claim, claim_of
from daemon.system.threads import access_timeout
from handlers.errors import StorageFault

log = structlog.get_logger()

MAX_IDS = 1_000
"""Largest number of montages in one request."""


class DismissRequest(BaseModel):
    """The body of `POST /api/dismiss`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] = Field(min_length=1, max_length=MAX_IDS)
    """Ids of montages, as `temwatch status` shows them."""
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    """Reason of the dismissal."""


async def dismiss(journal: Journal, request: DismissRequest, user: str | None = None) -> list[dict[str, Any]]:
    """Dismiss each montage of the request, if it can be dismissed; return the outcome of each as JSON.

    Parameters
    ----------
    user : name of the operator, if known.
    """
    outcomes = []
    for montage_id in dict.fromkeys(request.ids):
        montage = await journal.montage(montage_id)
        note = "no such montage; `temwatch status` shows ids" if montage is None else await _refusal(montage)
        if montage is not None and not note:
            if await journal.dismiss(montage_id, request.reason, user, montage.state) is None:
                note = "it changed meanwhile; try again"
            else:
                log.info(
                    "montage.dismissed",
                    montage=montage.id,
                    metafile=str(montage.metafile),
                    reason=request.reason,
                    **({"by": user} if user else {}),
                )
        metafile = str(montage.metafile) if montage else None
        outcomes.append({"id": montage_id, "metafile": metafile, "dismissed": not note, "note": note})
    return outcomes


async def _refusal(montage: Montage) -> str:
    """Return why a montage cannot be dismissed; empty if it can be."""
    if montage.state is MontageState.FAILED:
        return ""
    if montage.state is not MontageState.COMPLETE:
        return f"is {montage.state}; only a FAILED montage, or a COMPLETE one without its metafile, can be dismissed"
    try:
        async with access_timeout(montage.metafile):
            claim = await asyncio.to_thread(claim_of, montage)
    except StorageFault as fault:
        return f"is complete, and its metafile cannot be accessed: {fault}"
    return "is complete, and its metafile exists; remove that first" if claim is Claim.PRESENT else ""
