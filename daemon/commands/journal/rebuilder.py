"""Fill a new journal with the montages of the watched directories.

Each montage is restored in the state that stacks and mipmap files prove. Every other montage is NOTICED: its steps are
repeated, which takes time but does not change the results.
"""

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState
from daemon.pipeline.gates.output_disks import was_used_for_mipmaps
from daemon.pipeline.settling.interpret import interpret_metafile
from daemon.pipeline.steps.section import Section, section_from_content
from daemon.pipeline.watch_root import watch_root
from daemon.watching.scan import NameRule, Tree
from handlers.acquisition.arrival import read_metafile, with_sizes
from handlers.container import Container, Containers
from handlers.difference import APPLY, INGEST
from handlers.errors import Fault, StackMissing, StorageFault
from handlers.mipmaps.plan import absent_levels, level_uris
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.responses import PathBuilder, StackState
from handlers.render.tiles import Json
from handlers.text import abbreviate, printable, z_text
from handlers.verify import check_levels_named, check_path_builder, check_tiles


@dataclass(frozen=True, slots=True)
class _Found:
    """A metafile on disk."""

    watch: WatchSettings
    sighting: Sighting


@dataclass(frozen=True, slots=True)
class _Target:
    """Stacks and z of a metafile's tiles. Metafiles with one target are assessed together, so stacks are read once."""

    raw: str
    mipmapped: str
    z: float


@dataclass(frozen=True, slots=True)
class _Assessed:
    """A metafile and the proved state of its montage."""

    found: _Found
    settled: Settled | None
    """None if the metafile could not be read."""
    state: MontageState
    evidence: str

    @property
    def is_proved(self) -> bool:
        """Whether stacks and files prove more than NOTICED."""
        return self.state is not MontageState.NOTICED

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Ids of the metafile's tiles; empty if it could not be read."""
        return self.settled.tile_ids if self.settled else ()


@dataclass
class Summary:
    """Contents of a rebuilt journal."""

    states: dict[MontageState, int]
    unclaimed: list[str]
    """Sections whose stack has tiles of no metafile, one sentence each."""

    def count(self, state: MontageState) -> None:
        """Count one more montage in a state."""
        self.states[state] = self.states.get(state, 0) + 1


