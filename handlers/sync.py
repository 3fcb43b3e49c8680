"""Calling the handlers from a script or a notebook, where nobody awaits."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from handlers.render.client import RenderClient

P = ParamSpec("P")
T = TypeVar("T")


def run_sync(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine function; in a thread of its own where a loop runs already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="temwatch") as pool:
        return pool.submit(asyncio.run, work()).result()


def synchronous(
    work: Callable[Concatenate[RenderClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[str, P], T]:
    """A handler that takes the base URL of render-ws, as in `http://render:8080/render-ws/v1`, instead of a client, and
    returns when it is done. Raises what the handler raises, and SettingsFault for a URL that is none."""

    def call(render_url: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def with_client() -> T:
            async with RenderClient(render_url) as client:
                return await work(client, *args, **kwargs)

        return run_sync(with_client)

    call.__name__, call.__qualname__, call.__doc__ = f"{work.__name__}_sync", f"{work.__name__}_sync", work.__doc__
    return call
