"""`temwatch verify`: reads stacks and mipmap files of COMPLETE montages again, and tells every difference.

It changes nothing, and runs beside the daemon or without one. Of several montages one at a time is in memory.
"""

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.config.load import Settings, WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.replay.lookup import Lookup
from daemon.pipeline.replay.selection import Selection
from daemon.pipeline.steps import Section, section_of
from handlers.acquisition.arrival import read_metafile
from handlers.errors import Fault, SettingsFault, StackMissing
from handlers.mipmaps.plan import level_uris
from handlers.render.client import PathBuilder, RenderClient, ResolvedTiles, StackId, StackState
from handlers.verify import (
    APPLY,
    INGEST,
    Difference,
    Kind,
    check_files,
    check_levels_named,
    check_mask_files,
    check_path_builder,
    check_tiles,
    check_transform,
)

TILES_AT_ONCE = 256
"""Tiles whose files are given to the threads together."""
SOUGHT = 20
"""Missing tiles of a montage that are looked for at another z."""
_STEPS = (INGEST, "mipmaps", APPLY)


@dataclass(frozen=True, slots=True)
class Verified:
    """What became of one montage's verification."""

    montage: Montage
    differences: tuple[Difference, ...]
    tiles: int = 0
    files: int = 0
    """Mipmap files decoded."""
    note: str = ""
    """Why it was not judged, where that is so."""

    @property
    def start(self) -> str | None:
        """The first step of the replay that mends all that a replay can mend."""
        steps = [difference.start for difference in self.differences]
        return next((step for step in _STEPS if step in steps), None)


@dataclass
class Totals:
    """Counts over all montages, and what is to be replayed."""

    montages: int = 0
    tiles: int = 0
    files: int = 0
    differences: int = 0
    not_judged: list[dict[str, Any]] = field(default_factory=list)
    replay: list[dict[str, Any]] = field(default_factory=list)

    def add(self, verified: Verified) -> None:
        """Counts one montage."""
        montage = verified.montage
        if verified.note:
            self.not_judged.append({"metafile": str(montage.metafile), "montage": montage.id, "why": verified.note})
            return
        self.montages += 1
        self.tiles += verified.tiles
        self.files += verified.files
        self.differences += len(verified.differences)
        if verified.differences:
            entry = {"metafile": str(montage.metafile), "montage": montage.id, "from": verified.start}
            self.replay.append(entry)


def difference_json(montage: Montage, difference: Difference) -> dict[str, Any]:
    """A difference as the report holds it."""
    return {
        "metafile": str(montage.metafile),
        "montage": montage.id,
        "z": montage.z,
        "kind": str(difference.kind),
        "tile": difference.tile_id,
        "where": difference.where,
        "what": difference.what,
        "hint": difference.hint,
        "from": difference.start,
    }


def difference_line(montage: Montage, difference: Difference) -> str:
    """A difference for a person: montage, tile, what, and what to do."""
    tile = f"tile {difference.tile_id}: " if difference.tile_id else ""
    where = "" if difference.where == str(montage.metafile) else f"{difference.where}: "
    hint = f"{difference.hint}, from {difference.start}" if difference.start else difference.hint
    return f"{montage.metafile}: {tile}{where}{difference.what} ({hint})"


