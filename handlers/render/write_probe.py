"""Testing whether render-ws can write: its database may allow reading and no writing."""

from handlers.errors import RenderBroken, RenderFault, RenderUnavailable
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import LOCKED


async def fails_to_write(client: RenderClient, stack: StackId) -> bool:
    """Whether a write that changes nothing fails: the stack is given the resolution that it already has.

    Returns False for a stack that is missing, locked or without a resolution, since nothing is written to it.
    """
    try:
        meta = await client.stack(stack)
        if meta is not None and meta.resolution_nm is not None and meta.state not in LOCKED:
            await client.set_resolution(stack, meta.resolution_nm, once=True)
    except (RenderUnavailable, RenderBroken):
        return True
    except RenderFault:  # render-ws refuses the request, so it works
        return False
    return False
