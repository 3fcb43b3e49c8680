"""`temwatch journal backup | rebuild`: the journal copied while it is in use, or made anew from what it was about.

A new journal takes nothing on trust: a montage is entered as far as the stacks and the mipmap files prove it to be,
and everything else is NOTICED, which costs time and changes no result, since every step can be repeated.
"""

import asyncio
import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.file import connect_read_only, journal_fault
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Montage, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.section import Section, section_from_content
from daemon.pipeline.settle import settled_of
from daemon.system.locks import JournalHeld, lock_journal
from daemon.watching.scan import NameRule, Tree
from handlers.acquisition.arrival import read_metafile
from handlers.acquisition.parse import parse_metafile
from handlers.errors import Fault, SettingsFault, StackMissing, StorageFault, storage_fault
from handlers.mipmaps.plan import absent_levels, level_uris
from handlers.render.client import PathBuilder, RenderClient, StackId, StackState
from handlers.render.tiles import Json
from handlers.text import abbreviate, printable
from handlers.verify import APPLY, INGEST, check_levels_named, check_path_builder, check_tiles

COMPANIONS = ("", "-wal", "-shm", "-journal")
"""What belongs to a journal, by what follows its name."""


# --- backup


def back_up(journal: Path, target: Path) -> int:
    """Copies the journal while it is in use, under its name only when it is whole; the number of montages in it.

    A file that is there is replaced if it is a journal, and by nothing else.

    Raises
    ------
    NotSelectable
        If the target cannot be meant.
    Fault
        If the journal is not there or not whole, or the copy cannot be written.
    """
    _require_target(journal, target)
    if not journal.exists():
        raise SettingsFault("journal.path", f"{journal} is not there", "nothing was ever done with it")
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with closing(connect_read_only(journal)) as source, closing(sqlite3.connect(unfinished)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever becomes of those beside it
            found = copy.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found.splitlines()[-1])
            montages = int(copy.execute("SELECT count(*) FROM montages").fetchone()[0])
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    except sqlite3.DatabaseError as error:
        raise journal_fault(journal, error) from error
    except OSError as error:
        raise storage_fault(str(target), "write the back-up", error) from error
    finally:
        for companion in COMPANIONS:
            Path(f"{unfinished}{companion}").unlink(missing_ok=True)
    return montages


