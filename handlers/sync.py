"""Calling the handlers from a script or a notebook, without `await`."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from handlers.render.client import RenderClient

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function and return its result; in a new thread if a loop is running, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="temwatch") as pool:
        return pool.submit(asyncio.run, work()).result()


def synchronous(
    work: Callable[Concatenate[RenderClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[str, P], T]:
    """Turn a handler into a function that takes the base URL of render-ws, as in `http://render:8080/render-ws/v1`,
    instead of a client. It raises the faults of the handler, and SettingsFault for an invalid URL.
    """

    def call(render_url: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def with_client() -> T:
            async with RenderClient(render_url) as client:
                return await work(client, *args, **kwargs)

        return run_sync(with_client)

    call.__name__, call.__qualname__, call.__doc__ = f"{work.__name__}_sync", f"{work.__name__}_sync", work.__doc__
    return call
