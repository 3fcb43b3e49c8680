"""Notices images that change after their mipmaps were made: a copy that stalled, a tile that is acquired again.

The images of a montage are looked at when its stack is closed, and at growing intervals for a stated time after it is
COMPLETE. A look costs one `open` of each image; only one whose identity is another is read, and its digest decides. The
mipmaps of those that changed are made again. An image that is gone, or a mount that does not answer, is no change.
"""

import asyncio
import hashlib
import heapq
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import IllegalTransition, MontageState
from daemon.system.threads import in_thread
from handlers.acquisition.arrival import metafile_content
from handlers.acquisition.image_names import image_path
from handlers.acquisition.parse import parse_metafile
from handlers.acquisition.tilespec import tile_ids_for
from handlers.errors import Fault, storage_fault
from handlers.identity import FileIdentity
from handlers.images.digest import FileContent, content_of
from handlers.regular_file import NotRegular, open_regular

log = structlog.get_logger()

RESUME_AGAIN_S = 1.0
"""Pause before the journal is asked again for what the last process watched."""
FIRST_LOOK_S = 5.0
"""After a montage is COMPLETE."""
GROWTH = 3.0
"""From one look to the next."""
AWAY_S = 60.0
"""Until a watch that could not be looked at is looked at again."""
STUCK_S = 60.0
"""A look that takes longer, and a tenth of a second for each image, is left to itself: its file server is dead."""
AT_CLOSING_S = 30.0
"""How long closing a stack waits for the looks at the images of its montages, in all."""
AT_ONCE = 4
"""Montages of one watch that are looked at at once when a stack is closed."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look at the images of a montage found."""

    changed: Mapping[str, str] = field(default_factory=dict)
    """Tile id -> name of its image."""
    same: Mapping[str, FileContent] = field(default_factory=dict)
    """Images of another identity that hold the same bytes."""


def look_at_images(
    metafile: Path, digest: str | None, watch: WatchSettings, z: float, contents: Mapping[str, FileContent]
) -> Seen:
    """Return which images are not what they were when they were read. Blocking.

    Raises
    ------
    Fault
        If the metafile is gone or holds something else, or its images cannot be looked at.
    """
    content = metafile_content(metafile)
    if hashlib.sha256(content).hexdigest() != digest:
        return Seen()  # it makes a montage of its own
    parsed = parse_metafile(content, str(metafile))
    ids = tile_ids_for(parsed, z, watch.tilespec_options())
    paths = {
        tile_id: image_path(metafile.parent, tile.img_path) for tile_id, tile in zip(ids, parsed.tiles, strict=True)
    }
    mask = watch.tilespecs.mask
    return _changed(contents, paths | ({str(mask): Path(mask)} if mask else {}))


def _changed(contents: Mapping[str, FileContent], paths: Mapping[str, Path]) -> Seen:
    changed: dict[str, str] = {}
    same: dict[str, FileContent] = {}
    for tile_id, before in contents.items():
        path = paths.get(tile_id)
        if path is None:
            continue  # the settings make other tile ids now
        try:
            now = _content_unless(path, before)
        except (FileNotFoundError, NotADirectoryError):
            continue  # absence is no change: its mount may be gone
        except NotRegular:
            changed[tile_id] = path.name
            continue
        except OSError as error:
            raise storage_fault(str(path), "look at the image", error) from error
        if now is not None and now.digest == before.digest:
            same[tile_id] = now
        elif now is not None:
            changed[tile_id] = path.name
    return Seen(changed, same)


def _content_unless(path: Path, before: FileContent) -> FileContent | None:
    """The content of a file; None, and it is not read, if its identity is as before.

    The file is opened: that makes the client of a file server ask for its attributes anew.
    """
    descriptor, status = open_regular(path)
    try:
        is_same = FileIdentity.of(status).matches(before.identity)
        return None if is_same else content_of(descriptor)
    finally:
        os.close(descriptor)


