"""What an operator does about deliveries: list, retry, drop. As JSON for the web and the command."""

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from daemon.journal import deliveries
from daemon.journal.journal import Journal
from daemon.montages.announcements import utc_text

log = structlog.get_logger()

MOST_IDS = 1_000
MOST_LISTED = 1_000


class DeliveryRequest(BaseModel):
    """The body of `POST /api/notify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["retry", "drop"]
    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] = Field(min_length=1, max_length=MOST_IDS)
    """Ids of deliveries, as `temwatch notify list` shows them."""


async def act(journal: Journal, request: DeliveryRequest) -> dict[str, Any]:
    """Retry or drop deliveries; return the ids that exist, and those that do not."""
    work = {
        "retry": lambda connection: deliveries.retry(connection, request.ids, time.time()),
        "drop": lambda connection: deliveries.drop(connection, request.ids),
    }[request.action]
    done = await journal.write(work)
    log.info("hook.deliveries", action=request.action, ids=done)
    return {"done": done, "unknown": [each for each in request.ids if each not in done]}


async def listed(journal: Journal) -> list[dict[str, Any]]:
    """Return the deliveries that wait or were given up."""
    rows = await journal.read(lambda connection: deliveries.listing(connection, MOST_LISTED))
    return [_json(asdict(row)) for row in rows]


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a delivery with its times in ISO 8601."""
    return {**row, "queued_at": utc_text(row["queued_at"]), "next_try_at": utc_text(row["next_try_at"])}
