"""Writing to a stack that others may close: it is opened first, and what was refused is repeated."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from handlers.errors import StackNotLoading
from handlers.render import RenderClient, StackId

T = TypeVar("T")

REOPENINGS = 20
"""How often a stack that others close is reopened for one write."""
REOPEN_DELAY_S = 0.2
"""About; two writers that close each other's stack must not do so in step."""


async def write_while_loading(
    client: RenderClient,
    stack: StackId,
    resolution_nm: tuple[float, float, float],
    effect: Callable[[], Awaitable[T]],
    *,
    on_closed: Callable[[], None] = lambda: None,
) -> T:
    """The effect's result, run while the stack is LOADING; reopened and repeated when somebody closes it meanwhile.

    Parameters
    ----------
    resolution_nm : x, y, z of the stack, should it have to be created.
    effect : repeatable.
    on_closed : called when the stack turns out to have been closed.

    Raises
    ------
    StackNotLoading
        If others closed it again and again.
    """
    for _ in range(REOPENINGS):
        try:
            await client.ensure_loading(stack, resolution_nm)
            return await effect()
        except StackNotLoading:
            on_closed()
            await asyncio.sleep(REOPEN_DELAY_S * (0.5 + random.random()))  # noqa: S311  jitter
    raise StackNotLoading(str(stack), f"was closed by others {REOPENINGS} times while tiles were written")