class Rebuilder:
    """Fills a new journal."""

    def __init__(self, settings: Settings, journal: Journal, client: RenderClient) -> None:
        self._settings = settings
        self._journal = journal
        self._client = client
        self._containers = Containers()
        self._closed: dict[StackId, bool] = {}
        self._summary = Summary({}, [])

    async def run(self) -> Summary:
        """Record every metafile of every watch, and the directories that mipmaps were written to.

        Raises
        ------
        Fault
            If a directory or render-ws cannot be read. Then missing files or tiles prove nothing.
        """
        for directory in {watch.mipmaps.output_dir for watch in self._settings.watch}:
            if await asyncio.to_thread(was_used_for_mipmaps, directory):
                await self._journal.use_for_mipmaps(directory)
        by_target: dict[_Target, list[_Found]] = {}
        for watch in self._settings.watch:
            for found in await asyncio.to_thread(_scan, watch):
                target = await self._target(found)
                if target is None:
                    await self._notice(found)
                else:
                    by_target.setdefault(target, []).append(found)
        for target in sorted(by_target, key=lambda each: (each.raw, each.z)):
            await self._record_all(target, by_target[target])
        return self._summary

    async def _notice(self, found: _Found) -> None:
        montage_id = await self._journal.notice(found.sighting)
        assert montage_id is not None
        name = found.sighting.path.name
        if pattern := next((glob for glob in found.watch.ignore if fnmatchcase(name, glob)), None):
            inspection = Inspection(montage_id, found.sighting.identity)
            await self._journal.ignore(inspection, f"its name matches ignore = {pattern}")
            self._summary.count(MontageState.IGNORED)
        else:
            self._summary.count(MontageState.NOTICED)

    async def _target(self, found: _Found) -> _Target | None:
        """Return the target of the metafile's tiles; None if the metafile is ignored or cannot be read."""
        if any(fnmatchcase(found.sighting.path.name, glob) for glob in found.watch.ignore):
            return None
        read = await self._read(found)
        if read is None:
            return None
        _, settled = read
        return _Target(settled.raw_stack, settled.mipmapped_stack, settled.z)

    async def _read(self, found: _Found) -> tuple[bytes, Settled] | None:
        """Return a metafile's content and its montage; None if settling will ignore or refuse it."""
        try:
            root = await asyncio.to_thread(watch_root, found.watch.directory, self._containers)
            content = await read_metafile(found.sighting.path, root=root)
            return await asyncio.to_thread(self._parse, found, content, root)
        except StorageFault:
            raise
        except Fault:
            return None

    def _parse(self, found: _Found, content: bytes, root: Container) -> tuple[bytes, Settled] | None:
        path, watch = found.sighting.path, found.watch
        acquisition = watch.reader.parse(content, path)
        if acquisition.is_reference and watch.reference_sets == "ignore":
            return None
        acquisition = with_sizes(acquisition, watch.reader.image_directory(path), root)
        digest = hashlib.sha256(content).hexdigest()
        return content, interpret_metafile(acquisition, path, digest, watch, self._settings.render)

    # --- the metafiles of one target

    async def _record_all(self, target: _Target, metafiles: list[_Found]) -> None:
        raw, mipmapped = StackId.parse(target.raw), StackId.parse(target.mipmapped)
        in_raw = await self._tile_specs(raw, target.z)
        in_mipmapped = in_raw if raw == mipmapped else await self._tile_specs(mipmapped, target.z)
        assessed = [await self._assess(found, in_raw, in_mipmapped) for found in metafiles]
        owners = Counter(tile_id for each in assessed if each.is_proved for tile_id in each.tile_ids)
        for each in assessed:
            # If several metafiles have a tile, the stack does not prove from which of them it is.
            await self._record(each, is_sole_owner=all(owners[tile_id] == 1 for tile_id in each.tile_ids))
        claimed = {tile_id for each in assessed for tile_id in each.tile_ids}
        for stack, specs in {raw: in_raw, mipmapped: in_mipmapped}.items():
            if extra := specs.keys() - claimed:
                # They may belong to a replaced content or to another program, so they are not deleted.
                self._summary.unclaimed.append(
                    f"{stack} z {z_text(target.z)} has {len(extra)} tiles that no metafile has; they are kept: "
                    f"{abbreviate(sorted(extra))}"
                )

    async def _assess(self, found: _Found, in_raw: Mapping[str, Json], in_mipmapped: Mapping[str, Json]) -> _Assessed:
        read = await self._read(found)
        if read is None:  # it changed after it was grouped by target
            return _Assessed(found, None, MontageState.NOTICED, "")
        content, settled = read
        section = await asyncio.to_thread(section_from_content, _as_montage(found, settled), found.watch, content)
        return _Assessed(found, settled, *await self._proved_state(section, in_raw, in_mipmapped))

    async def _record(self, assessed: _Assessed, *, is_sole_owner: bool) -> None:
        found, settled = assessed.found, assessed.settled
        if settled is None or not assessed.is_proved or not is_sole_owner:
            await self._notice(found)
        elif await self._journal.restore(found.sighting, settled, assessed.state, assessed.evidence) is None:
            await self._notice(found)  # a montage of other stacks owns some of its tiles
        else:
            self._summary.count(assessed.state)

    async def _proved_state(
        self, section: Section, in_raw: Mapping[str, Json], in_mipmapped: Mapping[str, Json]
    ) -> tuple[MontageState, str]:
        """Return the state that stacks and files prove, and the evidence."""
        plan, tiles = section.watch.mipmap_plan(), section.level0()
        if any(check_tiles(str(section.raw), section.z, section.specs, in_raw, INGEST)):
            return MontageState.NOTICED, ""
        evidence = f"{len(section.specs)} tiles are in {section.raw}"
        if await asyncio.to_thread(absent_levels, tiles, plan):
            return MontageState.INGESTED, evidence
        evidence += f"; their levels 1 to {plan.levels} are in {plan.output_dir}"
        levels = {tile.tile_id: level_uris(tile, plan) for tile in tiles}
        by_builder = section.watch.mipmaps.apply == "path_builder"
        stack = str(section.mipmapped)
        check_names = partial(check_levels_named, stack, levels, in_mipmapped, plan.path_map)
        differences = [
            *check_tiles(stack, section.z, section.specs, in_mipmapped, APPLY),
            *await asyncio.to_thread(lambda: list(check_names(derived=by_builder))),
        ]
        if differences or (by_builder and not await self._has_builder(section.mipmapped, plan.path_builder())):
            return MontageState.MIPMAPPED, evidence
        evidence += f"; the tile specs in {section.mipmapped} contain them"
        if section.watch.stacks.close and not await self._are_closed((section.raw, section.mipmapped)):
            return MontageState.APPLIED, evidence
        return MontageState.COMPLETE, evidence

    async def _has_builder(self, stack: StackId, expected: Mapping[str, object]) -> bool:
        """Whether a stack has the configured path builder."""
        found = await self._client.path_builder(stack)
        return not any(check_path_builder(str(stack), PathBuilder.model_validate(expected), found))

    async def _are_closed(self, stacks: Iterable[StackId]) -> bool:
        for stack in stacks:
            if stack not in self._closed:
                meta = await self._client.stack(stack)
                self._closed[stack] = meta is not None and meta.state in (StackState.COMPLETE, StackState.READ_ONLY)
        return all(self._closed[stack] for stack in stacks)

    async def _tile_specs(self, stack: StackId, z: float) -> dict[str, Json]:
        """Return the tile specs of a stack at a z, by tile id; empty if there is no such stack or z."""
        try:
            tiles = await self._client.resolved_tiles(stack, z)
        except StackMissing:
            return {}
        return dict(tiles.tile_id_to_spec_map) if tiles else {}


