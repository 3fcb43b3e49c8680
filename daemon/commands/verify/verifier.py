"""Verify one COMPLETE montage: read its stacks and mipmap files again. Changes nothing."""

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED
from daemon.pipeline.steps.section import Section, section_from_content
from handlers.acquisition.arrival import read_metafile
from handlers.acquisition.presence import metafile_exists
from handlers.difference import APPLY, INGEST, MIPMAPS, Difference, Kind
from handlers.errors import Fault, StackMissing
from handlers.mipmaps.plan import MipmapPlan, level_uris
from handlers.quality.packing import unpack
from handlers.render.client import RenderClient
from handlers.render.layer_responses import ResolvedTiles
from handlers.render.names import StackId
from handlers.render.responses import PathBuilder, StackState
from handlers.verify import (
    check_files,
    check_levels_named,
    check_mask_files,
    check_path_builder,
    check_tiles,
    check_transform,
)

TILES_AT_ONCE = 256
"""Number of tiles whose files the threads check in one batch."""
MAX_SEARCHED = 20
"""Largest number of missing tiles of a montage that are searched for at another z."""
_STEPS = (INGEST, MIPMAPS, APPLY)
_NO_DIGEST = "they were made by an older temwatch, or with other settings: replay it"


@dataclass(frozen=True, slots=True)
class Verified:
    """Outcome of one montage's verification."""

    montage: Montage
    differences: tuple[Difference, ...]
    tiles: int = 0
    files: int = 0
    """Number of decoded mipmap files."""
    not_checked_because: str = ""
    """Why the montage was not checked; empty if it was."""

    @property
    def start(self) -> str | None:
        """First step of the replay that repairs all differences that a replay can repair; None if there are none."""
        steps = [difference.start for difference in self.differences]
        return next((step for step in _STEPS if step in steps), None)


