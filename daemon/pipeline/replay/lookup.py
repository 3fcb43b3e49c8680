"""Find the metafiles of a selection: in the journal, and on disk if it has paths."""

import asyncio
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.replay.selection import Candidate, OnDisk, Place, Selection, is_glob, is_selected, parse_since
from daemon.pipeline.settling.metafile_cache import content_digest
from daemon.watching.mounts import is_within
from daemon.watching.scan import NameRule, Tree
from handlers.acquisition.arrival import read_metafile
from handlers.acquisition.presence import find_metafile, metafile_exists
from handlers.acquisition.section_path import file_of
from handlers.acquisition.z import z_for
from handlers.errors import Fault, SettingsFault, StorageFault
from handlers.identity import FileIdentity
from handlers.text import printable

UNLIMITED = 10**9
"""Limit of a query of the journal that has to return all rows."""
CONCURRENT_READS = 8
"""Number of metafiles that are read at the same time."""


class NotSelectable(SettingsFault):
    """An invalid selection; the subject is the parameter."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Root:
    """A watch's directory and its path with symbolic links resolved."""

    watch: WatchSettings
    directory: str
    real: str

    @classmethod
    def of(cls, watch: WatchSettings) -> "Root":
        return cls(watch, str(watch.directory), os.path.realpath(watch.directory))

    def resolve(self, path: str) -> str:
        """Return the resolved path of a path below the directory, below which the watcher follows no links."""
        return self.real + path.removeprefix(self.directory)

    def unresolve(self, real: str) -> str:
        """Return the path below the directory for a resolved path."""
        return self.directory + real.removeprefix(self.real)

    def stem(self, place: Place) -> str | None:
        """Return the path in the directory that contains everything that the place covers; None if nothing is there."""
        if is_within(place.stem, self.real):
            return self.unresolve(place.stem)
        return self.directory if is_within(self.real, place.stem) else None


class Lookup:
    """Finds the metafiles that a selection matches.

    Parameters
    ----------
    journal : None if there is none yet; then every metafile on disk is unknown.
    """

    def __init__(self, settings: Callable[[], Settings], journal: Journal | None) -> None:
        self._settings = settings
        self._journal = journal

    async def candidates(self, selection: Selection) -> list[Candidate]:
        """Return the selected metafiles in order of acquisition, each with its rows and its file.

        Raises
        ------
        NotSelectable
            If a path is outside of every watch, is not a metafile, or neither exists nor is in the journal.
        StorageFault
            If a directory cannot be accessed.
        """
        since = parse_since(selection.since, datetime.now().astimezone()) if selection.since else None
        since_s = since.timestamp() if since else None
        roots = await asyncio.to_thread(lambda: [Root.of(watch) for watch in self._settings().watch])
        if selection.paths:
            found = await self._by_path(selection, roots)
        else:
            found = await self._by_state(selection)
        slots = asyncio.Semaphore(CONCURRENT_READS)

        async def judged(candidate: Candidate) -> Candidate | None:
            async with slots:
                if not is_selected(candidate, selection, since_s):
                    return None
                whole = await self._read(candidate, want_z=bool(selection.z))
                return whole if is_selected(whole, selection, since_s) else None

        quick = [await self._identify(candidate, want_z=bool(selection.z)) for candidate in found]
        chosen = await asyncio.gather(*(judged(candidate) for candidate in quick))
        return sorted(filter(None, chosen), key=lambda each: (each.metafile.name, each.metafile))

    # --- candidates

    async def _by_state(self, selection: Selection) -> list[Candidate]:
        if self._journal is None:
            return []
        states = {
            None: [MontageState.FAILED],
            "failed": [MontageState.FAILED],
            "complete": [MontageState.COMPLETE],
            "dismissed": [MontageState.DISMISSED],
            "all": [*UNFINISHED, MontageState.FAILED, MontageState.COMPLETE],
        }[selection.state]
        rows = await self._journal.montages(states=states, limit=UNLIMITED)
        wanted = {row.metafile: row.watch for row in rows if not selection.z or row.z in selection.z}
        known = {path: await self._known(path) for path in wanted}
        return [self._candidate(watch, path, known[path], named=False) for path, watch in wanted.items()]

    async def _by_path(self, selection: Selection, roots: list[Root]) -> list[Candidate]:
        places = await asyncio.to_thread(lambda: [(text, place_of(text)) for text in selection.paths])
        found: dict[Path, Candidate] = {}
        for text, place in places:
            met = 0
            stems = [(root, stem) for root in roots if (stem := root.stem(place)) is not None]
            if not stems:
                watched = ", ".join(f"{root.watch.name} ({root.directory})" for root in roots)
                raise NotSelectable("PATH", f"{printable(text)} is not in a watched directory", f"watched: {watched}")
            for root, stem in stems:
                covered = await self._covered(root, stem, place)
                met += len(covered)
                for path in covered:
                    if path not in found or place.path == root.resolve(str(path)):
                        named = place.path == root.resolve(str(path))
                        found[path] = self._candidate(root.watch.name, path, await self._known(path), named=named)
            if not met and not place.is_glob:
                await asyncio.to_thread(_require_metafile_path, text, place.path, stems[0][0].watch)
        return list(found.values())

    async def _covered(self, root: Root, stem: str, place: Place) -> list[Path]:
        on_disk = await asyncio.to_thread(_metafiles, root, stem)
        journaled: list[Montage] = []
        if self._journal is not None:
            journaled = await self._journal.montages(below=Path(stem), limit=UNLIMITED)
            journaled += await self._journal.montages(metafile=Path(stem), limit=UNLIMITED)
        paths = dict.fromkeys([*(Path(path) for path in on_disk), *(row.metafile for row in journaled)])
        return [path for path in paths if place.covers(root.resolve(str(path)))]

    async def _known(self, path: Path) -> tuple[Montage, ...]:
        if self._journal is None:
            return ()
        return tuple(await self._journal.montages(metafile=path, limit=UNLIMITED, newest_first=True))

    def _candidate(self, watch: str, path: Path, known: tuple[Montage, ...], *, named: bool) -> Candidate:
        settings = self._watch(watch)
        patterns = settings.ignore if settings else ()
        ignored_by = next((pattern for pattern in patterns if fnmatchcase(path.name, pattern)), None)
        return Candidate(watch, path, known, None, named, ignored_by)

    def _watch(self, name: str) -> WatchSettings | None:
        return next((watch for watch in self._settings().watch if watch.name == name), None)

    # --- files

    async def _identify(self, candidate: Candidate, *, want_z: bool) -> Candidate:
        """Return the candidate with the file's identity and digest. Only a file with an unknown identity is read."""
        found = await asyncio.to_thread(_stat, candidate.metafile)
        if found is None:
            return candidate
        same = [row for row in candidate.known if row.identity.matches(found.identity)]
        if same:
            return replace(candidate, on_disk=replace(found, digest=same[0].digest))
        return await self._read(replace(candidate, on_disk=found), want_z=want_z)

    async def _read(self, candidate: Candidate, *, want_z: bool) -> Candidate:
        found = candidate.on_disk
        if found is None or found.unreadable:
            return candidate
        try:
            content = await read_metafile(candidate.metafile)
        except Fault as fault:
            return replace(candidate, on_disk=replace(found, unreadable=f"{fault.problem} ({fault.hint})"))
        digest = await content_digest(content)
        watch = self._watch(candidate.watch)
        z = None
        if want_z and not candidate.known and watch is not None:
            z = await asyncio.to_thread(_z_of, candidate.metafile, content, watch)
        return replace(candidate, on_disk=replace(found, digest=digest, z=z))