def next_look_s(age_s: float, until_s: float) -> float | None:
    """Return the age at which a COMPLETE montage is looked at next, the last time at `until_s`; None after that.

    >>> [next_look_s(age_s, 3600) for age_s in (0, 5, 100, 2000, 3600)]
    [5.0, 15.0, 135.0, 3600, None]
    """
    if age_s >= until_s:
        return None
    due_s = FIRST_LOOK_S
    while due_s <= age_s:
        due_s *= GROWTH
    return min(due_s, until_s)


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A montage whose images are to be looked at. Times are seconds of one monotonic clock."""

    at: float
    montage_id: int
    watch: str = field(compare=False)
    complete_at: float = field(compare=False)


class LateChanges:
    """Looks at images again, and has the mipmaps of those that changed made again.

    Parameters
    ----------
    is_observable : whether a watch's directory can be looked at now.
    on_change : called with a montage whose images changed, which is to be put in line.
    clock : monotonic seconds.
    wall_clock : seconds since 1970, for how long a montage has been COMPLETE at a restart.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        *,
        is_observable: Callable[[str], bool],
        on_change: Callable[[Montage], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._is_observable = is_observable
        self._on_change = on_change
        self._clock = clock
        self._wall_clock = wall_clock
        self._due: list[_Due] = []
        self._stuck: dict[str, asyncio.Future[Seen]] = {}
        self._busy: set[str] = set()
        self._changed = asyncio.Event()

    def watch(self, montage: Montage) -> None:
        """Looks at the images of a montage from now on, which is COMPLETE."""
        self._enqueue(montage.id, montage.watch, self._clock(), self._clock())

    async def run(self) -> None:
        """Looks at images as they fall due, those of montages that the last process watched among them."""
        while not await self._is_resumed():  # noqa: ASYNC110  nothing says that the journal can be asked again
            await asyncio.sleep(RESUME_AGAIN_S)
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for watch, due in self._take_due().items():
                    group.create_task(self._look_in_turn(watch, due), name=f"images of {watch}")
                timeout_s = max(0.0, self._due[0].at - self._clock()) if self._due else None
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def look_before_complete(self, montages: Collection[Montage]) -> None:
        """Looks at the images of APPLIED montages whose stack was closed; those that changed are APPLIED no longer.

        What cannot be looked at in time is looked at once the montages are COMPLETE.
        """
        if not montages:
            return
        slots = asyncio.Semaphore(AT_ONCE)

        async def look(montage: Montage) -> None:
            async with slots:
                if montage.watch not in self._stuck and self._is_observable(montage.watch):
                    await self._look(montage)

        looks = [asyncio.create_task(look(montage), name=f"images of {montage.id}") for montage in montages]
        try:
            await asyncio.wait(looks, timeout=AT_CLOSING_S)
        finally:
            for each in looks:
                each.cancel()
            for bug in await asyncio.gather(*looks, return_exceptions=True):
                if isinstance(bug, Exception):  # it would keep the stack from being closed
                    log.error("images.bug", exc_info=bug)

    # --- when

    async def _is_resumed(self) -> bool:
        try:
            await self._resume()
        except Exception:  # it would end the daemon
            log.exception("images.bug")
            return False
        return True

    async def _resume(self) -> None:
        """Takes over what the last process watched. The wall clock, which may be set, is asked once."""
        now, wall = self._clock(), self._wall_clock()
        for montage_id, watch, complete_at in await self._journal.watched_images():
            age_s = max(0.0, wall - complete_at)
            self._enqueue(montage_id, watch, now - age_s, now, at_once=True)

    def _enqueue(self, montage_id: int, watch: str, complete_at: float, now: float, *, at_once: bool = False) -> None:
        settings = self._watch(watch)
        until_s = settings.recheck_images_for_s if settings else 0.0
        due_s = next_look_s(now - complete_at, until_s)
        if until_s == 0 or (due_s is None and not at_once):
            return
        at = now + FIRST_LOOK_S if due_s is None or at_once else complete_at + due_s
        heapq.heappush(self._due, _Due(at, montage_id, watch, complete_at))
        self._changed.set()

    def _take_due(self) -> dict[str, list[_Due]]:
        """What is due now by watch; of a watch that is being looked at nothing is taken."""
        taken: defaultdict[str, list[_Due]] = defaultdict(list)
        kept: list[_Due] = []
        while self._due and self._due[0].at <= self._clock():
            due = heapq.heappop(self._due)
            (kept if due.watch in self._busy else taken[due.watch]).append(due)
        for due in kept:
            heapq.heappush(self._due, _Due(self._clock() + 1.0, due.montage_id, due.watch, due.complete_at))
        return taken

    def _watch(self, name: str) -> WatchSettings | None:
        return next((watch for watch in self._settings().watch if watch.name == name), None)

    # --- looks

    async def _look_in_turn(self, watch: str, due: Sequence[_Due]) -> None:
        self._busy.add(watch)
        try:
            for each in due:
                await self._look_when_due(each)
        finally:
            self._busy.discard(watch)

    async def _look_when_due(self, due: _Due) -> None:
        try:
            await self._attend(due)
        except Exception:  # it would end the daemon
            log.exception("images.bug", montage=due.montage_id)
            self._look_later(due)

    def _look_later(self, due: _Due) -> None:
        heapq.heappush(self._due, _Due(self._clock() + AWAY_S, due.montage_id, due.watch, due.complete_at))

    async def _attend(self, due: _Due) -> None:
        montage = await self._journal.montage(due.montage_id)
        watch = self._watch(due.watch)
        if montage is None or montage.state is not MontageState.COMPLETE or watch is None:
            return  # it is watched anew when it is COMPLETE again
        is_there = due.watch not in self._stuck and self._is_observable(due.watch)
        seen = is_there and await self._look(montage)
        if is_there and self._clock() - due.complete_at >= watch.recheck_images_for_s:
            await self._journal.end_watching_images(montage.id)
        elif seen:
            self._enqueue(montage.id, due.watch, due.complete_at, self._clock())
        else:
            self._look_later(due)

    async def _look(self, montage: Montage) -> bool:
        """Whether the images could be looked at. What changed is journaled, and put in line."""
        contents = await self._journal.images_read(montage.id)
        watch = self._watch(montage.watch)
        if not contents or watch is None or montage.z is None:
            return True
        look = partial(look_at_images, montage.metafile, montage.digest, watch, montage.z, contents)
        seen = await self._within(montage, look, STUCK_S + len(contents) / 10)
        if seen is None:
            return False
        if seen.same:
            await self._journal.adopt_images(montage.id, seen.same)
        if seen.changed:
            await self._take(montage, seen.changed)
        return True

    async def _within(self, montage: Montage, look: Callable[[], Seen], time_s: float) -> Seen | None:
        """What a look finds in a thread of its own; None if it cannot look, or is not back in time."""
        looking = in_thread(look, f"images of {montage.id}")
        try:
            async with asyncio.timeout(time_s):
                return await asyncio.shield(looking)
        except TimeoutError:
            self._leave(montage.watch, looking)
        except Fault as fault:
            log.info("images.not_looked_at", montage=montage.id, fault=str(fault))
        except asyncio.CancelledError:
            self._leave(montage.watch, looking)
            raise
        return None

    def _leave(self, watch: str, looking: "asyncio.Future[Seen]") -> None:
        """Leaves a look to itself; the watch is not looked at before it has ended."""
        self._stuck[watch] = looking

        def ended(look: "asyncio.Future[Seen]") -> None:
            self._stuck.pop(watch, None)
            if not look.cancelled():
                look.exception()

        looking.add_done_callback(ended)

    async def _take(self, montage: Montage, changed: Mapping[str, str]) -> None:
        try:
            following = await self._journal.change_images(montage.id, changed)
        except (IllegalTransition, LookupError):  # superseded or replayed meanwhile
            return
        log.warning(
            "image.changed",
            montage=montage.id,
            metafile=str(montage.metafile),
            z=montage.z,
            images=len(set(changed.values())),
            first=min(changed.values()),
        )
        await self._on_change(following)
