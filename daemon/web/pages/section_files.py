"""Files of a montage for its pages: parse its metafile in a thread, find its images and levels."""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.montages.records import Montage
from daemon.pipeline.settling.metafile_cache import content_digest
from daemon.pipeline.steps.section import Section, section_from_content
from daemon.system.threads import access_timeout
from handlers.acquisition.acquisition import Tile
from handlers.acquisition.arrival import read_metafile
from handlers.acquisition.formats.rasters import section_cells
from handlers.container import Container
from handlers.errors import Fault, MetafileFault
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.place import ObjectPlace, Place
from handlers.regular_file import NotContained, NotRegular, read_regular
from handlers.stores.choose import store_of

MAX_BYTES = 64 * 2**20
"""Largest level that is read for its digest, so that a page does not wait for long."""
KEPT = 2
"""Number of parsed sections that are cached. A section of 2,772 tiles takes about 10 MB."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of a section by id and by place."""

    section: Section
    level0: tuple[Level0, ...]
    index: Mapping[str, int]
    """Tile id -> position in the metafile."""
    at: Mapping[tuple[int, int], int]
    """Column and row -> position in the metafile; empty if the format has no grid."""
    places: Sequence[tuple[int, int] | None]
    """Column and row of each tile in the section. Several grids are placed side by side."""

    def tile(self, index: int) -> Tile:
        """Return a tile of the acquisition."""
        return self.section.acquisition.tiles[index]

    def tile_id(self, index: int) -> str:
        """Return the id of a tile."""
        return self.level0[index].tile_id

    @property
    def plan(self) -> MipmapPlan:
        """The plan of the mipmaps: where the levels are."""
        return self.section.watch.mipmap_plan()

    def neighbours(self, index: int) -> list[list[int | None]]:
        """Return the positions of the tiles around a tile, three rows of three; None where no tile is."""
        place = self.places[index]
        if place is None:
            return []
        column, row = place
        return [[self.at.get((column + dx, row + dy)) for dx in (-1, 0, 1)] for dy in (-1, 0, 1)]


def tiles_of(section: Section) -> Tiles:
    """Return the tiles of a section."""
    level0 = tuple(section.level0())
    places = section_cells(section.acquisition.tiles)
    at = {place: index for index, place in enumerate(places) if place is not None}
    return Tiles(section, level0, {each.tile_id: index for index, each in enumerate(level0)}, at, places)


class SectionFiles:
    """Reads and caches the metafiles of shown montages."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._kept: OrderedDict[tuple[int, str], Tiles] = OrderedDict()
        self._one_at_a_time = asyncio.Lock()

    async def read(self, montage: Montage) -> Tiles:
        """Return the tiles of a montage.

        Raises
        ------
        Fault
            If it has not settled, its watch is not configured, or its metafile cannot be read or has changed.
        """
        watch = next((each for each in self._settings().watch if each.name == montage.watch), None)
        if watch is None:
            raise MetafileFault(str(montage.metafile), f"its watch {montage.watch} is not in the configuration")
        if montage.digest is None or montage.z is None or montage.raw_stack is None:
            raise MetafileFault(str(montage.metafile), "has not settled: its tiles are not known yet")
        async with self._one_at_a_time:
            key = (montage.id, montage.digest)
            found = self._kept.pop(key, None)
            if found is None or found.section.watch != watch:
                found = await self._parse(montage, watch)
            self._kept[key] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return found

    async def _parse(self, montage: Montage, watch: WatchSettings) -> Tiles:
        async with access_timeout(montage.metafile):
            content = await read_metafile(montage.metafile)
        if await content_digest(content) != montage.digest:
            raise MetafileFault(str(montage.metafile), "has changed since this montage settled")
        return await asyncio.to_thread(lambda: tiles_of(section_from_content(montage, watch, content)))


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file of a tile as it is on disk now."""

    level: int
    path: Place
    size: int | None
    """Bytes; None if the file is missing or cannot be accessed."""
    problem: str = ""
    digest: bytes | None = None
    """XXH3-128 of its present bytes; None for level 0 and for a level that was not read."""


def files_of(tile: Level0, plan: MipmapPlan) -> list[DiskFile]:
    """Return level 0 and every level of a tile, with their sizes and the digests of the levels. Blocking.

    Level 0 is not read: the journal has the digest of the bytes from which the levels were made. Levels in an object
    store are not read either, since that takes too long for a page; their digest is known if the store reports it.
    """
    levels = [_file(*each) for each in plan.outputs(tile.image)]
    if isinstance(plan.output_dir, Path):
        root = Container(plan.output_dir, Path(os.path.realpath(plan.output_dir)))
        levels = [_digested(each, root) for each in levels]
    return [_file(0, tile.image), *levels]


def _digested(file: DiskFile, root: Container) -> DiskFile:
    """Return a level's file with the digest of its bytes."""
    if file.size is None or file.size > MAX_BYTES or not isinstance(file.path, Path):
        return file
    try:
        content, _ = read_regular(file.path, MAX_BYTES, root=root)
    except (NotRegular, NotContained) as error:
        return replace(file, problem=str(error))
    except OSError as error:
        return replace(file, problem=error.strerror or "cannot be read")
    return replace(file, digest=xxhash.xxh3_128_digest(content))


def _file(level: int, path: Place) -> DiskFile:
    if isinstance(path, ObjectPlace):
        return _object(level, path)
    try:
        return DiskFile(level, path, path.lstat().st_size)
    except FileNotFoundError:
        return DiskFile(level, path, None, "missing")
    except OSError as error:
        return DiskFile(level, path, None, error.strerror or "cannot be accessed")


def _object(level: int, place: ObjectPlace) -> DiskFile:
    try:
        store = store_of(place)
        found, digest = store.stat(place), store.known_digest(place)
    except Fault as fault:
        return DiskFile(level, place, None, fault.problem)
    return DiskFile(level, place, found.size, digest=digest) if found else DiskFile(level, place, None, "missing")
