"""A thread for a piece of blocking work that may never end: access to a mount that does not answer."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_spare_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Return `work(*arguments)`, called in its own daemon thread.

    A thread of `asyncio.to_thread` would delay the end of the event loop and of the process for as long as its mount
    does not answer, and it would occupy a thread of the pool.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def conclude(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not done.done():
            set_outcome(outcome)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], object] = done.set_result, work(*arguments)
        except Exception as error:  # noqa: BLE001  the awaiting task raises it
            outcome = done.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(conclude, *outcome)

    threading.Thread(target=run, name=f"spare {getattr(work, '__name__', 'work')}", daemon=True).start()
    return await done