class Verifier:
    """Verifies one montage at a time.

    Parameters
    ----------
    threads : threads that read and decode files, which takes most of the time.
    deep : whether all files are also compared with the recorded digests of their bytes.
    """

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        client: RenderClient,
        threads: ThreadPoolExecutor,
        *,
        deep: bool = False,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._client = client
        self._threads = threads
        self._deep = deep
        self._stacks_checked: set[str] = set()

    async def verify(self, montage: Montage) -> Verified:
        """Return the differences of a COMPLETE montage.

        Raises
        ------
        Fault
            If render-ws or the journal does not respond.
        """
        watch = next((watch for watch in self._settings.watch if watch.name == montage.watch), None)
        if watch is None:
            return Verified(montage, (), not_checked_because=f"its watch {montage.watch} is not in the configuration")
        section = await read_section(montage, watch)
        if isinstance(section, Difference):
            return await self._if_unchanged(Verified(montage, (section,)))
        found = [*await self._raw(section), *await self._mipmapped(section), *await self._files(section)]
        files = len(section.acquisition.tiles) * watch.mipmaps.levels
        return await self._if_unchanged(Verified(montage, tuple(found), len(section.acquisition.tiles), files))

    async def _if_unchanged(self, verified: Verified) -> Verified:
        """Discard the differences if the montage changed meanwhile."""
        before = verified.montage
        now = await self._journal.montage(before.id)
        if now is not None and (now.state, now.changed_at) == (before.state, before.changed_at):
            return verified
        return replace(verified, differences=(), not_checked_because="it changed meanwhile; verify it again")

    # --- stacks

    async def _raw(self, section: Section) -> list[Difference]:
        if section.raw == section.mipmapped:
            return []
        shown = await self._shown(section.raw, section.z)
        if isinstance(shown, Difference):
            return [shown]
        found = await self._tiles(section, section.raw, shown, INGEST)
        return [*found, *await self._state(section, section.raw)]

    async def _mipmapped(self, section: Section) -> list[Difference]:
        stack, z = section.mipmapped, section.z
        shown = await self._shown(stack, z)
        start = INGEST if section.raw == stack else APPLY
        if isinstance(shown, Difference):
            return [replace(shown, start=start)]
        plan = section.watch.mipmap_plan()
        by_builder = section.watch.mipmaps.apply == "path_builder"
        found = await self._tiles(section, stack, shown, start)
        if by_builder:
            builder = PathBuilder.model_validate(plan.path_builder())
            found += check_path_builder(str(stack), builder, await self._client.path_builder(stack))
        levels = {tile.tile_id: level_uris(tile, plan) for tile in section.level0()}
        named = partial(check_levels_named, str(stack), levels, shown.tile_id_to_spec_map, plan.path_map)
        found += await asyncio.to_thread(lambda: list(named(derived=by_builder)))
        return [*found, *await self._state(section, stack)]

    async def _shown(self, stack: StackId, z: float) -> ResolvedTiles | Difference:
        """Return the tile specs and shared transforms of a z, or the difference if the stack is missing."""
        try:
            return await self._client.resolved_tiles(stack, z) or ResolvedTiles({})
        except StackMissing:
            return Difference(Kind.STACK_MISSING, None, str(stack), "does not exist", "replay it", INGEST)

    async def _tiles(self, section: Section, stack: StackId, shown: ResolvedTiles, start: str) -> list[Difference]:
        tiles, transforms = shown.tile_id_to_spec_map, shown.transform_id_to_spec_map
        checked = partial(check_tiles, str(stack), section.z, section.specs, tiles, start)
        found = await asyncio.to_thread(lambda: list(checked()))
        found += check_transform(str(stack), section.transform, transforms, start)
        missing = [difference for difference in found if difference.kind is Kind.TILE_MISSING]
        elsewhere = {difference: await self._elsewhere(stack, difference) for difference in missing[:MAX_SEARCHED]}
        return [elsewhere.get(difference) or difference for difference in found]

    async def _elsewhere(self, stack: StackId, missing: Difference) -> Difference | None:
        """Search for a missing tile at another z; return the difference if it is there, otherwise None."""
        assert missing.tile_id is not None
        spec = await self._client.tile(stack, missing.tile_id)
        if spec is None:
            return None
        return replace(missing, kind=Kind.TILE_ELSEWHERE, what=f"{missing.what}, but at z {spec.get('z')}")

    async def _state(self, section: Section, stack: StackId) -> list[Difference]:
        """Check once for each stack that it is closed, unless it has unfinished montages."""
        if str(stack) in self._stacks_checked or not section.watch.stacks.close:
            return []
        self._stacks_checked.add(str(stack))
        meta = await self._client.stack(stack)
        if meta is None or meta.state in (StackState.COMPLETE, StackState.READ_ONLY):
            return []
        if await self._journal.montages(states=UNFINISHED, stack=str(stack), limit=1):
            return []
        what = f"is {meta.state}, expected COMPLETE: no unfinished montage of the journal writes to it"
        return [
            Difference(Kind.STACK_STATE, None, str(stack), what, "find the program that opened it, or replay", APPLY)
        ]

    # --- files

    async def _files(self, section: Section) -> list[Difference]:
        loop = asyncio.get_running_loop()
        plan, tiles = section.watch.mipmap_plan(), section.level0()
        recorded = await self._journal.images_read(section.montage.id)
        digests = await recorded_digests(self._journal, section, plan) if self._deep else {}
        found = await loop.run_in_executor(
            self._threads, check_mask_files, tiles[0], plan, recorded.get(str(tiles[0].mask))
        )
        for first in range(0, len(tiles), TILES_AT_ONCE):
            part = tiles[first : first + TILES_AT_ONCE]
            work = [
                loop.run_in_executor(
                    self._threads,
                    partial(check_files, deep=self._deep),
                    *(tile, plan, recorded.get(tile.tile_id), digests.get(tile.tile_id)),
                )
                for tile in part
            ]
            found += [difference for differences in await asyncio.gather(*work) for difference in differences]
        if self._deep and len(digests) < len(tiles):
            what = f"the level files of {len(tiles) - len(digests)} tiles have no recorded digest"
            found.append(Difference(Kind.NOT_CHECKED, None, str(section.montage.metafile), what, _NO_DIGEST, MIPMAPS))
        return found


async def read_section(montage: Montage, watch: WatchSettings) -> Section | Difference:
    """Return the section of a settled montage, or the difference if its metafile cannot be used."""
    path = str(montage.metafile)
    try:
        if not await asyncio.to_thread(metafile_exists, montage.metafile):
            hint = "copy it there again: without it the montage cannot be replayed or verified"
            return Difference(Kind.METAFILE_GONE, None, path, "the metafile is gone", hint, None)
        content = await read_metafile(montage.metafile)
        if hashlib.sha256(content).hexdigest() != montage.digest:
            what = "the metafile has another content than the one that was ingested"
            hint = "a running daemon ingests it automatically; without a daemon, replay it"
            return Difference(Kind.METAFILE_CHANGED, None, path, what, hint, INGEST)
        return await asyncio.to_thread(section_from_content, montage, watch, content)
    except Fault as fault:
        return Difference(Kind.NOT_CHECKED, None, path, f"the metafile {fault.problem}", fault.hint, None)


async def recorded_digests(journal: Journal, section: Section, plan: MipmapPlan) -> Mapping[str, bytes]:
    """Return the digest over each tile's level files, by tile id; empty if unknown or if the plan's levels changed."""
    numbers = await journal.quality_numbers(section.montage.id)
    if numbers is None:
        return {}
    quality = await asyncio.to_thread(unpack, numbers)
    return quality.level_digests if quality.levels == plan.levels else {}
