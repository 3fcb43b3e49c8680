"""`temwatch import`: the tile specs of one file of any format."""

from pathlib import Path

from handlers.acquisition.readers import READERS
from handlers.errors import SettingsFault
from handlers.generate_tilespecs import generate_tilespecs
from handlers.render.access import Access
from handlers.render.client import RenderClient
from handlers.render.names import StackId


async def import_into_stack(
    file: Path,
    format_: str,
    *,
    url: str,
    access: Access | None = None,
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
            pixel_size_nm=pixel_size,
            close=close,
        )
    return repr(report)