def place_of(text: str) -> Place:
    """Return the place that a path names. An existing path is taken literally, even if it contains wildcards."""
    if not is_glob(text) or metafile_exists(Path(text)):
        return Place(os.path.realpath(text), is_glob=False)
    stem = Place(os.path.normpath(text), is_glob=True).stem
    rest = os.path.normpath(text).removeprefix(stem).lstrip("/")
    return Place(os.path.join(os.path.realpath(stem), rest), is_glob=True)  # noqa: PTH118  text with wildcards


def _require_metafile_path(text: str, real: str, watch: WatchSettings) -> None:
    if not metafile_exists(Path(real)):
        raise NotSelectable("PATH", f"{printable(text)} does not exist, and the journal knows no metafile there")
    if not Path(real).is_dir():
        raise NotSelectable(
            "PATH",
            f"{printable(text)} is not a metafile of the watch {watch.name}: its name does not match {watch.pattern}",
        )


def _metafiles(root: Root, stem: str) -> list[str]:
    """Return the paths of the metafiles at and below a path in a watch's directory."""
    path, follower = Path(stem), root.watch.reader.follower
    if not path.is_dir():
        if follower and path.is_file() and fnmatchcase(path.name, root.watch.pattern):
            return [section for section, _ in follower().sections(stem)]
        return [stem] if fnmatchcase(file_of(path).name, root.watch.pattern) and metafile_exists(path) else []
    tree = Tree(root.directory, NameRule(root.watch.pattern), follow=follower)
    found = tree.scan_some((), (stem,))
    for directory, why in tree.failures.items():
        raise StorageFault(printable(directory), f"cannot be accessed: {why}", "mount it, or let temwatch read it")
    return [each.path for each in found]


def _stat(path: Path) -> OnDisk | None:
    try:
        found = find_metafile(path)
    except OSError as error:
        return OnDisk(FileIdentity(0, 0, None, 0), None, unreadable=f"cannot be accessed: {error.strerror}")
    if found is None:
        return None
    unreadable = "" if stat.S_ISREG(found.mode) else "is not a regular file; links and devices are not read"
    return OnDisk(found.identity, None, unreadable=unreadable)


def _z_of(path: Path, content: bytes, watch: WatchSettings) -> float | None:
    """Return the z that the metafile will have; None if it has none."""
    try:
        return z_for(watch.reader.parse(content, path), path, watch.to_z_rule())
    except Fault:
        return None
