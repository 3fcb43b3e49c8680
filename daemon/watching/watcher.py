"""Watches the acquisition directories: events wake it, its own scans decide, sightings come out.

Order at the start of a root: watch a directory, list it, go on with those in it; then hand over what was there. Nothing
in a root is ever written, moved or deleted, and no content is read. That a metafile is gone is never concluded.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daemon.montages.sighting import FoundBy, Sighting
from daemon.system.locks import RootLock, lock_root
from daemon.system.threads import Result, in_thread
from daemon.watching.event_hints import Batch, HintBox, OpenHints, open_hints
from daemon.watching.event_reliability import EventReliability
from daemon.watching.mounts import Mount, is_within, read_mounts
from daemon.watching.root import Discovery, RootScanner, View
from daemon.watching.roots import MountMode, Reason, RootHealth, RootStatus, WatchMode, WatchRoot
from handlers.errors import Fault, Waiting
from handlers.text import printable

__all__ = [
    "FoundBy",
    "MountMode",
    "RootHealth",
    "RootLock",
    "RootStatus",
    "Sighting",
    "Timing",
    "WatchMode",
    "WatchRoot",
    "Watcher",
    "lock_root",
]

log = structlog.get_logger()

OnSighting = Callable[[Sighting], Awaitable[object]]
"""Takes a sighting over. The root waits until it returns; a Fault means: not now, try again at the next pass."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Times that no operator sets, seconds."""

    coalesce_s: float = 0.05
    """Hints are collected for this long before they are followed."""
    coalesce_most_s: float = 5.0
    """... at most, when following them takes long itself."""
    grace_s: float = 5.0
    """A scan's find whose event does not come within this time was not announced."""
    granularity_s: float = 2.0
    """How coarse mtimes may be (FAT: 2 s)."""
    overflow_spacing_s: float = 1.0
    """Between the passes that overflows ask for."""
    overflow_shown_s: float = 900.0
    """How long an overflow stays visible."""
    stuck_s: float = 60.0
    """A look that has not moved for this long is stuck: the file server does not answer."""
    opening_s: float = 5.0
    """The same for a root that is opened, which asks for little; the start waits no longer for it."""
    stop_s: float = 2.0
    """How long to wait for a thread when stopping."""


