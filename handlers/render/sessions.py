"""Writing to a stack that others may close: it is opened first, what was refused is repeated, its state restored."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from handlers.errors import RenderFault, StackNotLoading, StackReopened
from handlers.render.client import RenderClient, StackId, StackMeta, StackState
from handlers.render.closing import close_stack
from handlers.render.opening import ensure_loading

T = TypeVar("T")

REOPENINGS = 20
"""How often a stack that others close is reopened for one write."""
REOPEN_DELAY_S = 0.2
"""About; two writers that close each other's stack must not do so in step."""

Resolution = tuple[float, float, float]
"""Nanometres in x, y, z."""
PartialResolution = tuple[float | None, float | None, float | None]


def completed(wanted: PartialResolution, otherwise: Resolution) -> Resolution:
    """The resolution that is wanted, and the other one where it says nothing.

    >>> completed((None, None, 40.0), (4.0, 4.0, 45.0))
    (4.0, 4.0, 40.0)
    """
    x, y, z = (other if own is None else own for own, other in zip(wanted, otherwise, strict=True))
    return x, y, z


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
            await ensure_loading(client, stack, resolution_nm)
            return await effect()
        except StackNotLoading:
            on_closed()
            await asyncio.sleep(REOPEN_DELAY_S * (0.5 + random.random()))  # noqa: S311  jitter
    raise StackNotLoading(str(stack), f"was closed by others {REOPENINGS} times while tiles were written")


async def leave_stack(
    client: RenderClient, stack: StackId, before: StackMeta | None, zs: Collection[float], *, close: bool, whole: bool
) -> bool:
    """Whether a stack that was written to was left COMPLETE.

    It is closed where that is wanted and all that was to be written is there. Where something is missing it is left as
    it was found: COMPLETE again if it was, else LOADING, which shows that it is not finished.

    Parameters
    ----------
    before : the stack before it was written to; None if it did not exist.
    zs : layers that were written; the statistics of the closed stack are compared with them.
    """
    if not whole:
        return await restore_stack(client, stack, before)
    if close:
        report = await close_stack(client, stack, zs)
        if report.differing:
            differing = ", ".join(f"{section.z:g}" for section in report.differing)
            raise StackReopened(
                str(stack), f"is COMPLETE, but its section data miss tiles at z {differing}", "close it again"
            )
    return close


async def restore_stack(client: RenderClient, stack: StackId, before: StackMeta | None) -> bool:
    """Makes a stack COMPLETE again that was so before; whether it was. For use where a fault is under way already:
    what goes wrong here is not raised.
    """
    if before is None or before.state is not StackState.COMPLETE:
        return False
    try:
        await close_stack(client, stack)
    except RenderFault:
        return False
    return True
