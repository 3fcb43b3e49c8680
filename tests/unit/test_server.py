"""The HTTP server of the daemon."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from daemon.web.server import serve


async def test_a_server_that_is_cancelled_while_it_starts_cleans_up() -> None:
    """Otherwise its tasks would outlive the daemon and the journal that they read."""
    seen: list[str] = []
    started = asyncio.Event()

    async def begun(_: web.Application) -> AsyncIterator[None]:
        seen.append("begun")
        yield
        seen.append("ended")

    async def hang(_: web.Application) -> None:
        started.set()
        await asyncio.Event().wait()

    app = web.Application()
    app.cleanup_ctx.append(begun)
    app.on_startup.append(hang)

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(serve(app, "127.0.0.1", 0))

    task = asyncio.create_task(run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["begun", "ended"]
