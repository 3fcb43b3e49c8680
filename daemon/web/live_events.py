"""Live events for open pages: one task reads the journal for all streams."""

import asyncio
import contextlib
import itertools
import json
import resource
from collections import deque
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp_sse import EventSourceResponse, sse_response

from daemon.journal.journal import Journal
from daemon.journal.tables import overview, tallies
from daemon.journal.tables.overview import JournalEvent
from daemon.journal.tables.rows import Connection
from daemon.montages.presentation import iso_time
from daemon.web.server import connection_limit

POLL_S = 1.0
"""Interval at which the journal is queried for new events while a stream is open."""
MAX_STREAMS = 40
"""Largest number of open streams, so that connections remain for requests. Lower if few files may be open."""
MAX_EVENTS = 500
"""A page that has missed more events reloads everything."""
IDLE_S = 5.0
"""Interval at which a stream without events checks whether its browser is still connected."""
PING_S = 15.0
SEND_S = 20.0
"""Time-out of a browser that does not receive. It connects again."""
RETRY_MS = 3000
"""Time after which a browser connects again."""
Message = tuple[str, str, int | None]
"""Name, JSON, and the number of the journal's event."""


class LiveEvents:
    """Sends each new event of the journal to every open stream."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.open_streams = 0
        self._news = asyncio.Condition()
        self._one_poll = asyncio.Lock()
        self._recent: deque[Message] = deque(maxlen=MAX_EVENTS)
        self._sent = 0
        """Number of messages ever appended to the recent ones."""
        self._last: int | None = None
        """Number of the last event that was read; None while no stream is open."""
        self._made = 0
        self._is_closed = False

    @property
    def version(self) -> tuple[int, int] | None:
        """Changes with each event and each finished tile, before any stream gets them; None without streams."""
        return None if self._last is None else (self._last, self._made)

    async def close(self) -> None:
        """End every stream and accept no more, so that a stopping daemon does not wait for browsers."""
        self._is_closed = True
        async with self._news:
            self._news.notify_all()

    @contextlib.asynccontextmanager
    async def polling(self, app: web.Application) -> AsyncIterator[None]:
        """Poll the journal while the application runs; for `cleanup_ctx`."""
        task = asyncio.create_task(self._poll_forever(), name="live events")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # --- the journal

    async def _poll_forever(self) -> None:
        while True:
            if self.open_streams:
                await self._poll()
            else:
                self._last = None
            await asyncio.sleep(POLL_S)

    async def _poll(self) -> None:
        """Append new events to the recent messages. The first poll determines the number of the last event."""
        async with self._one_poll:
            await self._append_news()

    async def _append_news(self) -> None:
        def news(connection: Connection) -> tuple[list[JournalEvent], int, int]:
            last = overview.last_event(connection)
            begun = last if self._last is None else self._last
            made = sum(tallies.tiles_since(connection, 1).values())
            return overview.events_after(connection, begun, MAX_EVENTS + 1), last, made

        events, last, made = await self._journal.read(news)
        is_first, self._last = self._last is None, last
        messages = [_message(each) for each in events]
        if len(messages) > MAX_EVENTS:
            messages = [("reload", "{}", last)]
        if made != self._made and not is_first and not messages:
            messages.append(("progress", json.dumps({"tiles": made}), None))
        self._made = made
        if messages:
            self._recent.extend(messages)
            self._sent += len(messages)
            async with self._news:
                self._news.notify_all()

    # --- the streams

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Send events until the browser disconnects or the daemon stops."""
        if self._is_closed:
            raise web.HTTPServiceUnavailable(reason="the daemon is stopping")
        most = min(MAX_STREAMS, connection_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) // 2)
        if self.open_streams >= most:
            raise web.HTTPServiceUnavailable(reason=f"{self.open_streams} pages are open; no more can get live events")
        after = _number(request.headers.get("Last-Event-ID") or request.query.get("after"))
        self.open_streams += 1
        try:
            if self._last is None:
                await self._poll()
            stream = sse_response(request, ping_interval=PING_S, send_timeout=SEND_S)
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with stream as response:
                    await self._send(request, response, after)
        finally:
            self.open_streams -= 1
        return response

    async def _send(self, request: web.Request, response: EventSourceResponse, after: int | None) -> None:
        await response.send("{}", event="hello", retry=RETRY_MS)
        sent, newest = self._sent, after or 0
        for message in await self._missed(after):
            newest = await _send(response, message, newest)
        while not self._is_closed and request.transport is not None and not request.transport.is_closing():
            await self._wait_for_news(sent)
            sent, messages = self._sent, self._since(sent)
            for message in messages:
                newest = await _send(response, message, newest)

    async def _wait_for_news(self, sent: int) -> None:
        """Wait until there are more than `sent` messages, at most `IDLE_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S), self._news:
                await self._news.wait_for(lambda: self._is_closed or self._sent > sent)

    def _since(self, sent: int) -> list[Message]:
        """Return the messages after the first `sent` ones."""
        count = self._sent - sent
        if count > len(self._recent):
            return [("reload", "{}", self._last)]
        return list(itertools.islice(self._recent, len(self._recent) - count, None))

    async def _missed(self, after: int | None) -> list[Message]:
        """Return the events after the last one that the browser received, up to the last one that was polled."""
        if after is None:
            return []
        found = await self._journal.read(lambda connection: overview.events_after(connection, after, MAX_EVENTS + 1))
        last = self._last or 0
        if len(found) > MAX_EVENTS:
            return [("reload", "{}", last)]
        return [_message(each) for each in found if each.number <= last]


async def _send(response: EventSourceResponse, message: Message, newest: int) -> int:
    """Send a message unless its event was sent before; return the number of the newest sent event."""
    name, body, number = message
    if number is not None and number <= newest:
        return newest
    await response.send(body, event=name, id=None if number is None else str(number))
    return number or newest


def _message(event: JournalEvent) -> Message:
    body = {
        "montage": event.montage_id,
        "event": event.event,
        "state": event.state,
        "watch": event.watch,
        "z": event.z,
        "at": iso_time(event.at),
    }
    return "montage", json.dumps(body), event.number


def _number(text: str | None) -> int | None:
    """Return the number of an event; None if the text is not a number."""
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return int(text)