def _require_target(journal: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise NotSelectable("FILE", f"{printable(target.parent)} is no directory")
    taken = {Path(f"{journal.resolve()}{suffix}") for suffix in (*COMPANIONS, ".lock")}
    if target.resolve() in taken:
        raise NotSelectable("FILE", f"{printable(target)} is the journal itself", "name another file")
    if target.exists() and not _is_journal(target):
        raise NotSelectable("FILE", f"{printable(target)} is there, and is no back-up", "name another file")


def _is_journal(path: Path) -> bool:
    try:
        connect_read_only(path).close()
    except (sqlite3.DatabaseError, Fault):
        return False
    return True


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- rebuilding


@dataclass(frozen=True, slots=True)
class _Found:
    """A metafile on disk."""

    watch: WatchSettings
    sighting: Sighting


@dataclass(frozen=True, slots=True)
class _Layer:
    """Where a metafile's tiles go; those of one layer are judged together, so that it is read once."""

    raw: str
    mipmapped: str
    z: float


@dataclass(frozen=True, slots=True)
class _Judged:
    """A metafile, and how far its montage is proved to be."""

    found: _Found
    settled: Settled | None
    """None if it could not be read."""
    state: MontageState
    evidence: str

    @property
    def is_proved(self) -> bool:
        """Whether stacks and files prove more than that the metafile is there."""
        return self.state is not MontageState.NOTICED

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Ids of the tiles that it names."""
        return self.settled.tile_ids if self.settled else ()


@dataclass
class Tally:
    """What a rebuilt journal holds."""

    states: dict[MontageState, int]
    unclaimed: list[str]
    """Sections whose stack shows tiles that no metafile names, one sentence each."""

    def count(self, state: MontageState) -> None:
        """One more."""
        self.states[state] = self.states.get(state, 0) + 1


async def rebuild(settings: Settings, say: Callable[[str], None]) -> None:
    """Puts a journal made from watches, stacks and mipmap files in the place of the one there, which is kept aside.

    Raises
    ------
    Fault
        If the daemon runs, a watched directory is not there, or render-ws does not answer; the journal is as it was.
    """
    path = settings.journal.path
    if settings.render.embedded:
        raise SettingsFault("render.url", "the embedded stand-in keeps nothing that a journal could be made from")
    try:
        lock = lock_journal(path)
    except JournalHeld as held:
        raise SettingsFault(held.subject, held.problem, "stop the daemon first: systemctl stop temwatch") from held
    with lock:
        unfinished = path.with_name(f".{path.name}.rebuilt")
        _remove(unfinished)
        try:
            async with Journal(unfinished) as journal, RenderClient(settings.render.url) as client:
                tally = await Rebuilder(settings, journal, client).run()
            aside = _exchange(unfinished, path)
        except OSError as error:
            raise storage_fault(str(path), "put the new journal in its place", error) from error
        finally:
            _remove(unfinished)
    counts = ", ".join(f"{tally.states[state]} {state}" for state in MontageState if tally.states.get(state))
    say(f"{path} is made anew: {counts or 'no metafile was found'}")
    for line in tally.unclaimed:
        say(line)
    if aside is not None:
        say(f"the former journal is kept as {aside}")


def _remove(journal: Path) -> None:
    for companion in COMPANIONS:
        Path(f"{journal}{companion}").unlink(missing_ok=True)


def _exchange(new: Path, path: Path) -> Path | None:
    """Puts the new journal in place; where the former one is now, None if there was none.

    What stands beside the former one goes first: SQLite would take its -wal for a part of the new journal. The
    journal's own name is never without a file that was there, so that no daemon begins an empty one.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    aside = path.with_name(f"{path.name}.before-{stamp}")
    for companion in COMPANIONS[1:]:
        if (beside := Path(f"{path}{companion}")).exists():
            beside.rename(f"{aside}{companion}")
    was_there = path.exists()
    if was_there:
        aside.hardlink_to(path)
    new.rename(path)
    _sync(path.parent)
    return aside if was_there else None


class Rebuilder:
    """Fills a new journal."""

    def __init__(self, settings: Settings, journal: Journal, client: RenderClient) -> None:
        self._settings = settings
        self._journal = journal
        self._client = client
        self._closed: dict[StackId, bool] = {}
        self._tally = Tally({}, [])

    async def run(self) -> Tally:
        """Enters every metafile of every watch.

        Raises
        ------
        Fault
            If a directory or render-ws cannot be asked: absence then proves nothing.
        """
        layers: dict[_Layer, list[_Found]] = {}
        for watch in self._settings.watch:
            for found in await asyncio.to_thread(_scan, watch):
                layer = await self._layer(found)
                if layer is None:
                    await self._notice(found)
                else:
                    layers.setdefault(layer, []).append(found)
        for layer in sorted(layers, key=lambda each: (each.raw, each.z)):
            await self._enter_layer(layer, layers[layer])
        return self._tally

    async def _notice(self, found: _Found) -> None:
        montage_id = await self._journal.notice(found.sighting)
        assert montage_id is not None
        name = found.sighting.path.name
        if pattern := next((glob for glob in found.watch.ignore if fnmatchcase(name, glob)), None):
            look = Inspection(montage_id, found.sighting.identity)
            await self._journal.ignore(look, f"its name matches ignore = {pattern}")
            self._tally.count(MontageState.IGNORED)
        else:
            self._tally.count(MontageState.NOTICED)

    async def _layer(self, found: _Found) -> _Layer | None:
        """Where its tiles would be; None if nothing of it can be proved."""
        if any(fnmatchcase(found.sighting.path.name, glob) for glob in found.watch.ignore):
            return None
        settled = await self._settled(found)
        return _Layer(settled.raw_stack, settled.mipmapped_stack, settled.z) if settled else None

    async def _settled(self, found: _Found) -> Settled | None:
        read = await self._read(found)
        return read[1] if read else None

    async def _read(self, found: _Found) -> tuple[bytes, Settled] | None:
        """A metafile's content and what it makes; None if settling will have something to say of it."""
        path = found.sighting.path
        try:
            content = await read_metafile(path)
            return await asyncio.to_thread(self._parse, found, content)
        except StorageFault:
            raise
        except Fault:
            return None

    def _parse(self, found: _Found, content: bytes) -> tuple[bytes, Settled] | None:
        path, watch, render = found.sighting.path, found.watch, self._settings.render
        metafile = parse_metafile(content, str(path))
        if metafile.header.is_reference and watch.reference_sets == "ignore":
            return None
        digest = hashlib.sha256(content).hexdigest()
        return content, settled_of(
            metafile, path, digest, watch, lambda name: StackId(render.owner, render.project, name)
        )

    # --- one layer

    async def _enter_layer(self, layer: _Layer, metafiles: list[_Found]) -> None:
        raw, mipmapped = StackId.parse(layer.raw), StackId.parse(layer.mipmapped)
        in_raw = await self._shown(raw, layer.z)
        in_mipmapped = in_raw if raw == mipmapped else await self._shown(mipmapped, layer.z)
        judged = [await self._judge(found, in_raw, in_mipmapped) for found in metafiles]
        holders = Counter(tile_id for each in judged if each.is_proved for tile_id in each.tile_ids)
        for each in judged:
            # Where several metafiles seem to have made the same tile, none is believed.
            await self._enter(each, is_sole=all(holders[tile_id] == 1 for tile_id in each.tile_ids))
        claimed = {tile_id for each in judged for tile_id in each.tile_ids}
        for stack, shown_tiles in {raw: in_raw, mipmapped: in_mipmapped}.items():
            if extra := shown_tiles.keys() - claimed:
                # Perhaps of a content that was replaced, perhaps somebody else's: nothing here may delete them.
                self._tally.unclaimed.append(
                    f"{stack} z {layer.z:g} shows {len(extra)} tiles that no metafile names, and they are left: "
                    f"{abbreviate(sorted(extra))}"
                )

    async def _judge(self, found: _Found, in_raw: Mapping[str, Json], in_mipmapped: Mapping[str, Json]) -> _Judged:
        read = await self._read(found)
        if read is None:  # it changed since it was sorted into its layer
            return _Judged(found, None, MontageState.NOTICED, "")
        content, settled = read
        section = await asyncio.to_thread(section_from_content, _as_montage(found, settled), found.watch, content)
        return _Judged(found, settled, *await self._proved(section, in_raw, in_mipmapped))

    async def _enter(self, judged: _Judged, *, is_sole: bool) -> None:
        found, settled = judged.found, judged.settled
        if settled is None or not judged.is_proved or not is_sole:
            await self._notice(found)
        elif await self._journal.restore(found.sighting, settled, judged.state, judged.evidence) is None:
            await self._notice(found)  # a montage of another pair of stacks holds tiles of it
        else:
            self._tally.count(judged.state)

    async def _proved(
        self, section: Section, in_raw: Mapping[str, Json], in_mipmapped: Mapping[str, Json]
    ) -> tuple[MontageState, str]:
        """How far the montage has come, as far as that can be seen, and by what."""
        plan, tiles = section.watch.mipmap_plan(), section.level0()
        if any(check_tiles(str(section.raw), section.z, section.specs, in_raw, INGEST)):
            return MontageState.NOTICED, ""
        evidence = f"{len(section.specs)} tiles stand in {section.raw}"
        if await asyncio.to_thread(absent_levels, tiles, plan):
            return MontageState.INGESTED, evidence
        evidence += f"; their levels 1 to {plan.levels} are in {plan.output_dir}"
        levels = {tile.tile_id: level_uris(tile, plan) for tile in tiles}
        by_builder = section.watch.mipmaps.apply == "path_builder"
        stack = str(section.mipmapped)
        named = partial(check_levels_named, stack, levels, in_mipmapped, derived=by_builder)
        unnamed = [
            *check_tiles(stack, section.z, section.specs, in_mipmapped, APPLY),
            *await asyncio.to_thread(lambda: list(named())),
        ]
        if unnamed or (by_builder and not await self._derives(section.mipmapped, plan.path_builder())):
            return MontageState.MIPMAPPED, evidence
        evidence += f"; {section.mipmapped} names them"
        if section.watch.stacks.close and not await self._are_closed((section.raw, section.mipmapped)):
            return MontageState.APPLIED, evidence
        return MontageState.COMPLETE, evidence

    async def _derives(self, stack: StackId, builder: Mapping[str, object]) -> bool:
        found = await self._client.path_builder(stack)
        return not any(check_path_builder(str(stack), PathBuilder.model_validate(builder), found))

    async def _are_closed(self, stacks: Iterable[StackId]) -> bool:
        for stack in stacks:
            if stack not in self._closed:
                meta = await self._client.stack(stack)
                self._closed[stack] = meta is not None and meta.state in (StackState.COMPLETE, StackState.READ_ONLY)
        return all(self._closed[stack] for stack in stacks)

    async def _shown(self, stack: StackId, z: float) -> dict[str, Json]:
        try:
            layer = await self._client.resolved_tiles(stack, z)
        except StackMissing:
            return {}
        return dict(layer.tile_id_to_spec_map) if layer else {}


def _scan(watch: WatchSettings) -> list[_Found]:
    """The metafiles of a watch in order of acquisition. Raises StorageFault if a directory cannot be looked at."""
    if not watch.directory.is_dir():
        hint = "mount it; a journal made without it would not know its montages"
        raise StorageFault(str(watch.directory), f"the directory of the watch {watch.name} is not there", hint)
    tree = Tree(str(watch.directory), NameRule(watch.pattern))
    seen = tree.look_at((), (str(watch.directory),))
    for directory, why in tree.failures.items():
        raise StorageFault(printable(directory), f"cannot be looked at: {why}", "mount it, or let temwatch read it")
    sightings = [Sighting(watch.name, Path(each.path), each.identity, FoundBy.REBUILD) for each in seen]
    return [_Found(watch, sighting) for sighting in sorted(sightings, key=lambda each: (each.path.name, each.path))]


def _as_montage(found: _Found, settled: Settled) -> Montage:
    """The montage that the metafile would be, for reading its section."""
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