class Verifier:
    """Verifies one montage after another.

    Parameters
    ----------
    threads : for reading files; decoding takes most of the time.
    """

    def __init__(self, settings: Settings, journal: Journal, client: RenderClient, threads: ThreadPoolExecutor) -> None:
        self._settings = settings
        self._journal = journal
        self._client = client
        self._threads = threads
        self._stacks_told: set[str] = set()

    async def verify(self, montage: Montage) -> Verified:
        """What differs of a COMPLETE montage.

        Raises
        ------
        Fault
            If render-ws or the journal cannot be asked.
        """
        watch = next((watch for watch in self._settings.watch if watch.name == montage.watch), None)
        if watch is None:
            return Verified(montage, (), note=f"its watch {montage.watch} is not in the configuration")
        section = await self._section(montage, watch)
        if isinstance(section, Difference):
            return await self._judged(Verified(montage, (section,)))
        found = [*await self._raw(section), *await self._mipmapped(section), *await self._files(section)]
        files = len(section.metafile.tiles) * watch.mipmaps.levels
        return await self._judged(Verified(montage, tuple(found), len(section.metafile.tiles), files))

    async def _judged(self, verified: Verified) -> Verified:
        """Without its differences if the montage was worked on meanwhile."""
        before = verified.montage
        now = await self._journal.montage(before.id)
        if now is not None and (now.state, now.changed_at) == (before.state, before.changed_at):
            return verified
        return replace(verified, differences=(), note="it was worked on meanwhile; verify it again")

    async def _section(self, montage: Montage, watch: WatchSettings) -> Section | Difference:
        path = str(montage.metafile)
        try:
            if not await asyncio.to_thread(os.path.lexists, path):
                hint = "copy it there again: without it the montage cannot be replayed or verified"
                return Difference(Kind.METAFILE_GONE, None, path, "the metafile is gone", hint, None)
            content = await read_metafile(montage.metafile)
            if hashlib.sha256(content).hexdigest() != montage.digest:
                what = "the metafile holds another content than what was ingested"
                hint = "the running daemon takes it up by itself; or replay it"
                return Difference(Kind.METAFILE_CHANGED, None, path, what, hint, INGEST)
            return await asyncio.to_thread(section_of, montage, watch, content)
        except Fault as fault:
            return Difference(Kind.NOT_CHECKED, None, path, f"the metafile {fault.problem}", fault.hint, None)

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
        named = partial(check_levels_named, str(stack), levels, shown.tile_id_to_spec_map, derived=by_builder)
        found += await asyncio.to_thread(lambda: list(named()))
        return [*found, *await self._state(section, stack)]

    async def _shown(self, stack: StackId, z: float) -> ResolvedTiles | Difference:
        """Tile specs and shared transforms of a z."""
        try:
            return await self._client.resolved_tiles(stack, z) or ResolvedTiles({})
        except StackMissing:
            return Difference(Kind.STACK_MISSING, None, str(stack), "does not exist", "replay it", INGEST)

    async def _tiles(self, section: Section, stack: StackId, shown: ResolvedTiles, start: str) -> list[Difference]:
        tiles, transforms = shown.tile_id_to_spec_map, shown.transform_id_to_spec_map
        checked = partial(check_tiles, str(stack), section.z, section.specs, tiles, start)
        found = await asyncio.to_thread(lambda: list(checked()))
        found += check_transform(str(stack), section.transform, transforms, start)
        missing = [each for each in found if each.kind is Kind.TILE_MISSING]
        elsewhere = {each: await self._elsewhere(stack, each) for each in missing[:SOUGHT]}
        return [elsewhere.get(each) or each for each in found]

    async def _elsewhere(self, stack: StackId, missing: Difference) -> Difference | None:
        assert missing.tile_id is not None
        spec = await self._client.tile(stack, missing.tile_id)
        if spec is None:
            return None
        return replace(missing, kind=Kind.TILE_ELSEWHERE, what=f"{missing.what}, but at z {spec.get('z')}")

    async def _state(self, section: Section, stack: StackId) -> list[Difference]:
        """Whether the stack is closed, told once for each stack. One that is being filled need not be."""
        if str(stack) in self._stacks_told or not section.watch.stacks.close:
            return []
        self._stacks_told.add(str(stack))
        meta = await self._client.stack(stack)
        if meta is None or meta.state in (StackState.COMPLETE, StackState.READ_ONLY):
            return []
        if await self._journal.montages(states=UNFINISHED, stack=str(stack), limit=1):
            return []
        what = f"is {meta.state} and not COMPLETE, though nothing that the journal knows is written to it"
        return [Difference(Kind.STACK_STATE, None, str(stack), what, "see who opened it, or replay", APPLY)]

    # --- files

    async def _files(self, section: Section) -> list[Difference]:
        loop = asyncio.get_running_loop()
        plan, tiles = section.watch.mipmap_plan(), section.level0()
        recorded = await self._journal.images_read(section.montage.id)
        found = await loop.run_in_executor(
            self._threads, check_mask_files, tiles[0], plan, recorded.get(str(tiles[0].mask))
        )
        for first in range(0, len(tiles), TILES_AT_ONCE):
            part = tiles[first : first + TILES_AT_ONCE]
            work = [
                loop.run_in_executor(self._threads, check_files, tile, plan, recorded.get(tile.tile_id))
                for tile in part
            ]
            found += [each for differences in await asyncio.gather(*work) for each in differences]
        return found


