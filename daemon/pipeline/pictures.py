"""Draw pictures of montages in the workers at low priority, one at a time, and cache them in a bounded directory."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.steps.section import Section, SectionReader
from daemon.system.bounded_directory import BoundedDirectory
from handlers.errors import Fault
from handlers.mipmaps.plan import level_files
from handlers.picture import MosaicJob, draw_mosaic
from handlers.quality.heatmap import Heatmap, draw_heatmap
from handlers.quality.heatmap_numbers import Number, heatmap_of, values_of
from handlers.quality.packing import unpack
from handlers.text import printable, z_text
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()
J = TypeVar("J")

MOSAIC_PX = 2_000
"""Longest side of a mosaic, pixels."""
MAX_COMPARED = 100
"""Largest number of montages that share a scale."""
_VERSION = 3
"""Version of the drawing code. A new number invalidates cached pictures."""


class NoPicture(Fault):
    """The picture cannot be drawn, because its data do not exist."""


class Pictures:
    """Draws mosaics and heatmaps.

    Parameters
    ----------
    pool : returns the workers.
    """

    def __init__(self, settings: Callable[[], Settings], journal: Journal, pool: Callable[[], WorkerPool]) -> None:
        self._settings = settings
        self._journal = journal
        self._pool = pool
        self._sections = SectionReader()
        self._one = asyncio.Lock()

    # --- mosaics

    async def mosaic(self, montage: Montage) -> bytes:
        """Return the mosaic of a montage as PNG, transparent outside its tiles. Tiles without mipmaps are striped.

        Raises
        ------
        NoPicture
            If the montage has not settled, or its watch is no longer configured.
        Fault
            If the metafile cannot be read, or no worker draws it.
        """
        watch = next((each for each in self._settings().watch if each.name == montage.watch), None)
        if montage.z is None or watch is None:
            why = "has no tile specs yet" if watch else f"its watch {montage.watch} is not configured"
            raise NoPicture(f"montage {montage.id}", why)
        made = len(await self._journal.tiles_made(montage.id))
        plan = watch.mipmap_plan()
        facts = [montage.digest, str(montage.state), montage.changed_at, made, str(plan.output_dir), plan.levels]
        key = _key("mosaic", montage.id, *facts)
        if (kept := await asyncio.to_thread(self._kept().get, key)) is not None:
            return kept
        section = await self._sections.read(montage, watch)
        job = await asyncio.to_thread(mosaic_job, section)
        return await self._draw(key, job.tile_id, draw_mosaic, job)

    # --- heatmaps

    async def heatmap(self, montage: Montage, number: Number, compared: Sequence[int] = ()) -> bytes:
        """Return the heatmap of a number as PNG.

        Parameters
        ----------
        compared : ids of montages whose numbers the scale has to include, too.

        Raises
        ------
        NoPicture
            If the journal has no numbers of the montage.
        Fault
            If no worker draws it.
        """
        blocks = {each: await self._journal.quality_numbers(each) for each in sorted({montage.id, *compared})}
        own = blocks[montage.id]
        if own is None:
            raise NoPicture(
                f"montage {montage.id}", "has no quality numbers", "they are measured while its mipmaps are made"
            )
        others = [block for block in blocks.values() if block is not None]
        verdict = await self._journal.verdict(montage.id)
        findings = {finding.rule: finding for finding in verdict.findings} if verdict else {}
        limits = {str(rule): finding.limit for rule, finding in findings.items()}
        key = _key("heatmap", str(number), own.hex(), *(_digest(each) for each in others), json.dumps(limits))
        if (kept := await asyncio.to_thread(self._kept().get, key)) is not None:
            return kept

        def prepare() -> Heatmap:
            values = [values_of(number, unpack(each).tiles) for each in others]
            return heatmap_of(number, unpack(own).tiles, findings, title=title_of(montage), compared=values)

        return await self._draw(key, f"heatmap of montage {montage.id}", draw_heatmap, await asyncio.to_thread(prepare))

    # --- both

    def _kept(self) -> BoundedDirectory:
        settings = self._settings()
        return BoundedDirectory(settings.pictures.directory_beside(settings.journal.path), settings.pictures.max_bytes)

    async def _draw(self, key: str, subject: str, draw: Callable[[J], bytes], job: J) -> bytes:
        """Return the picture; draw and cache it unless another request has done so meanwhile."""
        kept = self._kept()
        async with self._one:
            picture = await asyncio.to_thread(kept.get, key)
            if picture is not None:
                return picture
            picture = await self._pool().run_politely(subject, draw, job)
        try:
            await asyncio.to_thread(kept.put, key, picture)
        except OSError as error:
            log.warning("picture.not_kept", reason=str(error), hint="check pictures.directory and its disk")
        return picture


def title_of(montage: Montage) -> str:
    """Return the title of a montage's picture."""
    scope = f", {printable(montage.scope)}" if montage.scope else ""
    z = "" if montage.z is None else f"z {z_text(montage.z)}, "
    return f"{z}montage {montage.id}{scope}"


def mosaic_job(section: Section) -> MosaicJob:
    """Return the job of a mosaic, from the tile specs and the level files on this machine."""
    plan = section.watch.mipmap_plan()
    specs = {}
    for spec, tile in zip(section.specs, section.level0(), strict=True):
        files = level_files(tile, plan) or {
            0: (tile.image, tile.mask)
        }  # not both: a picture shows the levels that were made
        urls = {str(level): {"imageUrl": image, "maskUrl": mask} for level, (image, mask) in files.items()}
        specs[tile.tile_id] = {**spec, "mipmapLevels": urls}
    shared = {section.transform["id"]: section.transform} if section.transform else {}
    resolved = {"transformIdToSpecMap": shared, "tileIdToSpecMap": specs}
    return MosaicJob(f"mosaic of montage {section.montage.id}", resolved, MOSAIC_PX)


def _key(*facts: object) -> str:
    return hashlib.sha256(json.dumps([_VERSION, *facts]).encode()).hexdigest()


def _digest(block: bytes) -> str:
    return hashlib.sha256(block).hexdigest()
