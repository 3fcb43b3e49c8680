"""Heartbeat: request an address every minute while the daemon is ready, so that a service notices a dead daemon."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import structlog

from daemon.notify.authorities import system_authorities
from daemon.pipeline.health import Facts, reasons_not_ready

log = structlog.get_logger()

HEARTBEAT_S = 60.0
ANSWER_S = 10.0


async def send_heartbeats(url: Callable[[], str | None], facts: Callable[[], Awaitable[Facts]]) -> None:
    """Request the address regularly, until cancelled.

    Parameters
    ----------
    url : returns the present address; None if none is configured.
    facts : returns the facts that readiness depends on.
    """
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        while True:
            address = url()
            if address is not None and not reasons_not_ready(await facts()):
                await _request(session, address)
            await asyncio.sleep(HEARTBEAT_S)


async def _request(session: aiohttp.ClientSession, address: str) -> None:
    try:
        timeout, authorities = aiohttp.ClientTimeout(total=ANSWER_S), await system_authorities()
        async with session.get(address, timeout=timeout, ssl=authorities) as response:
            if response.status >= 400:
                log.warning("heartbeat.refused", status=response.status)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # the text shows the address, which is a secret
        log.warning("heartbeat.unanswered", problem=type(error).__name__)
