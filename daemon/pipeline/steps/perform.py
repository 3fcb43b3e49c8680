"""Perform the steps from SETTLED to APPLIED of one montage. Every effect can be repeated."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.gates.output_disks import OutputDisks
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.order.tile_holds import TileHolds
from daemon.pipeline.stacks.keeper import StackKeeper
from daemon.pipeline.steps.judging import Judge
from daemon.pipeline.steps.mipmap_step import MipmapStep
from daemon.pipeline.steps.render_image_cache import RenderImageCache
from daemon.pipeline.steps.section import Section, SectionReader
from daemon.pipeline.steps.section_quality import packed_numbers
from daemon.system.threads import access_timeout
from handlers.apply_mipmaps import apply_mipmaps, apply_path_builder
from handlers.container import Containers
from handlers.errors import ReadBackDiffers, StackMissing
from handlers.generate_tilespecs import ingest_tiles
from handlers.mipmaps.plan import LevelUris, MipmapPlan, absent_levels, level_files, uris_of
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import PathBuilder
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()


class MipmapsLost(Exception):  # noqa: N818  not an error: the levels are made again
    """Levels that are recorded as made are not on disk."""


class Steps:
    """Performs the steps from SETTLED to APPLIED.

    Parameters
    ----------
    in_flight : as for MipmapStep.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        journal: Journal,
        client: RenderClient,
        keeper: StackKeeper,
        disks: OutputDisks,
        pool: WorkerPool,
        metrics: Metrics,
        in_flight: int,
    ) -> None:
        self._journal = journal
        self._client = client
        self._keeper = keeper
        self._disks = disks
        self.containers = Containers()
        self._mipmaps = MipmapStep(
            journal=journal,
            client=client,
            keeper=keeper,
            disks=disks,
            pool=pool,
            metrics=metrics,
            image_cache=RenderImageCache(client, lambda: settings().render.clear_image_cache),
            containers=self.containers,
            in_flight=in_flight,
        )
        self._judge = Judge(journal, metrics)
        self._sections = SectionReader(self.containers)
        self._holds = TileHolds()
        self.metafiles = self._sections.metafiles
        self.put_by_others = 0
        """Number of montages whose tiles were in the raw stack before this daemon put them."""

    def stop(self) -> None:
        """Start no further tiles; running ones end."""
        self._disks.stop()

    def expect_changes(self, montage_id: int) -> None:
        """Expect that images of a montage are still being written, since they changed after its mipmaps were made."""
        self._mipmaps.changing_images.expect(montage_id)

    async def section(self, montage: Montage, watch: WatchSettings) -> Section:
        """Return the section of a montage, as `SectionReader.read`."""
        return await self._sections.read(montage, watch)

    async def section_once(self, montage: Montage, watch: WatchSettings) -> Section:
        """Return the section of a montage without caching its metafile for a further step."""
        section = await self.section(montage, watch)
        self._sections.forget(section)
        return section

    async def make_mipmaps(self, section: Section) -> bytes:
        """Make the mipmaps, as `MipmapStep.make`. Return the packed quality numbers of the section."""
        await self._mipmaps.make(section)
        return await packed_numbers(section, self._journal)

    async def ingest(self, section: Section) -> None:
        """Put the tile specs into the raw stack and read them back."""
        foreign = await self._count_put_by_others(section)
        transforms = {section.transform["id"]: section.transform} if section.transform else {}

        async def put(unwanted: frozenset[str]) -> None:
            await ingest_tiles(self._client, section.raw, section.z, section.specs, transforms, unwanted=unwanted)

        await self._write(section, section.raw, put)
        if foreign:
            self.put_by_others += 1
            hint = "make sure that no second temwatch, perhaps on another host, watches this directory"
            log.warning("tiles.of_another_writer", tiles=foreign, hint=hint)

    async def _count_put_by_others(self, section: Section) -> int:
        """Return how many tiles are in the raw stack although this daemon has put none of them."""
        known = await self._journal.known_before_first_put(section.montage, str(section.raw))
        if known is None:
            return 0
        try:
            present = await self._client.tile_bounds(section.raw, section.z)
        except StackMissing:
            return 0
        own = {spec["tileId"] for spec in section.specs} - known
        return len(own.intersection(bounds.tile_id for bounds in present))

    async def _write(
        self, section: Section, stack: StackId, put: Callable[[frozenset[str]], Awaitable[object]]
    ) -> None:
        """Put the montage's tiles into a stack, and delete tiles of its predecessors that no other montage owns."""
        former = await self._journal.former_tile_ids(section.montage, str(stack))
        async with self._holds.hold(stack, frozenset(spec["tileId"] for spec in section.specs), former):
            # A montage that settles after this query cannot put these tiles before they are deleted.
            unwanted = await self._journal.unwanted_tile_ids(section.montage, str(stack)) if former else former
            await self._keeper.write(section.watch.name, stack, section.resolution_nm, lambda: put(unwanted))

    async def apply(self, section: Section) -> None:
        """Judge the montage, put its levels into the tile specs of the output stack, and read them back.

        Raises
        ------
        MipmapsLost
            If the file of a level is missing. A URL without a file would break the tile at every scale.
        StorageFault
            If the directory of the levels lacks its marker file.
        """
        # Judge first: if the verdict holds the stack, it stays open from the first tile on.
        await self._judge.judge(section)
        if await self._journal.may_be_overwritten(section.montage.id):
            await self.ingest(section)
        plan = section.watch.mipmap_plan()
        async with access_timeout(plan.output_dir, accesses=len(section.specs) * plan.levels):
            await self._disks.require_marker(plan.output_dir)
            levels = await asyncio.to_thread(_levels_on_disk, section, plan)

        async def put(unwanted: frozenset[str]) -> None:
            where = self._client, section.raw, section.mipmapped, section.z
            if section.watch.mipmaps.apply == "path_builder":
                builder = PathBuilder.model_validate(plan.path_builder())
                await apply_path_builder(*where, levels, builder, unwanted=unwanted)
            else:
                await apply_mipmaps(*where, levels, unwanted=unwanted)

        try:
            await self._write(section, section.mipmapped, put)
        except (StackMissing, ReadBackDiffers):
            if not await self._lacks_raw_tiles(section):
                raise
            # Another program deleted the raw stack, or tiles of it.
            log.warning("tiles.lost", raw_stack=str(section.raw))
            await self.ingest(section)
            await self._write(section, section.mipmapped, put)
        self._sections.forget(section)

    async def _lacks_raw_tiles(self, section: Section) -> bool:
        if await self._client.stack(section.raw) is None:
            return True
        present = {tile.tile_id for tile in await self._client.tile_bounds(section.raw, section.z)}
        return not {spec["tileId"] for spec in section.specs} <= present


def _levels_on_disk(section: Section, plan: MipmapPlan) -> dict[str, LevelUris]:
    """Return the URIs of each tile's levels, by tile id. Raises MipmapsLost if the file of a level is missing."""
    tiles = section.level0()
    files = {tile.tile_id: level_files(tile, plan) for tile in tiles}
    if absent_levels(tiles, plan, files.values()):
        raise MipmapsLost
    return {tile_id: uris_of(levels, plan) for tile_id, levels in files.items()}
