"""Writing to a stack that other clients may close: open it, repeat a refused write, restore its state."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from handlers.errors import RenderFault, StackNotLoading, StackReopened
from handlers.render.client import RenderClient
from handlers.render.closing import close_stack
from handlers.render.names import StackId
from handlers.render.opening import ensure_loading
from handlers.render.responses import StackMeta, StackState

T = TypeVar("T")

REOPENINGS = 20
"""Reopenings, for one write, of a stack that other clients close."""
REOPEN_DELAY_S = 0.2
"""Mean delay before a stack is reopened; it varies, so that two writers do not stay in step."""

Resolution = tuple[float, float, float]
"""Nanometres in x, y, z."""
PartialResolution = tuple[float | None, float | None, float | None]


def fill_resolution(wanted: PartialResolution, fallback: Resolution) -> Resolution:
    """Return the wanted resolution, with the missing values taken from the fallback.

    >>> fill_resolution((None, None, 40.0), (4.0, 4.0, 45.0))
    (4.0, 4.0, 40.0)
    """
    x, y, z = (default if value is None else value for value, default in zip(wanted, fallback, strict=True))
    return x, y, z


async def write_while_loading(
    client: RenderClient,
    stack: StackId,
    resolution_nm: tuple[float, float, float],
    effect: Callable[[], Awaitable[T]],
    *,
    on_closed: Callable[[], None] = lambda: None,
) -> T:
    """Open the stack, run a write, and return its result; reopen and repeat if another client closed the stack.

    Parameters
    ----------
    resolution_nm : x, y, z of a stack that has to be created.
    effect : the write; must be repeatable.
    on_closed : called whenever the stack was closed by another client.

    Raises
    ------
    StackNotLoading
        If other clients closed it every time.
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
    """End a write: close the stack, or restore its former state. Return whether the stack is COMPLETE now.

    Parameters
    ----------
    before : the stack before the write; None if it did not exist.
    zs : layers that were written; the statistics of the closed stack are compared with them.
    close : whether the stack is closed if the write is whole.
    whole : whether everything was written. If not, the stack becomes COMPLETE only if it was COMPLETE before; else it
        stays LOADING, which shows that it is not finished.

    Raises
    ------
    StackReopened
        If the section data of the closed stack miss tiles.
    RenderFault
        If the stack cannot be closed.
    """
    if not whole:
        return await restore_stack(client, stack, before)
    if close:
        report = await close_stack(client, stack, zs)
        if report.differing:
            differing = ", ".join(f"{section.z:g}" for section in report.differing)
            raise StackReopened(
                str(stack), f"is COMPLETE, but its section data lack tiles at z {differing}", "close it again"
            )
    return close


async def restore_stack(client: RenderClient, stack: StackId, before: StackMeta | None) -> bool:
    """Close a stack again if it was COMPLETE before the write. Return whether it is COMPLETE now.

    Raises no RenderFault, since the caller already handles a fault.
    """
    if before is None or before.state is not StackState.COMPLETE:
        return False
    try:
        await close_stack(client, stack)
    except RenderFault:
        return False
    return True