@contextlib.asynccontextmanager
async def open_verifier(settings: Settings) -> AsyncIterator[tuple[Verifier, Journal]]:
    """A verifier and the journal that it reads.

    Raises
    ------
    SettingsFault
        If there is no journal, or render-ws lives in the daemon alone.
    """
    if settings.render.embedded:
        problem = "the embedded stand-in lives in the daemon alone and cannot be verified from outside"
        raise SettingsFault("render.url", problem, "run `temwatch standin` and name its URL")
    if not settings.journal.path.exists():
        raise SettingsFault("journal.path", f"{settings.journal.path} is not there", "nothing was ever done with it")
    workers = settings.workers.count or os.cpu_count() or 1
    async with Journal(settings.journal.path, read_only=True) as journal, RenderClient(settings.render.url) as client:
        with ThreadPoolExecutor(workers, thread_name_prefix="verify") as threads:
            yield Verifier(settings, journal, client, threads), journal


async def select(settings: Settings, journal: Journal, selection: Selection) -> list[Montage]:
    """The COMPLETE montages that a selection means."""
    chosen = selection.model_copy(update={"state": selection.state or "complete"})
    candidates = await Lookup(lambda: settings, journal).candidates(chosen)
    montages = [candidate.current for candidate in candidates]
    return [montage for montage in montages if montage is not None and montage.state is MontageState.COMPLETE]


# --- the command


async def verify(settings: Settings, selection: Selection, say: Callable[[str], None], *, as_json: bool) -> int:
    """The command's exit code: 1 if anything differs or could not be judged. Tells each difference as it is found.

    Raises
    ------
    NotSelectable
        If the selection can mean no montage.
    Fault
        If render-ws or the journal cannot be asked.
    """
    totals = Totals()
    tell = _Report(say) if as_json else _Lines(say)
    async with open_verifier(settings) as (verifier, journal):
        montages = await select(settings, journal, selection)
        tell.begin()
        with _bar(len(montages)) as advance:
            for montage in montages:
                verified = await verifier.verify(montage)
                totals.add(verified)
                tell.montage(verified)
                advance()
    tell.end(totals)
    return 1 if totals.differences or totals.not_judged else 0


class _Lines:
    """For a person."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def begin(self) -> None:
        """Nothing to say yet."""

    def montage(self, verified: Verified) -> None:
        """A line for each difference."""
        for difference in verified.differences:
            self._say(difference_line(verified.montage, difference))
        if verified.note:
            self._say(f"{verified.montage.metafile}: not judged: {verified.note}")

    def end(self, totals: Totals) -> None:
        """One line for all."""
        differing = f"{totals.differences} differences in {len(totals.replay)} montages"
        not_judged = f"; {len(totals.not_judged)} not judged" if totals.not_judged else ""
        found = differing if totals.differences else "no difference"
        self._say(f"{totals.montages} montages, {totals.tiles} tiles, {totals.files} mipmap files: {found}{not_judged}")


class _Report(_Lines):
    """For a program, and for `temwatch replay --from-report`: JSON, written as it is found."""

    def begin(self) -> None:
        self._say('{"differences": [')
        self._separator = ""

    def montage(self, verified: Verified) -> None:
        for difference in verified.differences:
            self._say(self._separator + json.dumps(difference_json(verified.montage, difference)))
            self._separator = ","

    def end(self, totals: Totals) -> None:
        rest = {
            "replay": totals.replay,
            "not_judged": totals.not_judged,
            "montages": totals.montages,
            "tiles": totals.tiles,
            "files": totals.files,
        }
        self._say(f"], {json.dumps(rest)[1:]}")


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A bar on the terminal, if there is one: standard output may be a file."""
    console = Console(stderr=True)
    columns = TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)
