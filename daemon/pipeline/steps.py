"""What each step does to one montage, with the handlers. Every effect can be repeated."""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.health import Metrics
from daemon.pipeline.image_cache import RenderImageCache
from daemon.pipeline.metafile_cache import MetafileCache
from daemon.pipeline.output_disks import MipmapDisks
from daemon.pipeline.settle import patience_s
from daemon.pipeline.stacks import StackKeeper
from daemon.pipeline.tile_holds import TileHolds
from daemon.system.threads import answers_within
from handlers.acquisition.arrival import read_metafile
from handlers.acquisition.image_names import image_path
from handlers.acquisition.metafile import Metafile
from handlers.acquisition.parse import parse_metafile
from handlers.acquisition.tilespec import TileSpec, shared_transform_for, tile_specs_for
from handlers.apply_mipmaps import apply_mipmaps, apply_path_builder
from handlers.errors import (
    Evidence,
    Fault,
    ImageChanging,
    ImageFault,
    MetafileFault,
    ReadBackDiffers,
    StackMissing,
    StorageFault,
    Waiting,
)
from handlers.generate_mipmaps import make_all
from handlers.generate_tilespecs import ingest_tiles
from handlers.identity import FileIdentity
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, LevelUris, MipmapPlan, absent_levels, level_uris
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.render.client import PathBuilder, RenderClient, StackId
from handlers.text import abbreviate
from handlers.workers.pool import WorkerPool

log = structlog.get_logger()

FAULTS_SHOWN = 10


class MetafileChanged(MetafileFault):
    """The file no longer holds what the montage stands for; the next scan makes a montage of what it holds now."""

    waiting_helps = Waiting.ALWAYS


class MetafileGone(MetafileFault):
    """The file is gone; it may come back, or be found under another path."""

    waiting_helps = Waiting.ALWAYS


class Stopped(Exception):  # noqa: N818  not an error: the daemon was asked to stop
    """The step was left off between two tiles; what is done is recorded."""


class MipmapsLost(Exception):  # noqa: N818  handled by making them again
    """Levels recorded as made are not on disk."""


@dataclass(frozen=True, slots=True)
class Section:
    """A montage with what its metafile says, as the steps need it."""

    montage: Montage
    watch: WatchSettings
    metafile: Metafile
    specs: tuple[TileSpec, ...]
    transform: Mapping[str, Any] | None
    """The lens correction that the tiles share, where the metafile holds one and the watch wants it."""
    raw: StackId
    mipmapped: StackId

    @property
    def z(self) -> float:
        """Place of the section in the stack."""
        assert self.montage.z is not None
        return self.montage.z

    @property
    def resolution_nm(self) -> tuple[float, float, float]:
        """Pixel size in x and y from the calibration, section distance from the configuration."""
        return *self.metafile.header.highmag.pixel_size_nm, self.watch.stacks.resolution_z

    def level0(self) -> list[Level0]:
        """The image, mask and size of every tile."""
        directory, camera = self.montage.metafile.parent, self.metafile.header.camera
        mask = Path(self.watch.tilespecs.mask) if self.watch.tilespecs.mask else None
        brightest = self.watch.tilespecs.maximum_intensity
        return [
            Level0(spec["tileId"], image_path(directory, tile.img_path), mask, camera.width, camera.height, brightest)
            for spec, tile in zip(self.specs, self.metafile.tiles, strict=True)
        ]


