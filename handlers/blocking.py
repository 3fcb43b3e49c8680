"""Calling the handlers from a script or a notebook, where nobody awaits."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from handlers.render import RenderClient

T = TypeVar("T")


def run_blocking(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine function; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="temwatch") as pool:
        return pool.submit(asyncio.run, work()).result()


def with_client(render_url: str, work: Callable[[RenderClient], Awaitable[T]]) -> T:
    """What the work returns, given a client of the render-ws at this base URL.

    Raises
    ------
    SettingsFault
        If it is no http address.
    Fault
        Whatever the work raises.
    """

    async def call() -> T:
        async with RenderClient(render_url) as client:
            return await work(client)

    return run_blocking(call)
