"""Find images that change after their mipmaps were made, for example by a stalled copy or a repeated tile.

The images of a montage are checked when its stack is closed, and at growing intervals for `recheck_images_for_s` after
it is COMPLETE. The mipmaps of changed images are made again. At the same times its tiles are compared, if a late upload
of a former content may have replaced them.
"""

import asyncio
import heapq
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from daemon.config.settings import Settings
from daemon.config.watch_settings import WatchSettings
from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.montages.states import IllegalTransition, MontageState
from daemon.pipeline.changes.compare_images import ImageComparison, compare_images
from handlers.container import Containers
from handlers.errors import Fault

log = structlog.get_logger()

RESUME_RETRY_S = 1.0
"""Pause before the query for the montages of the previous process is retried."""
FIRST_CHECK_S = 5.0
"""Time from COMPLETE to the first check."""
GROWTH = 3.0
"""Ratio of successive ages at which a montage is checked."""
INACCESSIBLE_RETRY_S = 60.0
"""Pause before a montage that could not be checked is checked again."""
BUSY_RETRY_S = 1.0
"""Pause before a montage is checked if its watch is being checked now."""
STUCK_S = 60.0
"""Time-out of a check, plus 0.1 s for each image. A check that takes longer is abandoned."""
BEFORE_COMPLETE_S = 30.0
"""Longest wait of a close for the checks of all its montages."""
CHECKS_AT_ONCE = 4
"""Number of montages that are checked at the same time when a stack is closed."""


def next_check_s(age_s: float, until_s: float) -> float | None:
    """Return the age, seconds, at which a COMPLETE montage is checked next; the last one is `until_s`, then None.

    >>> [next_check_s(age_s, 3600) for age_s in (0, 5, 100, 2000, 3600)]
    [5.0, 15.0, 135.0, 3600, None]
    """
    if age_s >= until_s:
        return None
    due_s = FIRST_CHECK_S
    while due_s <= age_s:
        due_s *= GROWTH
    return min(due_s, until_s)


@dataclass(frozen=True, slots=True, order=True)
class _Due:
    """A montage whose images have to be checked. Times are seconds of one monotonic clock."""

    at: float
    montage_id: int
    watch: str = field(compare=False)
    complete_at: float = field(compare=False)


async def _nothing_is_overwritten(montage: Montage) -> bool:
    return False


