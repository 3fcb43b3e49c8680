"""`temwatch import`: put the tile specs of one file of any format into a stack."""

import asyncio
from dataclasses import replace
from pathlib import Path

from handlers.acquisition.formats.reader import Reader
from handlers.acquisition.formats.readers import READERS
from handlers.acquisition.section_path import is_inside_file
from handlers.acquisition.tilespec import options_for
from handlers.errors import SettingsFault
from handlers.generate_tilespecs import generate_tilespecs
from handlers.path_map import NO_MAP, PathMap
from handlers.render.client import RenderClient
from handlers.render.http.access import Access
from handlers.render.names import StackId
from handlers.text import abbreviate


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
    """Put the tile specs of a file into a stack; return a line that describes the outcome.

    Parameters
    ----------
    pixel_size : nanometres; required for formats whose files do not state it.
    close : whether the stack is set to COMPLETE at the end.

    Raises
    ------
    Fault
        As `generate_tilespecs`; SettingsFault if the pixel size is missing or a file contains several sections.
    """
    reader = READERS[format_]
    if not reader.states_pixel_size and pixel_size is None:
        raise SettingsFault("--pixel-size", f"is required: files of the format {format_} do not state it")
    file = await asyncio.to_thread(section_in, file, reader)
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


def section_in(file: Path, reader: Reader) -> Path:
    """Return the path of the only section in a file; the given path if it names a section or the file is one. Blocking.

    Raises
    ------
    SettingsFault
        If the file contains several sections.
    """
    if reader.follower is None or is_inside_file(file):
        return file
    try:
        names = [Path(section).name for section, _ in reader.follower().sections(str(file))]
    except OSError:
        return file  # its reader reports the fault
    if len(names) > 1:
        problem = f"contains {len(names)} sections: {abbreviate(names)}"
        raise SettingsFault(str(file), problem, f"name one, as in {file}/{names[0]}")
    return file / names[0] if names else file
