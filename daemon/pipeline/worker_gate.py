"""Worker gate: whether mipmap steps may begin, and what is known of the workers.

A dask scheduler that is away is waited for: the executor connects again, at growing intervals, and submits again what
was lost. Meanwhile no further step begins.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from handlers.workers.crew import Crew
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()

LOOK_S = 2.0
"""Pause between looks for new problems of workers."""


class WorkerGate:
    """The workers as the pipeline sees them. Made in the event loop.

    Parameters
    ----------
    on_open : called when steps may begin again.
    """

    def __init__(self, pool: WorkerPool, on_open: Callable[[], None]) -> None:
        self._pool = pool
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._away_since: float | None = None
        self._logged: frozenset[str] = frozenset()
        self.known = asyncio.Event()
        """Set when the scheduler has answered, or has not."""
        self._news: str | None = None
        pool.on_scheduler = self._scheduler_changed
        if pool.scheduler_news is not None:
            self._adopt(pool.scheduler_news)
        if not pool.crew.scheduler:
            self.known.set()

    @property
    def is_open(self) -> bool:
        """Whether a mipmap step may begin now."""
        return not self._pool.crew.fault

    @property
    def crew(self) -> Crew:
        """The workers now."""
        return self._pool.crew

    def _scheduler_changed(self, fault: str) -> None:
        """Take news from the executor's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._adopt, fault)

    def _adopt(self, fault: str) -> None:
        if fault == self._news:
            return
        self._news = fault
        self.known.set()
        if fault:
            self._away_since = self._away_since or time.monotonic()
            log.warning("workers.unavailable", fault=fault)
            return
        since, self._away_since = self._away_since, None
        away_s = round(time.monotonic() - since, 1) if since is not None else None
        log.info("workers.available", scheduler=self.crew.scheduler, seconds_away=away_s)
        self._loop.call_soon(self._on_open)

    async def run(self) -> None:
        """Log each new problem of a worker once, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            found = frozenset(self.crew.warnings())
            for problem in sorted(found - self._logged):
                log.warning("workers.problem", problem=problem)
            self._logged = found
