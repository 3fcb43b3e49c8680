"""Open pages without a browser: each follows the events and refreshes its page, as the script of the pages does."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp

PAUSE_S = 2.0
"""Minimum time between two refreshes of a page, as in live.js."""
HTML = {"Accept": "text/html"}


@dataclass
class Viewers:
    """Observations of the open pages."""

    pages: Sequence[str]
    """URLs of the pages."""
    streams: int = 0
    """Number of open event streams."""
    events: int = 0
    """Number of events received."""
    refreshes_s: list[float] = field(default_factory=list)
    """Time of each answer."""
    refused: int = 0
    """Number of requests without an answer, or with one of status 400 or above."""


@contextmanager
def looking(url: str, pages: Sequence[str]) -> Iterator[Viewers]:
    """Keep pages of a daemon open until the end."""
    viewers = Viewers([url + page for page in pages])
    loop = asyncio.new_event_loop()
    main = loop.create_task(_look(url, viewers))
    thread = threading.Thread(target=_run, args=(loop, main))
    thread.start()
    try:
        _wait_until_open(viewers, main)
        yield viewers
    finally:
        loop.call_soon_threadsafe(main.cancel)
        thread.join()
        loop.close()


def _wait_until_open(viewers: Viewers, main: "asyncio.Task[None]") -> None:
    deadline = time.monotonic() + 60
    while viewers.streams < len(viewers.pages) and not main.done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{viewers.streams} of {len(viewers.pages)} event streams have opened")
        time.sleep(0.02)


def _run(loop: asyncio.AbstractEventLoop, main: "asyncio.Task[None]") -> None:
    try:
        loop.run_until_complete(main)
    except asyncio.CancelledError:
        loop.run_until_complete(loop.shutdown_asyncgens())


async def _look(url: str, viewers: Viewers) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http, asyncio.TaskGroup() as group:
        for page in viewers.pages:
            group.create_task(_one_page(http, f"{url}/api/events", page, viewers))


async def _one_page(http: aiohttp.ClientSession, events: str, page: str, viewers: Viewers) -> None:
    """Refresh a page after events, at most once in `PAUSE_S`, until its stream ends."""
    changed = asyncio.Event()
    await _ask(http, page, viewers)
    async with http.get(events) as answer:
        answer.raise_for_status()
        viewers.streams += 1
        async with asyncio.TaskGroup() as group:
            refreshing = group.create_task(_refresh(http, page, viewers, changed))
            try:
                async for line in answer.content:
                    if line.startswith(b"event: ") and b"hello" not in line:
                        viewers.events += 1
                        changed.set()
            except aiohttp.ClientError:
                pass  # the daemon has ended
            finally:
                viewers.streams -= 1
                refreshing.cancel()


async def _refresh(http: aiohttp.ClientSession, page: str, viewers: Viewers, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await _ask(http, page, viewers)
        await asyncio.sleep(PAUSE_S)


async def _ask(http: aiohttp.ClientSession, page: str, viewers: Viewers) -> None:
    began = time.monotonic()
    try:
        async with http.get(page, headers=HTML) as answer:
            await answer.read()
            viewers.refused += answer.status >= 400
    except aiohttp.ClientError:
        viewers.refused += 1
        return
    viewers.refreshes_s.append(time.monotonic() - began)
