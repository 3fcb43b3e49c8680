"""Writing to a stack that other clients may close: opening it, repeating a refused write, restoring its state."""

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
from handlers.text import z_text

T = TypeVar("T")

REOPENINGS = 20
"""Largest number of reopenings for one write, if other clients close the stack each time."""
REOPEN_DELAY_S = 0.2
"""Mean delay before a stack is reopened. It varies, so that two writers do not reopen at the same time again."""

Resolution = tuple[float, float, float]
"""Nanometres in x, y, z."""
PartialResolution = tuple[float | None, float | None, float | None]
"""Nanometres in x, y, z; None: the value is taken from elsewhere."""


def fill_resolution(wanted: PartialResolution, fallback: Resolution) -> Resolution:
    """Return the wanted resolution, with missing values taken from the fallback.

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
    resolution_nm : x, y, z of a stack that must be created.
    effect : the write, which must be repeatable.
    on_closed : called each time another client has closed the stack.

    Raises
    ------
    StackNotLoading
        If other clients closed the stack each time.
    """
    for _ in range(REOPENINGS):
        try:
            await ensure_loading(client, stack, resolution_nm)
            return await effect()
        except StackNotLoading:
            on_closed()
            await asyncio.sleep(REOPEN_DELAY_S * (0.5 + random.random()))  # noqa: S311  jitter
    raise StackNotLoading(str(stack), f"was closed by other clients {REOPENINGS} times while tiles were written")


async def leave_stack(
    client: RenderClient, stack: StackId, before: StackMeta | None, zs: Collection[float], *, close: bool, whole: bool
) -> bool:
    """End a write: close the stack, or restore its former state. Return whether the stack is COMPLETE now.

    Parameters
    ----------
    before : the stack before the write; None if it did not exist.
    zs : layers that were written; the section data of the closed stack are compared with them.
    close : whether to close the stack after a complete write.
    whole : whether everything was written. If not, the stack becomes COMPLETE only if it was COMPLETE before; else it
        stays LOADING, which shows that it is not finished.

    Raises
    ------
    StackReopened
        If the section data of the closed stack lack tiles.
    RenderFault
        If the stack cannot be closed.
    """
    if not whole:
        return await restore_stack(client, stack, before)
    if close:
        report = await close_stack(client, stack, zs)
        if report.differing:
            differing = ", ".join(z_text(section.z) for section in report.differing)
            raise StackReopened(
                str(stack), f"is COMPLETE, but its section data lack tiles at z {differing}", "close it again"
            )
    return close


async def restore_stack(client: RenderClient, stack: StackId, before: StackMeta | None) -> bool:
    """Close a stack again if it was COMPLETE before the write. Return whether it is COMPLETE now.

    Raises no RenderFault, since the caller is already handling a fault.
    """
    if before is None or before.state is not StackState.COMPLETE:
        return False
    try:
        await close_stack(client, stack)
    except RenderFault:
        return False
    return True
