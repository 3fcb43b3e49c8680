"""Retry FAILED montages at an operator's request. Each resumes in the step in which it failed."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Self

import structlog
from pydantic import BaseModel, ConfigDict, Field, model_validator

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import MontageState

log = structlog.get_logger()

MAX_IDS = 1_000
"""Largest number of montages in one request."""
UNLIMITED = 10**9


class RetryRequest(BaseModel):
    """The body of `POST /api/retry`: some FAILED montages, or all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] = Field((), max_length=MAX_IDS)
    """Ids of montages."""
    all: bool = False
    """Every FAILED montage."""

    @model_validator(mode="after")
    def _names_montages(self) -> Self:
        if self.all == bool(self.ids):
            raise ValueError("set either ids or all = true")
        return self


async def retry_failed(
    journal: Journal, enqueue: Callable[[Montage], Awaitable[object]], request: RetryRequest, user: str | None
) -> list[dict[str, Any]]:
    """Retry each FAILED montage of a request; return the outcome of each montage as JSON.

    Parameters
    ----------
    user : name of the operator, if known.
    """
    ids = list(dict.fromkeys(request.ids))
    if request.all:
        failed = await journal.montages(states=[MontageState.FAILED], limit=UNLIMITED)
        ids = [montage.id for montage in failed]
    because = "requested by an operator" + (f": {user}" if user else "")
    return [await _retry(journal, enqueue, montage_id, because) for montage_id in ids]


async def _retry(
    journal: Journal, enqueue: Callable[[Montage], Awaitable[object]], montage_id: int, because: str
) -> dict[str, Any]:
    before = await journal.montage(montage_id)
    if before is None or before.state is not MontageState.FAILED:
        note = "no such montage" if before is None else f"is {before.state}; only a FAILED montage can be retried"
        return {"id": montage_id, "retried": False, "note": note}
    montage = await journal.retry(montage_id, because)
    if montage is None:
        return {
            "id": montage_id,
            "retried": False,
            "note": "its path was noticed again since, and that content is processed",
        }
    log.info("montage.retried", montage=montage.id, metafile=str(montage.metafile), because=because)
    await enqueue(montage)
    return {"id": montage_id, "retried": True, "note": f"resumes as {montage.state}"}
