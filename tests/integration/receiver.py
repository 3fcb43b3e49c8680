"""A receiver of events on a loopback port. Tests set its answers."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

Answer = Callable[[dict[str, Any]], int]


@dataclass
class Receiver:
    """The requests that arrived, and the answer to the next ones."""

    url: str = ""
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers and body of each request, including refused requests."""
    accepted: list[dict[str, Any]] = field(default_factory=list)
    """Events that were accepted."""
    heartbeats: int = 0
    """Number of GET requests."""
    answer: Answer = lambda _: 204
    """Status of the answer to an event; 0 closes the connection after reading the request, -1 never answers."""
    headers: dict[str, str] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if request.method == "GET":
            self.heartbeats += 1
            return web.Response()
        body = await request.read()
        self.requests.append((dict(request.headers), body))
        self.arrived.set()
        event = json.loads(body)
        status = self.answer(event)
        if status < 0:
            await asyncio.Event().wait()
        if status == 0:
            assert request.transport is not None
            request.transport.abort()
        if 200 <= status < 300:
            self.accepted.append(event)
        return web.Response(status=status or 500, headers=self.headers, text="" if status < 300 else "not now")

    def kinds(self, subject: str) -> list[str]:
        """Types of the accepted events of a subject."""
        return [event["type"] for event in self.accepted if event["subject"] == subject]

    async def until(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        """Wait for a condition on the requests that arrived."""
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110  the condition may be about anything
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[Receiver]:
    """Run a receiver on a port; 0: any free port."""
    receiver = Receiver()
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
        yield receiver
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def apprise_ending() -> Iterator[None]:
    """End the threads that apprise keeps for its next message. Skip the test if apprise is not installed."""
    core = pytest.importorskip("apprise.apprise", reason='needs the extra "alerts"')
    try:
        yield
    finally:
        for name in ("_shared_executor", "_coordinator_executor"):
            if executor := getattr(core, name, None):
                executor.shutdown()
                setattr(core, name, None)
