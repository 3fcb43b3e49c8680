"""A job of the executor of a scheduler, from its submission to its outcome."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.workers.cluster.shared_directories import Ground


@dataclass(eq=False)
class Job:
    """A job that is not done."""

    key: str
    payload: bytes
    ground: Ground | None
    outcome: Future[Any]
    directories: frozenset[Path] = frozenset()
    """Directories in which the job writes."""
    sent_to: frozenset[str] = frozenset()
    """Addresses of the workers that may run the job; empty while it waits here."""
    remote: Any = None
    """dask's future; None while the job waits here."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)
    failures: int = 0
    """Failures of the task because of the scheduler, not of the job."""

    @property
    def is_waiting(self) -> bool:
        """Whether the job must be submitted."""
        return self.remote is None and not self.outcome.done()
