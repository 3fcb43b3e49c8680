"""Receive the differences that `temwatch verify` found, for the alerts."""

import time
from typing import Annotated, Any, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from daemon.journal.journal import Journal
from daemon.journal.tables import differences as rows

log = structlog.get_logger()

MAX_MONTAGES = 10_000
_Id = Annotated[int, Field(ge=1, le=2**63 - 1)]


class DifferingMontage(BaseModel):
    """A montage that differs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: _Id
    differences: int = Field(ge=1, le=2**63 - 1)
    start: Literal["ingest", "mipmaps", "apply"] | None
    """First step of the replay that repairs it; None if no replay can."""


class DifferenceReport(BaseModel):
    """The body of `POST /api/alerts/differences`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    differing: tuple[DifferingMontage, ...] = Field(max_length=MAX_MONTAGES)
    clean: tuple[_Id, ...] = Field((), max_length=MAX_MONTAGES)
    """Ids of montages that differed before and no longer differ."""


async def report_differences(journal: Journal, report: DifferenceReport) -> dict[str, Any]:
    """Record the differences that a verification found; the next observation reports them."""
    found = [rows.Found(each.id, each.differences, each.start) for each in report.differing]
    now = time.time()
    await journal.write(lambda connection: rows.record(connection, found, report.clean, now))
    log.info("verify.reported", differing=len(report.differing), clean=len(report.clean))
    return {"differing": len(report.differing), "clean": len(report.clean)}
