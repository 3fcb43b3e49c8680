"""An operator's actions on deliveries: list, retry, drop. The results are JSON for the web and the command."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, NamedTuple

import structlog
from pydantic import BaseModel, ConfigDict, Field

from daemon.journal.journal import Journal
from daemon.journal.tables import alerts, deliveries, silences
from daemon.journal.transaction import Connection
from daemon.montages.announcements import utc_text
from daemon.notify.alerts.silences import silence_json

log = structlog.get_logger()

MAX_IDS = 1_000
MAX_LISTED = 1_000


class DeliveryRequest(BaseModel):
    """The body of `POST /api/notify`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    action: Literal["retry", "drop"]
    ids: tuple[Annotated[int, Field(ge=1, le=2**63 - 1)], ...] = Field(min_length=1, max_length=MAX_IDS)
    """Ids of deliveries, as `temwatch notify list` shows them."""


async def act(journal: Journal, request: DeliveryRequest) -> dict[str, Any]:
    """Retry or drop deliveries; return their ids as `done`, and ids that do not exist as `unknown`."""
    work = {
        "retry": lambda connection: deliveries.retry(connection, request.ids, time.time()),
        "drop": lambda connection: deliveries.drop(connection, request.ids),
    }[request.action]
    done = await journal.write(work)
    log.info("hook.deliveries", action=request.action, ids=done)
    return {"done": done, "unknown": [each for each in request.ids if each not in done]}


class Listed(NamedTuple):
    """Deliveries, messages and silences, as JSON."""

    deliveries: list[dict[str, Any]]
    """Events that a hook has not accepted."""
    messages: list[dict[str, Any]]
    """Messages that an address has not accepted."""
    silences: list[dict[str, Any]]


async def listed(journal: Journal) -> Listed:
    """Return waiting and given-up deliveries, undelivered messages, and active silences."""

    def look_up(connection: Connection) -> Listed:
        return Listed(
            [_json(asdict(row)) for row in deliveries.listing(connection, MAX_LISTED)],
            [_message_json(row) for row in alerts.load(connection).messages],
            [silence_json(row) for row in silences.active(connection, time.time())],
        )

    return await journal.read(look_up)


def _message_json(row: alerts.MessageRow) -> dict[str, Any]:
    taken = len(json.loads(row.taken))
    return {"message": row.id, "alert": row.title, "made_at": utc_text(row.made_at), "taken": taken}


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a delivery with its times in ISO 8601."""
    return {**row, "queued_at": utc_text(row["queued_at"]), "next_try_at": utc_text(row["next_try_at"])}