class Steps:
    """Performs the steps from SETTLED to APPLIED.

    Parameters
    ----------
    in_flight : tiles given to the workers at once, over all montages; a little more than there are workers.
    """

    def __init__(
        self,
        *,
        settings: Callable[[], Settings],
        journal: Journal,
        client: RenderClient,
        keeper: StackKeeper,
        disks: MipmapDisks,
        pool: WorkerPool,
        metrics: Metrics,
        in_flight: int,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._client = client
        self._keeper = keeper
        self._disks = disks
        self._pool = pool
        self._metrics = metrics
        self._images = RenderImageCache(client, lambda: settings().render.clear_image_cache)
        self._slots = asyncio.Semaphore(in_flight)
        self._gone_since: dict[int, float] = {}
        self._holds = TileHolds()
        self._late: dict[int, dict[Path, tuple[FileIdentity | None, float]]] = {}
        self.put_by_others = 0
        """Montages whose tiles stood in their stack before they were put."""
        self.metafiles = MetafileCache()
        """Those parsed last; settling parses them first."""

    def stop(self) -> None:
        """Lets the tiles under way end, and starts no more."""
        self._disks.stop()

    async def section(self, montage: Montage, watch: WatchSettings) -> Section:
        """The montage with its metafile, read anew: the file must still hold the content that settled.

        Raises
        ------
        MetafileChanged
            If it does not.
        MetafileGone, MetafileFault
            If it is gone; after `arrival_timeout_s` for good.
        """
        try:
            async with answers_within(montage.metafile):
                content = await read_metafile(montage.metafile)
        except StorageFault as fault:
            if isinstance(fault.__cause__, FileNotFoundError):
                raise self._gone(montage, watch) from None
            raise
        self._gone_since.pop(montage.id, None)
        digest = hashlib.sha256(content).hexdigest()
        if digest != montage.digest:
            raise MetafileChanged(
                str(montage.metafile), "changed after it had settled", "what it holds now is taken up by the next scan"
            )
        metafile = await self.metafiles.parse(content, digest, str(montage.metafile))
        return await asyncio.to_thread(section_with, montage, watch, metafile)

    def _gone(self, montage: Montage, watch: WatchSettings) -> MetafileFault:
        gone_s = time.monotonic() - self._gone_since.setdefault(montage.id, time.monotonic())
        subject, hint = str(montage.metafile), "under another path it is a montage of its own; move it back to go on"
        if gone_s <= watch.arrival_timeout_s:
            return MetafileGone(subject, "is gone since it had settled: moved, renamed or deleted", hint)
        self._gone_since.pop(montage.id)
        problem = (
            f"is gone since it had settled, for more than {watch.arrival_timeout_s:g} s: moved, renamed or deleted"
        )
        return MetafileFault(subject, problem, hint).with_evidence(Evidence(montage.metafile, None))

    async def ingest(self, section: Section) -> None:
        """Puts the tile specs into the raw stack and reads them back."""
        others = await self._put_by_others(section)
        transforms = {section.transform["id"]: section.transform} if section.transform else {}

        async def put(unwanted: frozenset[str]) -> None:
            await ingest_tiles(self._client, section.raw, section.z, section.specs, transforms, unwanted=unwanted)

        await self._write(section, section.raw, put)
        if others:
            self.put_by_others += 1
            hint = "see that no second temwatch watches this directory, on another host perhaps"
            log.warning("tiles.of_another_writer", tiles=others, hint=hint)

    async def _put_by_others(self, section: Section) -> int:
        """How many of the tiles stand in the raw stack already though this daemon has put none of them."""
        if not await self._journal.has_put_nothing(section.montage.id):
            return 0
        former = await self._journal.former_tile_ids(section.montage, str(section.raw))
        try:
            there = await self._client.tile_bounds(section.raw, section.z)
        except StackMissing:
            return 0
        own = {spec["tileId"] for spec in section.specs} - former
        return len(own.intersection(bounds.tile_id for bounds in there))

    async def _write(
        self, section: Section, stack: StackId, put: Callable[[frozenset[str]], Awaitable[object]]
    ) -> None:
        """Puts the montage's tiles into a stack, and deletes those of its predecessors that no montage holds."""
        former = await self._journal.former_tile_ids(section.montage, str(stack))
        async with self._holds.hold(stack, frozenset(spec["tileId"] for spec in section.specs), former):
            # A montage that settles from now on waits with its tiles until these are deleted.
            unwanted = await self._journal.unwanted_tile_ids(section.montage, str(stack)) if former else former
            await self._keeper.write(section.watch.name, stack, section.resolution_nm, lambda: put(unwanted))

    async def make_mipmaps(self, section: Section) -> None:
        """Makes the levels of every tile that has none yet, each recorded as soon as it is verified.

        Raises
        ------
        Stopped
            If the daemon was asked to stop; tiles made so far are recorded.
        StorageFault
            If the disk of the mipmaps ran low, or went; tiles made so far are recorded.
        Fault
            After all tiles were tried: names those that could not be made.
        """
        plan = section.watch.mipmap_plan().served_by(self._client.address, section.raw)
        if section.raw == section.mipmapped:
            async with self._keeper.holding(section.raw):
                await self._make_levels(section, plan)
        else:
            await self._make_levels(section, plan)

    async def _make_levels(self, section: Section, plan: MipmapPlan) -> None:
        await self._disks.require(section.watch.mipmaps)
        made = await self._journal.tiles_made(section.montage.id)
        jobs = await asyncio.to_thread(_jobs, section, plan, made)
        self._images.begin(section.montage.id, is_resumed=bool(made))
        if plan.reduction.method == "render" and await asyncio.to_thread(_replace_others, jobs):
            await self._images.empty(section.raw)  # the pixels come from there
        async with answers_within(section.montage.metafile.parent, looks=len(jobs)):
            before = await asyncio.to_thread(_evidence, jobs)  # an image that is mended during its job has changed
        faults: list[Fault] = []
        notes: list[str] = []

        async def record(reports: list[MipmapReport]) -> None:
            notes.extend(note for report in reports for note in report.notes)
            await self._record(section, reports, faults, before)

        output_dir = section.watch.mipmaps.output_dir
        with self._disks.working(output_dir) as halt:
            await make_all(self._pool, jobs, record, slots=self._slots, stop=halt)
        if notes:
            log.warning("images.odd", images=len(notes), first=notes[0])
        if faults:
            raise _one_fault(section.montage, faults, len(section.specs))
        if halt.is_set() and len(await self._journal.tiles_made(section.montage.id)) < len(made) + len(jobs):
            raise halt.fault or Stopped
        await self._images.settle(section.montage.id, section.raw)
        self._late.pop(section.montage.id, None)

    async def _record(
        self, section: Section, reports: list[MipmapReport], faults: list[Fault], before: Mapping[str, Evidence]
    ) -> None:
        told = [report.fault.to_fault() for report in reports if report.fault]
        seen = [await _seen(fault, before) for fault in told]
        faults += [self._unless_quiet(section, fault) for fault in seen]
        done = [report for report in reports if not report.fault]
        if done:
            await self._journal.record_tiles(section.montage.id, {report.tile_id: report.level0 for report in done})
        if any(level.replaced for report in reports for level in report.made):
            self._images.rewrote(section.montage.id)
        self._metrics.tiles.inc(len(done))
        self._metrics.files.inc(sum(len(report.made) for report in done))
        self._metrics.bytes.inc(sum(level.bytes for report in done for level in report.made))

    def expect_changes(self, montage_id: int) -> None:
        """Images of a montage changed after its mipmaps were made: they may still be written."""
        self._late.setdefault(montage_id, {})

    def _unless_quiet(self, section: Section, fault: Fault) -> Fault:
        """The fault of an image that changed late: it is not broken before it has been quiet for a while."""
        late, evidence = self._late.get(section.montage.id), fault.evidence
        if late is None or evidence is None or not isinstance(fault, ImageFault):
            return fault
        identity, since = late.get(evidence.path, (None, 0.0))
        if identity is None or identity != evidence.identity:
            since = time.monotonic()
            late[evidence.path] = evidence.identity, since
        if time.monotonic() - since >= patience_s(section.watch):
            return fault
        problem = f"{fault.problem}; it changed after its mipmaps were made, and may still be written"
        return ImageChanging(fault.subject, problem, fault.hint)

    async def apply(self, section: Section) -> None:
        """Makes the stack name the levels, and reads it back.

        Raises
        ------
        MipmapsLost
            If a level's file is not there: a URL that leads nowhere breaks the tile at every scale.
        StorageFault
            If the directory of the levels is not the one that took them.
        """
        plan = section.watch.mipmap_plan()
        async with answers_within(plan.output_dir, looks=len(section.specs) * plan.levels):
            await self._disks.require_mark(plan.output_dir)
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
            if not await self._is_source_lacking(section):
                raise
            log.warning("tiles.lost", raw_stack=str(section.raw))  # somebody deleted the stack, or tiles of it
            await self.ingest(section)
            await self._write(section, section.mipmapped, put)

    async def _is_source_lacking(self, section: Section) -> bool:
        if await self._client.stack(section.raw) is None:
            return True
        there = {tile.tile_id for tile in await self._client.tile_bounds(section.raw, section.z)}
        return not {spec["tileId"] for spec in section.specs} <= there


def _jobs(section: Section, plan: MipmapPlan, made: Collection[str]) -> list[MipmapJob]:
    """One job for each tile, and one for the mask that all tiles share, except those recorded as made."""
    tiles = section.level0()
    directory = section.montage.metafile.parent
    jobs = [tile_job(tile, plan, directory) for tile in tiles if tile.tile_id not in made]
    if tiles[0].mask is not None and str(tiles[0].mask) not in made:
        jobs.append(mask_job(tiles[0], plan))
    return jobs


def _replace_others(jobs: Iterable[MipmapJob]) -> bool:
    """Whether the first level of one of the jobs is there already."""
    return any(path.exists() for job in jobs for _, path in job.outputs[:1])


def _levels_on_disk(section: Section, plan: MipmapPlan) -> dict[str, LevelUris]:
    """The URIs of each tile's levels, by its id. Raises MipmapsLost if a level's file is not there."""
    tiles = section.level0()
    if absent_levels(tiles, plan):
        raise MipmapsLost
    return {tile.tile_id: level_uris(tile, plan) for tile in tiles}


def section_of(montage: Montage, watch: WatchSettings, content: bytes) -> Section:
    """A settled montage with what the content of its metafile says. Raises as `parse_metafile` and `section_with`."""
    return section_with(montage, watch, parse_metafile(content, str(montage.metafile)))


def section_with(montage: Montage, watch: WatchSettings, metafile: Metafile) -> Section:
    """A settled montage with its metafile. Raises as `tile_specs_for` and `shared_transform_for`."""
    assert montage.z is not None
    assert montage.raw_stack is not None
    assert montage.mipmapped_stack is not None
    transform = shared_transform_for(metafile) if watch.tilespecs.shared_transform else None
    specs = tile_specs_for(
        metafile,
        montage.z,
        montage.metafile.parent,
        watch.tilespec_options(),
        shared_transform_id=transform["id"] if transform else None,
    )
    raw, mipmapped = StackId.parse(montage.raw_stack), StackId.parse(montage.mipmapped_stack)
    return Section(montage, watch, metafile, specs, transform, raw, mipmapped)


async def _seen(fault: Fault, before: Mapping[str, Evidence]) -> Fault:
    """`_on_evidence`; the fault as it is where the file server does not answer."""
    try:
        async with answers_within(Path(fault.subject)):
            return await asyncio.to_thread(_on_evidence, fault, before)
    except StorageFault:
        return fault


def _evidence(jobs: Sequence[MipmapJob]) -> dict[str, Evidence]:
    """The image of each job as it is now, by the subject of its faults."""
    return {str(image): Evidence.of(image) for image in {job.level0 for job in jobs}}


def _on_evidence(fault: Fault, before: Mapping[str, Evidence]) -> Fault:
    """The fault of a job, naming its image, or the level that it is about, as what has to change.

    Parameters
    ----------
    before : images as they were before their jobs, by their paths.
    """
    path = Path(fault.subject)
    if fault.waiting_helps is Waiting.ALWAYS or not path.is_absolute():
        return fault
    return fault.with_evidence(before.get(fault.subject) or Evidence.of(path))


def _one_fault(montage: Montage, faults: list[Fault], tile_count: int) -> Fault:
    """One fault for the montage: the worst, since a fault that waiting cannot help decides."""
    order = {Waiting.NEVER: 0, Waiting.LIMITED: 1, Waiting.ALWAYS: 2}
    worst = min(faults, key=lambda fault: order[fault.waiting_helps])
    if len(faults) == 1:
        return worst
    texts = abbreviate([f"{Path(fault.subject).name}: {fault.problem}" for fault in faults], FAULTS_SHOWN, "; ")
    kind = type(worst) if worst.waiting_helps is not Waiting.NEVER else ImageFault
    one = kind(
        str(montage.metafile),
        f"mipmaps of {len(faults)} of {tile_count} tiles could not be made: {texts}",
        worst.hint,
    )
    return one.with_evidence(worst.evidence) if worst.evidence else one
