"""`temwatch picture`: draw a section of a stack as a PNG file."""

import asyncio
from pathlib import Path

from daemon.config.settings import Settings
from daemon.pipeline.replay.lookup import NotSelectable
from handlers.errors import RenderRefused, SettingsFault, storage_fault
from handlers.picture import compose_section, save_picture
from handlers.place import Place
from handlers.render.client import RenderClient
from handlers.render.names import StackId, format_z
from handlers.text import z_text


class _Finder:
    """Finds the images that a stack contains: levels by `mipmaps.url` of a watch, all others by the path map."""

    def __init__(self, settings: Settings) -> None:
        self._paths = settings.render.paths
        self._plans = [watch.mipmap_plan() for watch in settings.watch]

    def to_path(self, url: str) -> Place:
        """Return the place of an image on this machine. Raises Fault if there is none."""
        known = (plan.place_of_url(url) for plan in self._plans)
        return next((place for place in known if place is not None), None) or self._paths.to_path(url)


def _checked(settings: Settings, stack: str, z: float, output: Path) -> StackId:
    """Return the stack. Raises Fault for invalid arguments and for a stack that only the daemon knows."""
    render = settings.render
    if render.embedded:
        problem = "the embedded stand-in runs inside the daemon, and its stacks cannot be drawn from outside"
        raise SettingsFault("render.url", problem, "run `temwatch standin` and set render.url to its URL")
    try:
        name = StackId.parse(stack) if "/" in stack else StackId(render.owner, render.project, stack)
        format_z(z)
    except RenderRefused as fault:
        raise NotSelectable(fault.subject, fault.problem, fault.hint) from fault
    if str(output) == "-":
        raise NotSelectable("--output", "a picture cannot be written to standard output", "name a file")
    try:
        is_other = output.exists() and not output.is_file()
    except OSError as error:
        raise storage_fault(str(output), "write the picture", error) from error
    if is_other:  # it would be replaced by the picture
        raise NotSelectable("--output", f"{output} is not a regular file", "name a file")
    return name


async def draw(settings: Settings, stack: str, z: float, output: Path, max_px: int) -> str:
    """Draw a section and write the file; return a line that describes the picture.

    Parameters
    ----------
    stack : a stack of the configured owner and project, or owner/project/stack.
    max_px : longest side of the picture, pixels.

    Raises
    ------
    NotSelectable
        If an argument is invalid.
    Fault
        If there is no such section, an image of the stack cannot be used, or the file cannot be written.
    """
    render = settings.render
    name = _checked(settings, stack, z, output)
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
    return f"{output}: {width}x{height} pixels, {len(tiles['tileIdToSpecMap'])} tiles of {name} at z {z_text(z)}"