class Watcher:
    """Watches several roots, each in its own task, none waiting for another.

    Parameters
    ----------
    roots : names and directories differ, and no directory lies in another.
    on_sighting : awaited for one sighting of a root at a time, in the order of names, which begin with the time of
        acquisition.
    known_metafiles : root name -> how many the journal knows: an empty root is an alarm then, from the start.
    state_directory : where lock files lie for file systems without locks.
    on_change : called with a root's name when it becomes observable or ceases to be.
    """

    def __init__(
        self,
        roots: Iterable[WatchRoot],
        on_sighting: OnSighting,
        known_metafiles: Mapping[str, int] | None = None,
        *,
        state_directory: Path | None = None,
        on_change: Callable[[str], None] = lambda _: None,
        open_hints: OpenHints = open_hints,
        read_mounts: Callable[[], Iterable[Mount]] = read_mounts,
        timing: Timing | None = None,
    ) -> None:
        self.watching = asyncio.Event()
        """Every root is watched, what is below it once its first pass comes there; or it was found out why not."""
        self.caught_up = asyncio.Event()
        """What was there at the start has been handed over."""
        self._timing = timing or Timing()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._make = partial(
            _RootWatch,
            on_sighting=on_sighting,
            on_change=on_change,
            state_directory=state_directory,
            open_hints=open_hints,
            read_mounts=read_mounts,
            timing=self._timing,
        )
        known = known_metafiles or {}
        self._watches = {root.name: self._make(root, known_metafiles=known.get(root.name, 0)) for root in roots}

    async def run(self) -> None:
        """Watches until cancelled.

        Raises
        ------
        SettingsFault
            If another process owns one of the roots. Roots that are not there yet are taken when they appear.
        """
        try:
            await self._claim()
            async with asyncio.TaskGroup() as self._group:
                for watch in self._watches.values():
                    self._start(watch)
                await self._tell_progress()
                await asyncio.Event().wait()
        finally:
            self._group = None
            await asyncio.gather(*(watch.end() for watch in self._watches.values()))

    async def _claim(self) -> None:
        """Takes every root, all at once; one whose file server does not answer is taken when it does."""
        claims = [asyncio.create_task(watch.claim(), name=f"claim {name}") for name, watch in self._watches.items()]
        try:
            done, _ = await asyncio.wait(claims, timeout=self._timing.opening_s)
            for claim in done:
                claim.result()
        finally:
            for claim in claims:
                claim.cancel()  # its thread goes on, and the first look waits for it
            await asyncio.wait(claims)

    def health(self) -> tuple[RootHealth, ...]:
        """How each root is doing."""
        return tuple(watch.health() for watch in self._watches.values())

    def is_observable(self, name: str) -> bool:
        """Whether a root can be looked at now; False for one that is not watched."""
        watch = self._watches.get(name)
        return watch is not None and watch.is_observable

    def wake(self, directory: Path | None = None) -> bool:
        """Asks for a look now: at a directory and all below it, or at everything. False if it lies in no root."""
        asked = [watch.ask(directory) for watch in self._watches.values()]
        return any(asked)

    def look_again(self, metafile: Path) -> None:
        """Has a metafile sighted once more if it is there, though no look may have seen it gone."""
        for watch in self._watches.values():
            watch.doubt(metafile)

    async def replace_roots(self, roots: Iterable[WatchRoot]) -> None:
        """Watches these roots from now on; those that have not changed go on undisturbed. Only while `run` runs.

        Returns when the new ones are watched, or it was found out why not.
        """
        wanted = {root.name: root for root in roots}
        leaving = [watch for name, watch in self._watches.items() if wanted.get(name) != watch.root]
        await asyncio.gather(*(self._stop(watch) for watch in leaving))
        known = {(watch.root.name, watch.root.directory): watch.metafiles for watch in leaving}
        kept = {watch.root.name: watch for watch in self._watches.values() if watch not in leaving}
        self._watches = {
            name: kept.get(name) or self._make(root, known_metafiles=known.get((name, root.directory), 0))
            for name, root in wanted.items()
        }
        new = [self._watches[name] for name in wanted.keys() - kept.keys()]
        for watch in new:
            self._start(watch)
        await asyncio.gather(*(watch.watching.wait() for watch in new))

    def _start(self, watch: "_RootWatch") -> None:
        assert self._group is not None, "roots are replaced while the watcher runs"
        name = watch.root.name
        self._tasks[name] = self._group.create_task(watch.run(), name=f"watch {name}")

    async def _stop(self, watch: "_RootWatch") -> None:
        task = self._tasks.pop(watch.root.name)
        task.cancel()
        await asyncio.wait([task])

    async def _tell_progress(self) -> None:
        for watch in tuple(self._watches.values()):
            await watch.watching.wait()
        self.watching.set()
        for watch in tuple(self._watches.values()):
            await watch.caught_up.wait()
        self.caught_up.set()


