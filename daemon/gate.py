"""Whether render-ws answers. Shut by the first answer that says it is away, opened again by a probe."""

import asyncio
import random
import time
from collections.abc import Callable

import structlog

from daemon.retry import retry_delay_s
from handlers.errors import RenderFault, RenderUnavailable
from handlers.render import RenderClient

log = structlog.get_logger()

PROBE_EVERY_S = 15.0
LONGEST_PROBE_DELAY_S = 30.0


class RenderGate:
    """While it is shut no step that needs render-ws is started, so a service that is down is probed, not hammered.

    Parameters
    ----------
    client : asked for a cheap answer, first with growing delay while shut, then every 15 s while open.
    on_open : called when render-ws answers again.
    """

    def __init__(self, client: RenderClient, on_open: Callable[[], None]) -> None:
        self._client = client
        self._on_open = on_open
        self._shut = asyncio.Event()
        self.fault: RenderFault | None = None
        self.since = time.time()

    @property
    def is_open(self) -> bool:
        """Whether steps that need render-ws may start."""
        return self.fault is None

    def shut(self, fault: RenderFault) -> None:
        """Records that render-ws is away."""
        if self.fault is None:
            log.warning("render.unavailable", fault=str(fault))
            self.since = time.time()
        self.fault = fault
        self._shut.set()

    async def run(self) -> None:
        """Probes for as long as the daemon runs."""
        await self._probe()
        while True:
            if self.is_open:
                try:
                    async with asyncio.timeout(PROBE_EVERY_S):
                        await self._shut.wait()
                except TimeoutError:
                    await self._probe()
            else:
                await self._wait_until_open()

    async def _wait_until_open(self) -> None:
        attempt = 1
        while not self.is_open:
            delay_s = retry_delay_s(RenderUnavailable("", ""), attempt, random.random())  # noqa: S311  jitter
            await asyncio.sleep(min(delay_s or LONGEST_PROBE_DELAY_S, LONGEST_PROBE_DELAY_S))
            await self._probe()
            attempt += 1

    async def _probe(self) -> None:
        try:
            await self._client.ping()
        except RenderFault as fault:
            self.shut(fault)
            return
        if not self.is_open:
            log.info("render.available", seconds_away=round(time.time() - self.since, 1))
            self.since = time.time()
        self.fault = None
        self._shut.clear()
        self._on_open()