def _scan(watch: WatchSettings) -> list[_Found]:
    """Return the metafiles of a watch in order of acquisition. Raises StorageFault if a directory cannot be read."""
    if not watch.directory.is_dir():
        hint = "mount it; a journal rebuilt without it would lack its montages"
        raise StorageFault(str(watch.directory), f"the directory of the watch {watch.name} does not exist", hint)
    tree = Tree(str(watch.directory), NameRule(watch.pattern), follow=watch.reader.follower)
    seen = tree.scan_some((), (str(watch.directory),))
    for directory, why in tree.failures.items():
        raise StorageFault(printable(directory), f"cannot be accessed: {why}", "mount it, or let temwatch read it")
    sightings = [Sighting(watch.name, Path(each.path), each.identity, FoundBy.REBUILD) for each in seen]
    return [_Found(watch, sighting) for sighting in sorted(sightings, key=lambda each: (each.path.name, each.path))]


def _as_montage(found: _Found, settled: Settled) -> Montage:
    """Return the montage that `section_from_content` needs for a metafile."""
    sighting = found.sighting
    return Montage(
        id=0,
        watch=sighting.watch,
        metafile=sighting.path,
        digest=settled.digest,
        identity=sighting.identity,
        acquired=sighting.path.name,
        state=MontageState.SETTLED,
        failed_in=None,
        z=settled.z,
        raw_stack=settled.raw_stack,
        mipmapped_stack=settled.mipmapped_stack,
        tile_count=len(settled.tile_ids),
        findings=settled.findings,
        fault=None,
        waiting_for=None,
        attempt=0,
        crashes=0,
        noticed_at=0.0,
        changed_at=0.0,
        complete_at=None,
    )
