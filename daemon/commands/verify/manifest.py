"""`temwatch manifest`: digests of the images and mipmap files of COMPLETE montages, in the format of `xxhsum -c`."""

import asyncio
from collections.abc import Callable

from daemon.commands.verify.command import absent_line, select, without_montage
from daemon.commands.verify.verifier import read_section, recorded_digests
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.replay.selection import Selection
from handlers.difference import Difference
from handlers.errors import SettingsFault, StoreFault
from handlers.mipmaps.level_digests import level_digests
from handlers.mipmaps.measure import digest_of_levels
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.place import Place
from handlers.text import printable

Say = Callable[[str], None]
NOTHING_LISTED = "no COMPLETE montage matches the selection: no digest was printed"


async def manifest(settings: Settings, selection: Selection, say: Say, complain: Say) -> int:
    """Print a line for each file; return the exit code, which is 1 if a tile is left out.

    The exit code is also 1 if a path or a z of the selection has no COMPLETE montage.

    The digest of level 0 is that of the bytes from which the levels were made. The journal has one digest for all level
    files of a tile: the files are read, and a tile whose files do not match it is left out.

    Raises
    ------
    NotSelectable
        If the selection is invalid.
    Fault
        If there is no journal, or it cannot be read.
    """
    if not settings.journal.path.exists():
        raise SettingsFault("journal.path", f"{settings.journal.path} does not exist", "check the path")
    left_out = 0
    async with Journal(settings.journal.path, read_only=True) as journal:
        montages = await select(settings, journal, selection)
        for montage in montages:
            left_out += await _montage(settings, journal, montage, say, complain)
        absent = await asyncio.to_thread(without_montage, selection, montages)
    for name in absent:
        complain(absent_line(name))
    if not (montages or absent):
        complain(NOTHING_LISTED)
    return 1 if left_out or absent else 0


async def _montage(settings: Settings, journal: Journal, montage: Montage, say: Say, complain: Say) -> int:
    """Print the lines of a montage; return the number of tiles left out, 1 if the whole montage is left out."""
    watch = next((watch for watch in settings.watch if watch.name == montage.watch), None)
    section = None if watch is None else await read_section(montage, watch)
    if section is None or isinstance(section, Difference):
        why = f"its watch {montage.watch} is not in the configuration" if section is None else section.what
        complain(f"{printable(str(montage.metafile))}: left out: {why}")
        return 1
    plan, left_out = section.watch.mipmap_plan(), 0
    images = await journal.images_read(montage.id)
    digests = await recorded_digests(journal, section, plan)
    for tile in section.level0():
        image = images.get(tile.tile_id)
        problem = ""
        if image is None or tile.tile_id not in digests:
            problem = "no recorded digest: replay it from mipmaps"
        else:
            files = [(image.digest, tile.image), *await asyncio.to_thread(_level_files, tile, plan)]
            problem = _problem(files, digests[tile.tile_id])
        if problem:
            complain(f"tile {tile.tile_id}: left out: {problem}")
            left_out += 1
            continue
        for digest, path in files:
            say(f"{digest.hex()}  {path}")
    return left_out


def _level_files(tile: Level0, plan: MipmapPlan) -> list[tuple[bytes, Place]]:
    """Return digest and path of each level's file, the lowest level first; empty if a file cannot be read."""
    outputs = plan.outputs(tile.image)
    try:
        digests = level_digests(outputs)
    except (OSError, StoreFault):
        return []
    return [(digests[level], path) for level, path in outputs]


def _problem(files: list[tuple[bytes, Place]], recorded: bytes) -> str:
    """Return why the files of a tile are left out; empty if they are not."""
    names = [str(path) for _, path in files]
    if any(not name.isprintable() or "\\" in name for name in names):
        return f"xxhsum cannot read the name {printable(names[0])}"
    found = digest_of_levels({level: digest for level, (digest, _) in enumerate(files) if level})
    return "" if found == recorded else "its level files do not match the recorded digest, or cannot be read"