class LateChanges:
    """Checks images again; the mipmaps of changed images are made again.

    Parameters
    ----------
    is_observable : whether the directory of a watch can be accessed now.
    on_change : awaited with a montage whose images changed; enqueues it.
    reset_if_overwritten : resets and enqueues a COMPLETE montage if a stack has tiles of a former content; returns
        whether it did. Raises RenderFault.
    containers : containers of the watched directories.
    clock : monotonic seconds.
    wall_clock : seconds since 1970, for the age of COMPLETE montages after a restart.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        *,
        is_observable: Callable[[str], bool],
        on_change: Callable[[Montage], Awaitable[None]],
        reset_if_overwritten: Callable[[Montage], Awaitable[bool]] = _nothing_is_overwritten,
        containers: Containers | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._is_observable = is_observable
        self._on_change = on_change
        self._reset_if_overwritten = reset_if_overwritten
        self._containers = containers or Containers()
        self._clock = clock
        self._wall_clock = wall_clock
        self._due: list[_Due] = []
        self._stuck: dict[str, asyncio.Future[ImageComparison]] = {}
        self._busy: set[str] = set()
        self._changed = asyncio.Event()

    def follow(self, montage: Montage) -> None:
        """Check the images of a COMPLETE montage from now on."""
        self._enqueue(montage.id, montage.watch, self._clock(), self._clock())

    async def run(self) -> None:
        """Check images when they are due, until cancelled; continues the checks of the previous process."""
        while not await self._is_resumed():  # noqa: ASYNC110  nothing reports that the journal can be read again
            await asyncio.sleep(RESUME_RETRY_S)
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for watch, due in self._take_due().items():
                    group.create_task(self._check_in_turn(watch, due), name=f"images of {watch}")
                timeout_s = max(0.0, self._due[0].at - self._clock()) if self._due else None
                try:
                    async with asyncio.timeout(timeout_s):
                        await self._changed.wait()
                except TimeoutError:
                    continue

    async def check_before_complete(self, montages: Collection[Montage]) -> None:
        """Check the images of APPLIED montages whose stack was closed; montages with changed images are reset.

        Montages that cannot be checked in time are checked after they are COMPLETE.
        """
        if not montages:
            return
        slots = asyncio.Semaphore(CHECKS_AT_ONCE)

        async def check(montage: Montage) -> None:
            async with slots:
                if self._is_accessible(montage.watch):
                    await self._check(montage)

        checks = [asyncio.create_task(check(montage), name=f"images of {montage.id}") for montage in montages]
        try:
            await asyncio.wait(checks, timeout=BEFORE_COMPLETE_S)
        finally:
            for each in checks:
                each.cancel()
            for bug in await asyncio.gather(*checks, return_exceptions=True):
                if isinstance(bug, Exception):  # it would prevent the close of the stack
                    log.error("images.bug", exc_info=bug)

    # --- schedule

    async def _is_resumed(self) -> bool:
        try:
            await self._resume()
        except Exception:  # it would end the daemon
            log.exception("images.bug")
            return False
        return True

    async def _resume(self) -> None:
        """Enqueue the montages of the previous process. The wall clock can be set, so it is read only once."""
        now, wall = self._clock(), self._wall_clock()
        for montage_id, watch, complete_at in await self._journal.watched_images():
            age_s = max(0.0, wall - complete_at)
            self._enqueue(montage_id, watch, now - age_s, now, at_once=True)

    def _enqueue(self, montage_id: int, watch: str, complete_at: float, now: float, *, at_once: bool = False) -> None:
        settings = self._watch(watch)
        until_s = settings.recheck_images_for_s if settings else 0.0
        due_s = next_check_s(now - complete_at, until_s)
        if until_s == 0 or (due_s is None and not at_once):
            return
        at = now + FIRST_CHECK_S if due_s is None or at_once else complete_at + due_s
        heapq.heappush(self._due, _Due(at, montage_id, watch, complete_at))
        self._changed.set()

    def _take_due(self) -> dict[str, list[_Due]]:
        """Take the due montages by watch; those of a watch that is being checked are delayed."""
        taken: defaultdict[str, list[_Due]] = defaultdict(list)
        delayed: list[_Due] = []
        while self._due and self._due[0].at <= self._clock():
            due = heapq.heappop(self._due)
            (delayed if due.watch in self._busy else taken[due.watch]).append(due)
        for due in delayed:
            self._delay(due, BUSY_RETRY_S)
        return taken

    def _delay(self, due: _Due, pause_s: float) -> None:
        heapq.heappush(self._due, _Due(self._clock() + pause_s, due.montage_id, due.watch, due.complete_at))
        self._changed.set()

    def _watch(self, name: str) -> WatchSettings | None:
        return next((watch for watch in self._settings().watch if watch.name == name), None)

    def _is_accessible(self, watch: str) -> bool:
        return watch not in self._stuck and self._is_observable(watch)

    # --- checks

    async def _check_in_turn(self, watch: str, due: Sequence[_Due]) -> None:
        self._busy.add(watch)
        try:
            for each in due:
                await self._check_due_safely(each)
        finally:
            self._busy.discard(watch)

    async def _check_due_safely(self, due: _Due) -> None:
        try:
            await self._check_due(due)
        except Exception:  # it would end the daemon
            log.exception("images.bug", montage=due.montage_id)
            self._delay(due, INACCESSIBLE_RETRY_S)

    async def _check_due(self, due: _Due) -> None:
        montage = await self._journal.montage(due.montage_id)
        watch = self._watch(due.watch)
        if montage is None or montage.state is not MontageState.COMPLETE or watch is None:
            return  # `follow` is called again when it is COMPLETE again
        try:
            if await self._reset_if_overwritten(montage):
                return
        except Fault as fault:
            log.info("tiles.not_compared", montage=montage.id, fault=str(fault))
            self._delay(due, INACCESSIBLE_RETRY_S)
            return
        is_accessible = self._is_accessible(due.watch)
        was_checked = is_accessible and await self._check(montage)
        if is_accessible and self._clock() - due.complete_at >= watch.recheck_images_for_s:
            await self._journal.end_watching_images(montage.id)
        elif was_checked:
            self._enqueue(montage.id, due.watch, due.complete_at, self._clock())
        else:
            self._delay(due, INACCESSIBLE_RETRY_S)

    async def _check(self, montage: Montage) -> bool:
        """Check the images; return whether that was possible. Changes are journaled, and the montage is enqueued."""
        contents = await self._journal.images_read(montage.id)
        watch = self._watch(montage.watch)
        if not contents or watch is None or montage.z is None:
            return True
        compare = partial(
            compare_images, montage.metafile, montage.digest, watch, montage.z, contents, self._containers
        )
        found = await self._run_in_thread(montage, compare, STUCK_S + len(contents) / 10)
        if found is None:
            return False
        if found.touched:
            await self._journal.adopt_images(montage.id, found.touched)
        if found.changed:
            await self._record_changes(montage, found.changed)
        return True

    async def _run_in_thread(
        self, montage: Montage, compare: Callable[[], ImageComparison], timeout_s: float
    ) -> ImageComparison | None:
        """Compare in a thread; return None if the images cannot be accessed in time."""
        # Not in a new thread: to start one for each check costs more than to compare a few images.
        running = asyncio.get_running_loop().run_in_executor(None, compare)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(running)
        except TimeoutError:
            self._abandon(montage.watch, running)
        except Fault as fault:
            log.info("images.not_checked", montage=montage.id, fault=str(fault))
        except asyncio.CancelledError:
            self._abandon(montage.watch, running)
            raise
        return None

    def _abandon(self, watch: str, running: "asyncio.Future[ImageComparison]") -> None:
        """Stop waiting for a check. The watch is not checked again until its thread has ended."""
        self._stuck[watch] = running

        def ended(check: "asyncio.Future[ImageComparison]") -> None:
            self._stuck.pop(watch, None)
            if not check.cancelled():
                check.exception()

        running.add_done_callback(ended)

    async def _record_changes(self, montage: Montage, changed: Mapping[str, str]) -> None:
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
