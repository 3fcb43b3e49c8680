"""Dismiss FAILED montages: an operator decided that nothing is to be done."""

from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from daemon.journal.journal import Journal

log = structlog.get_logger()

MAX_IDS = 1_000
"""Montages of one request."""


class DismissRequest(BaseModel):
    """The body of `POST /api/dismiss`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] = Field(min_length=1, max_length=MAX_IDS)
    """Ids of montages, as `temwatch status` shows them."""
    reason: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500)]
    """Why nothing is to be done, for the next operator."""


async def dismiss(journal: Journal, request: DismissRequest, user: str | None = None) -> list[dict[str, Any]]:
    """Dismiss each FAILED montage of the request; return the outcome of each montage as JSON.

    Parameters
    ----------
    user : who asked, if that is known.
    """
    outcomes = []
    for montage_id in dict.fromkeys(request.ids):
        montage = await journal.dismiss(montage_id, request.reason, user)
        is_dismissed = montage is not None
        montage = montage or await journal.montage(montage_id)
        if is_dismissed and montage is not None:
            log.info(
                "montage.dismissed",
                montage=montage.id,
                metafile=str(montage.metafile),
                reason=request.reason,
                **({"by": user} if user else {}),
            )
        metafile = str(montage.metafile) if montage else None
        note = "" if is_dismissed else _refusal(str(montage.state) if montage else None)
        outcomes.append({"id": montage_id, "metafile": metafile, "dismissed": is_dismissed, "note": note})
    return outcomes


def _refusal(state: str | None) -> str:
    return "no such montage" if state is None else f"is {state}; only a FAILED montage can be dismissed"
