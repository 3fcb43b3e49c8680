"""Opening a stack: create it if it does not exist, reopen it if it is COMPLETE.

docs/decisions/render-client.md gives the reasons.
"""

from handlers.errors import AnswerLate, AnswerLost, RenderBroken, RenderUnavailable, StackNotCreated, StackNotLoading
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import LOCKED, StackMeta, StackState, locked_fault

_REOPENINGS = 3
"""Reopenings of a stack that another client closes at the same time, before StackNotLoading is raised."""


async def create_stack(client: RenderClient, stack: StackId, resolution_nm: tuple[float, float, float]) -> StackMeta:
    """Create the stack with this resolution if it does not exist; set the resolution if the stack has none.

    To create an existing stack reopens it and drops its statistics, resolution and path builder. So a stack is created
    only if render-ws reports that it does not exist, the request is never repeated, and the stack is read afterwards.
    If two clients create it at the same time, the second makes a new version of an empty stack; a resolution that is
    lost this way is set again.

    Raises
    ------
    StackLocked
        If the stack is READ_ONLY or OFFLINE and has no resolution.
    StackNotCreated, RenderUnavailable
        If render-ws fails to create the stack, or the stack does not exist afterwards. Calling again is safe.
    """
    meta = await client.stack(stack) or await _create(client, stack, resolution_nm)
    if meta.resolution_nm is None and meta.state not in LOCKED:
        await client.set_resolution(stack, resolution_nm)
        meta = await client.existing_stack(stack)
    return meta


async def _create(client: RenderClient, stack: StackId, resolution_nm: tuple[float, float, float]) -> StackMeta:
    unknown: RenderUnavailable | None = None
    try:
        await client.post_version(stack, resolution_nm)
    except (AnswerLate, AnswerLost) as fault:
        unknown = fault
    except RenderBroken as fault:
        raise StackNotCreated(fault.subject, fault.problem, fault.hint) from fault
    meta = await client.stack(stack)
    if meta is None:
        raise unknown or RenderUnavailable(
            str(stack),
            "does not exist, although it was just created",
            "another client deleted it, or render-ws reads from a replica",
        )
    return meta


async def ensure_loading(client: RenderClient, stack: StackId, resolution_nm: tuple[float, float, float]) -> StackMeta:
    """Create the stack if it does not exist, reopen it if it is COMPLETE, and return its metadata, which are LOADING.

    Raises
    ------
    StackLocked
        If the stack is READ_ONLY or OFFLINE.
    StackNotLoading
        If another client closed the stack each time it was reopened.
    """
    meta = await create_stack(client, stack, resolution_nm)
    for _ in range(_REOPENINGS):
        if meta.state in LOCKED:
            raise locked_fault(str(stack), meta.state)
        if meta.state is StackState.LOADING:
            return meta
        await client.set_state(stack, StackState.LOADING)
        meta = await client.existing_stack(stack)
    if meta.state is StackState.LOADING:
        return meta
    raise StackNotLoading(str(stack), f"was set LOADING, but is {meta.state}", "another client closes it")
