"""A job of the executor of a scheduler, from its submission to its outcome."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.workers.cluster.ground import Ground


@dataclass(eq=False)
class Job:
    """A job that is not done."""

    key: str
    payload: bytes
    ground: Ground | None
    outcome: Future[Any]
    directories: frozenset[Path] = frozenset()
    """Where it writes."""
    sent_to: frozenset[str] = frozenset()
    """Addresses of the workers that may do it; empty while it waits here."""
    remote: Any = None
    """dask's future; None while the job waits here."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)
    failures: int = 0
    """Failures of its task at the scheduler for other reasons than the job."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has to be submitted."""
        return self.remote is None and not self.outcome.done()
