"""`temwatch import`: the tile specs of one file of any format."""

from dataclasses import replace
from pathlib import Path

from handlers.acquisition.readers import READERS
from handlers.acquisition.tilespec import options_for
from handlers.errors import SettingsFault
from handlers.generate_tilespecs import generate_tilespecs
from handlers.path_map import NO_MAP, PathMap
from handlers.render.access import Access
from handlers.render.client import RenderClient
from handlers.render.names import StackId


async def import_into_stack(
    file: Path,
    format_: str,
    *,
    url: str,
    access: Access | None = None,
    path_map: PathMap = NO_MAP,
    owner: str,
    project: str,
    stack: str,
    z: float,
    pixel_size: float | None = None,
    close: bool = False,
) -> str:
    """Put the tile specs of a file into a stack, and return the outcome in words.

    Raises
    ------
    Fault
        As `generate_tilespecs`; SettingsFault if the pixel size is missing.
    """
    reader = READERS[format_]
    if not reader.states_pixel_size and pixel_size is None:
        raise SettingsFault("--pixel-size", f"is required: files of the format {format_} do not state it")
    async with RenderClient(url, access=access) as client:
        report = await generate_tilespecs(
            client,
            file,
            StackId(owner, project, stack),
            z,
            reader=reader,
            options=replace(options_for(reader), path_map=path_map),
            pixel_size_nm=pixel_size,
            close=close,
        )
    return repr(report)
