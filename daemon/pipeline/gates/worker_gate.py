"""Worker gate: whether mipmap steps may begin, and the state of the workers.

While a dask scheduler is unreachable, no further step begins. The executor reconnects at growing intervals and
resubmits lost tiles.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog

from handlers.workers.crew import Crew
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()

CHECK_S = 2.0
"""Interval of checks for new problems of workers."""


class WorkerGate:
    """The workers from the pipeline's view. It must be created in the event loop.

    Parameters
    ----------
    on_open : called when steps may begin again.
    """

    def __init__(self, pool: WorkerPool, on_open: Callable[[], None]) -> None:
        self._pool = pool
        self._on_open = on_open
        self._loop = asyncio.get_running_loop()
        self._unavailable_since: float | None = None
        self._logged: frozenset[str] = frozenset()
        self.known = asyncio.Event()
        """Set when the scheduler has responded, or is known to be unreachable."""
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
        """Handle a change of the scheduler's state, reported by the executor's thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._adopt, fault)

    def _adopt(self, fault: str) -> None:
        if fault == self._news:
            return
        self._news = fault
        self.known.set()
        if fault:
            self._unavailable_since = self._unavailable_since or time.monotonic()
            log.warning("workers.unavailable", fault=fault)
            return
        since, self._unavailable_since = self._unavailable_since, None
        outage_s = round(time.monotonic() - since, 1) if since is not None else None
        log.info("workers.available", scheduler=self.crew.scheduler, outage_s=outage_s)
        self._loop.call_soon(self._on_open)

    async def run(self) -> None:
        """Log each new problem of a worker once, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_S)
            found = frozenset(self.crew.warnings())
            for problem in sorted(found - self._logged):
                log.warning("workers.problem", problem=problem)
            self._logged = found