class _RootWatch:
    """One root: decides when its lookout looks, and hands over what that finds."""

    def __init__(
        self,
        root: WatchRoot,
        *,
        on_sighting: OnSighting,
        on_change: Callable[[str], None],
        known_metafiles: int,
        state_directory: Path | None,
        open_hints: OpenHints,
        read_mounts: Callable[[], Iterable[Mount]],
        timing: Timing,
    ) -> None:
        self.root = root
        self.watching = asyncio.Event()
        self.caught_up = asyncio.Event()
        self._on_sighting = on_sighting
        self._on_change = on_change
        self._timing = timing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._box = HintBox(self._notify)
        self._asked: set[str] = set()
        self._reliability = EventReliability(timing.grace_s)
        self._scanner = RootScanner(
            root,
            self._box,
            known_metafiles=known_metafiles,
            open_hints=open_hints,
            read_mounts=read_mounts,
            state_directory=state_directory,
            granularity_s=timing.granularity_s,
        )
        self._view: View | None = None
        self._undelivered: dict[str, Sighting] = {}
        self._fault: Fault | None = None
        self._pass_due = self._full_due = 0.0
        self._follow_s = 0.0
        self._overflows = 0
        self._overflow_at = float("-inf")
        self._last_scan: tuple[float, float] | None = None
        self._call: asyncio.Future[object] | None = None
        self._call_began = 0.0
        self._told: tuple[RootStatus | None, frozenset[str]] = (None, frozenset())
        self._was_observable = False

    # --- life

    async def claim(self) -> None:
        """Takes the root for this process, if it is there. Raises SettingsFault if another has it."""
        await self._blocking(self._scanner.claim)

    async def run(self) -> None:
        """Watches until cancelled."""
        try:
            self._view = await self._blocking(self._scanner.open)
            self._report()
            self.watching.set()
            await self._pass(everything=True)
            self.caught_up.set()
            self._report()
            while True:
                await self._rest()
                await self._turn()
        finally:
            await self.end()
            self.watching.set()
            self.caught_up.set()

    async def end(self) -> None:
        """Ends the pass under way, the events and the ownership. Does nothing when it is called again."""
        if self._scanner.tree.stop.is_set():
            return
        self._scanner.tree.stop.set()
        if self._call is not None and not self._call.done():
            await asyncio.wait([self._call], timeout=self._timing.stop_s)
            if not self._call.done():
                log.warning("watch.thread_left", watch=self.root.name, directory=printable(self._scanner.tree.current))
                return  # it hangs in the file system: what it uses cannot be closed under it
        closing = in_thread(self._scanner.close, f"close {self.root.name}")
        await asyncio.wait([closing], timeout=self._timing.stop_s)

    def _notify(self) -> None:
        """From any thread: there are hints."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._woken.set)

    async def _blocking(self, work: Callable[[], Result]) -> Result:
        self._loop = asyncio.get_running_loop()
        await self._until_done()  # a claim may hang still, and one thread at a time looks
        call = in_thread(partial(self._scanner.attend, work), f"look {self.root.name}")
        self._call, self._call_began = call, time.monotonic()  # type: ignore[assignment]
        await self._until_done()
        return call.result()

    async def _until_done(self) -> None:
        """Until the call under way has ended; when this is cancelled the call goes on, and `end` waits for it."""
        while self._call is not None and not self._call.done():
            await asyncio.wait([self._call], timeout=max(0.05, self._patience_s - self._still_s()))
            if self._view is not None or self._stuck() is not None:
                self._report()

    # --- rhythm

    async def _rest(self) -> None:
        """Until something is due or hints come, which are given a moment to gather."""
        due_s = min(self._pass_due, self._full_due) - time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due_s)):
                await self._woken.wait()
                await asyncio.sleep(self._gather_s())
        self._woken.clear()

    def _gather_s(self) -> float:
        """Three quarters of the time at least are rest, however large the directories that hints point to."""
        return min(max(self._timing.coalesce_s, 3 * self._follow_s), self._timing.coalesce_most_s)

    async def _turn(self) -> None:
        batch = self._box.take()
        asked, self._asked = self._asked, set()
        self._hear(batch)
        if not self._is_in_trouble() and (batch.files or batch.trees or asked):
            await self._follow(batch, asked)
        now = time.monotonic()
        if now >= self._full_due or now >= self._pass_due or self._is_in_trouble():
            await self._pass(everything=now >= self._full_due)
        self._report()

    def _hear(self, batch: Batch) -> None:
        now = time.monotonic()
        for path in batch.files:
            self._reliability.announce(path, now)
        self._reliability.announce_trees(batch.trees)
        if batch.overflows or batch.is_flooded:
            self._pass_due = min(self._pass_due, self._ended_at() + self._timing.overflow_spacing_s)
        if batch.overflows:
            self._overflows += batch.overflows
            self._overflow_at = now
            # What was rewritten in place shows only when its directory is listed.
            self._full_due = min(self._full_due, now + self.root.scan_interval_s)
            self._reliability.excuse(now + self.root.scan_interval_s + self._timing.grace_s)

    async def _follow(self, batch: Batch, asked: Iterable[str]) -> None:
        began = time.monotonic()
        directories = {path.rpartition("/")[0] for path in batch.files}
        view = await self._blocking(partial(self._scanner.follow, directories, batch.trees, asked))
        self._follow_s = time.monotonic() - began
        await self._adopt(view, FoundBy.SCAN)

    async def _pass(self, *, everything: bool) -> None:
        began = time.monotonic()
        look = partial(self._scanner.survey, everything=everything, distrust=self._reliability.is_lying)
        view = await self._blocking(look)
        ended = time.monotonic()
        self._last_scan = (time.time(), ended - began)
        self._pass_due = ended + self.root.scan_interval_s
        if everything:
            self._full_due = ended + self.root.full_scan_interval_s
        self._reliability.judge(ended)
        await self._adopt(view, FoundBy.START if view.is_first else FoundBy.SCAN)

    def _ended_at(self) -> float:
        return self._pass_due - self.root.scan_interval_s

    def _is_in_trouble(self) -> bool:
        return self._view is None or self._view.trouble is not None or self._view.is_empty

    # --- handing over

    async def _adopt(self, view: View, found_by: FoundBy) -> None:
        """Takes over what a look gave, and hands on its sightings, with those left from before if it was a pass."""
        self._view = view
        now = time.monotonic()
        for discovery in view.discoveries:
            sighting = self._sighting(discovery, found_by)
            self._undelivered[discovery.found.path] = sighting
            if sighting.found_by is not FoundBy.START:
                self._reliability.find(
                    discovery.found.path,
                    now,
                    announced=discovery.announced,
                    events_expected=discovery.events_expected,
                )
        self._report()
        await self._deliver()

    def _sighting(self, discovery: Discovery, found_by: FoundBy) -> Sighting:
        path, identity, _ = discovery.found
        if discovery.announced or self._reliability.was_announced(path):
            found_by = FoundBy.EVENT
        return Sighting(self.root.name, Path(path), identity, found_by)

    async def _deliver(self) -> None:
        self._fault = None
        for path in sorted(self._undelivered, key=lambda each: (each.rpartition("/")[2], each)):
            try:
                await self._on_sighting(self._undelivered[path])
            except Fault as fault:
                self._fault = fault
                if fault.waiting_helps is Waiting.ALWAYS:
                    break  # the journal's disk is full or gone: the others would fare no better
            else:
                del self._undelivered[path]

    # --- what is told

    @property
    def metafiles(self) -> int:
        """How many are known."""
        return self._view.content.metafiles if self._view else 0

    @property
    def is_observable(self) -> bool:
        """Whether the root can be looked at now."""
        return self._status() not in {RootStatus.OPENING, RootStatus.UNREACHABLE, RootStatus.PAUSED}

    def ask(self, directory: Path | None) -> bool:
        """Asks for a look at a directory and all below it, or at everything; False if it does not lie here."""
        path = str(directory) if directory else str(self.root.directory)
        if not is_within(path, str(self.root.directory)):
            return False
        if directory is None:
            self._full_due = 0.0
        else:
            self._asked.add(path)
        self._woken.set()
        return True

    def doubt(self, metafile: Path) -> None:
        """Has a metafile sighted once more if it lies here."""
        self._scanner.tree.doubt(str(metafile))
        self.ask(metafile.parent)

    def health(self) -> RootHealth:
        """How the root is doing."""
        view = self._view or View()
        running_s = time.monotonic() - self._call_began if self._is_looking() else None
        return RootHealth(
            name=self.root.name,
            directory=self.root.directory,
            status=self._status(),
            modes=tuple(self._modes(view)),
            reasons=tuple(reason.text for reason in self._reasons()),
            directories_seen=view.coverage.seen,
            directories_watched=view.coverage.watched,
            metafiles_seen=view.content.metafiles,
            found_by_event=self._reliability.found_by_event,
            found_only_by_scan=self._reliability.found_only_by_scan,
            overflows=self._overflows,
            undelivered=len(self._undelivered),
            last_scan_at=self._last_scan[0] if self._last_scan else None,
            last_scan_s=self._last_scan[1] if self._last_scan else None,
            scan_running_s=running_s,
            scan_directories=self._scanner.tree.looked_at,
        )

    def _modes(self, view: View) -> Iterable[MountMode]:
        for mode in view.modes:
            yield MountMode(mode.directory, mode.file_system, WatchMode.POLL) if self._reliability.is_lying else mode

    def _status(self) -> RootStatus:
        view = self._view
        if self._stuck() is not None or (view is not None and view.trouble is not None):
            return RootStatus.UNREACHABLE
        if view is None:
            return RootStatus.OPENING
        if view.is_empty:
            return RootStatus.PAUSED
        if not self.caught_up.is_set():
            return RootStatus.CATCHING_UP
        return RootStatus.WATCHING if view.has_events and not self._reliability.is_lying else RootStatus.POLLING

    def _is_looking(self) -> bool:
        return self._call is not None and not self._call.done()

    @property
    def _patience_s(self) -> float:
        return self._timing.opening_s if self._view is None else self._timing.stuck_s

    def _still_s(self) -> float:
        """How long the look under way has not moved."""
        return time.monotonic() - max(self._call_began, self._scanner.tree.moved_at)

    def _stuck(self) -> Reason | None:
        """Why the look under way gets nowhere, if that is so."""
        still_s = self._still_s()
        if not self._is_looking() or still_s < self._patience_s:
            return None
        where = printable(self._scanner.tree.current)
        return Reason("stuck", f"the look at {where} has not answered for {still_s:.0f} s: see that its server is up")

    def _reasons(self) -> list[Reason]:
        view = self._view or View()
        reasons = [reason for reason in (self._stuck(), view.trouble) if reason] + list(view.reasons)
        if self._reliability.is_lying:
            missed = self._reliability.found_only_by_scan
            reasons.append(
                Reason("lying", f"{missed} metafiles came without an event: polled, events are not believed")
            )
        if time.monotonic() < self._overflow_at + self._timing.overflow_shown_s:
            ago_s = time.monotonic() - self._overflow_at
            often = "once" if self._overflows == 1 else f"{self._overflows} times"
            text = f"the event queue overflowed {often}, last {ago_s:.0f} s ago: scans find what it lost"
            reasons.append(Reason("overflow", text))
        if self._undelivered and self._fault is not None:
            reasons.append(Reason("undelivered", f"{len(self._undelivered)} metafiles wait: {self._fault}"))
        return reasons

    def _report(self) -> None:
        """Logs what has changed since the last time, once, and tells whoever waits for the root."""
        if self._stuck() is not None:  # it was found out why it cannot be watched: nobody need wait for it
            self.watching.set()
        status, reasons = self._status(), self._reasons()
        codes = frozenset(reason.code for reason in reasons)
        if (status, codes) != self._told:
            new = [reason.text for reason in reasons if reason.code not in self._told[1]]
            level = log.warning if new else log.info
            level("watch.state", watch=self.root.name, status=str(status), new=new, over=sorted(self._told[1] - codes))
            self._told = (status, codes)
        if self.is_observable != self._was_observable:
            self._was_observable = self.is_observable
            self._on_change(self.root.name)
