"""`temwatch picture`: draw a section of a stack as a PNG file."""

import asyncio
from pathlib import Path

from daemon.config.settings import Settings
from handlers.errors import storage_fault
from handlers.picture import compose_section, save_picture
from handlers.place import Place
from handlers.render.client import RenderClient
from handlers.render.names import StackId


class _Finder:
    """Finds the images that a stack contains: levels by `mipmaps.url` of a watch, all others by the path map."""

    def __init__(self, settings: Settings) -> None:
        self._paths = settings.render.paths
        self._plans = [watch.mipmap_plan() for watch in settings.watch]

    def to_path(self, url: str) -> Place:
        """Return the place of an image on this machine. Raises Fault if there is none."""
        known = (plan.place_of_url(url) for plan in self._plans)
        return next((place for place in known if place is not None), None) or self._paths.to_path(url)


async def draw(settings: Settings, stack: str, z: float, output: Path, max_px: int) -> str:
    """Draw a section and write the file; return a line that describes the picture.

    Parameters
    ----------
    stack : a stack of the configured owner and project, or owner/project/stack.
    max_px : longest side of the picture, pixels.

    Raises
    ------
    Fault
        If there is no such section, an image of the stack cannot be used, or the file cannot be written.
    """
    render = settings.render
    name = StackId.parse(stack) if "/" in stack else StackId(render.owner, render.project, stack)
    async with RenderClient(render.url, access=render.access) as client:
        await client.existing_stack(name)
        found = await client.resolved_tiles(name, z)
    tiles = found.to_json() if found else {}
    picture = await asyncio.to_thread(compose_section, tiles, max_px=max_px, path_map=_Finder(settings))
    try:
        await asyncio.to_thread(save_picture, picture, output)
    except OSError as error:
        raise storage_fault(str(output), "write the picture", error) from error
    height, width = picture.shape
    return f"{output}: {width}x{height} pixels, {len(tiles['tileIdToSpecMap'])} tiles of {name} at z {z:g}"
