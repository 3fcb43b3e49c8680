"""A temporary stack for probes, with one tile for each image whose pixels are requested from render-ws."""

import asyncio
import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from handlers.errors import Fault
from handlers.images.pixels import Grey
from handlers.images.reduction import FULL_RANGE
from handlers.images.render_source import RenderSource
from handlers.images.source import fetch_level0
from handlers.render.client import RenderClient
from handlers.render.names import StackId

NAME = "temwatch_probe"
Z = 1.0
_NOT_FOUND = "cannot find imageUrl"
"""Start of render-ws's message for a file that it does not find. Source: render `ImageAndMask.validateFile`."""


@dataclass(frozen=True, slots=True)
class ScratchStack:
    """A stack that exists during a probe."""

    client: RenderClient
    stack: StackId
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def pixels(self, url: str, width: int, height: int, bits: int = 8) -> Grey:
        """Return the pixels that render-ws reads from a URL, (H, W), 8 bits.

        Raises
        ------
        Fault
            As `fetch_level0`. RenderRefused contains the reason why render-ws cannot read the file.
        """
        tile_id = f"probe{next(self._numbers)}"
        spec = {
            "tileId": tile_id,
            "z": Z,
            "width": width,
            "height": height,
            "minIntensity": 0,
            "maxIntensity": 255 if bits == 8 else 65535,
            "layout": {"sectionId": str(Z)},
            "mipmapLevels": {"0": {"imageUrl": url}},
            "transforms": {"type": "list", "specList": []},
        }
        await self.client.put_tiles(self.stack, Z, [spec])
        address = self.client.address
        source = RenderSource.of_image(address.url + self.stack.path, tile_id, spec["maxIntensity"])  # type: ignore[arg-type]
        source = replace(source, authorization=address.authorization, access=self.client.access)
        return await asyncio.to_thread(fetch_level0, source, width, height, FULL_RANGE)

    async def finds(self, url: str) -> bool:
        """Whether render-ws finds a file or directory at a URL."""
        try:
            await self.pixels(url, 1, 1)
        except Fault as fault:
            return not is_not_found(fault)
        return True


def is_not_found(fault: Fault) -> bool:
    """Whether a fault means that render-ws does not find a file."""
    return _NOT_FOUND in fault.problem


def is_not_readable(fault: Fault) -> bool:
    """Whether a fault means that render-ws has no permission to read a file."""
    return "no read access for imageUrl" in fault.problem


@contextlib.asynccontextmanager
async def scratch_stack(client: RenderClient, owner: str, project: str) -> AsyncIterator[ScratchStack]:
    """Create a stack, and delete it at the end. Raises RenderFault."""
    stack = StackId(owner, project, f"{NAME}_{uuid.uuid4().hex[:12]}")
    await client.post_version(stack, (1.0, 1.0, 1.0))
    try:
        yield ScratchStack(client, stack)
    finally:
        await client.delete_stack(stack)
