"""Whether render-ws can write: a database may be read and not written."""

from handlers.errors import RenderBroken, RenderFault, RenderUnavailable
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import LOCKED


async def fails_to_write(client: RenderClient, stack: StackId) -> bool:
    """Return whether a write that changes nothing fails: the stack is given the resolution that it has.

    A stack that is missing, locked or without a resolution is left alone: nothing is shown then.
    """
    try:
        meta = await client.stack(stack)
        if meta is not None and meta.resolution_nm is not None and meta.state not in LOCKED:
            await client.set_resolution(stack, meta.resolution_nm, once=True)
    except (RenderUnavailable, RenderBroken):
        return True
    except RenderFault:  # an answer of render-ws itself
        return False
    return False
