"""Watch one root: schedule its scans in the event loop and deliver their results."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daemon.montages.sighting import FoundBy, Sighting
from daemon.system.threads import Result
from daemon.watching.blocking_calls import RootCalls
from daemon.watching.event_hints import Batch, HintBox, OpenHints
from daemon.watching.event_reliability import EventReliability
from daemon.watching.handover import HandOver, OnSighting
from daemon.watching.mounts import Mount, is_within
from daemon.watching.root import Discovery, RootScanner, View
from daemon.watching.roots import MountMode, Reason, RootHealth, RootStatus, WatchMode, WatchRoot
from handlers.text import printable

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Timing:
    """Times that are not configurable, seconds."""

    follow_s: float = 2.0
    """Interval of scans of growing files: neither an event nor the directory's mtime shows their growth."""
    coalesce_s: float = 0.05
    """Time in which hints are collected before they are scanned."""
    coalesce_most_s: float = 5.0
    """Longest time in which hints are collected, if scans of hints take long."""
    grace_s: float = 5.0
    """Time after a scan found a metafile in which its event may still arrive."""
    granularity_s: float = 2.0
    """Granularity of mtimes (2 s on FAT)."""
    overflow_spacing_s: float = 1.0
    """Shortest time between passes that are caused by overflows."""
    overflow_shown_s: float = 900.0
    """Time in which health reports an overflow."""
    stuck_s: float = 60.0
    """Time without progress after which a scan is stuck: the file server does not answer."""
    opening_s: float = 5.0
    """The same while a root is opened, which needs few calls. It is also the longest wait of the daemon's start."""
    stop_s: float = 2.0
    """Longest wait for a thread at a stop."""


class RootWatch:
    """Decides when a root is scanned, and delivers the sightings.

    Parameters
    ----------
    known_metafiles : see `RootScanner`.
    state_directory : see `lock_root`.
    """

    def __init__(
        self,
        root: WatchRoot,
        *,
        on_sighting: OnSighting,
        known_metafiles: int,
        state_directory: Path | None,
        open_hints: OpenHints,
        read_mounts: Callable[[], Iterable[Mount]],
        timing: Timing,
    ) -> None:
        self.root = root
        self.watching = asyncio.Event()
        """Set when the root is watched, or the reason why it cannot be is known."""
        self.caught_up = asyncio.Event()
        """Set when the metafiles that were present at the start have been delivered."""
        self._timing = timing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._box = HintBox(self._wake)
        self._rescans: set[str] = set()
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
        self._calls = RootCalls(
            root.name,
            self._scanner,
            limit_s=timing.opening_s,
            stop_s=timing.stop_s,
            on_wait=self._report_if_known,
        )
        self._handover = HandOver(on_sighting)
        self._view: View | None = None
        self._pass_due = self._full_due = 0.0
        self._follow_s = 0.0
        self._overflows = 0
        self._overflow_at = float("-inf")
        self._last_scan: tuple[float, float] | None = None
        self._reported: tuple[RootStatus | None, dict[str, str]] = (None, {})
        """Status and reasons of the last report, each text by its code."""

    # --- life

    async def claim(self) -> None:
        """Lock the root for this process if it exists. Raises SettingsFault if another process holds the lock."""
        await self._call(self._scanner.claim)

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            self._set_view(await self._call(self._scanner.open))
            self._report()
            self.watching.set()
            await self._pass(everything=True)
            self.caught_up.set()
            self._report()
            while True:
                await self._wait_until_due()
                await self._scan_what_is_due()
        finally:
            await self.end()
            self.watching.set()
            self.caught_up.set()

    async def end(self) -> None:
        """End the running scan and the events, and release the lock. A second call does nothing."""
        await self._calls.end()

    def _wake(self) -> None:
        """Wake the event loop because of hints. Thread-safe."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._woken.set)

    async def _call(self, work: Callable[[], Result]) -> Result:
        self._loop = asyncio.get_running_loop()
        return await self._calls.run(work)

    def _set_view(self, view: View) -> None:
        self._view = view
        self._calls.limit_s = self._timing.stuck_s

    # --- schedule

    async def _wait_until_due(self) -> None:
        """Wait until a pass is due or hints arrive; collect hints for a moment."""
        due_s = min(self._pass_due, self._full_due) - time.monotonic()
        if self.root.follow is not None:
            due_s = min(due_s, self._timing.follow_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, due_s)):
                await self._woken.wait()
                await asyncio.sleep(self._coalesce_s())
        self._woken.clear()

    def _coalesce_s(self) -> float:
        """Return the time in which hints are collected: three times the last scan of hints, within limits.

        So scans of hints take at most a quarter of the time.
        """
        return min(max(self._timing.coalesce_s, 3 * self._follow_s), self._timing.coalesce_most_s)

    async def _scan_what_is_due(self) -> None:
        batch = self._box.take()
        rescans, self._rescans = self._rescans | self._scanner.tree.growing(), set()
        self._note_hints(batch)
        if not self._is_in_trouble() and (batch.files or batch.trees or rescans):
            await self._follow(batch, rescans)
        now = time.monotonic()
        if now >= self._full_due or now >= self._pass_due or self._is_in_trouble():
            await self._pass(everything=now >= self._full_due)
        self._report()

    def _note_hints(self, batch: Batch) -> None:
        now = time.monotonic()
        for path in batch.files:
            self._reliability.announce(path, now)
        self._reliability.announce_trees(batch.trees)
        if batch.overflows or batch.is_flooded:
            ended_at = self._pass_due - self.root.scan_interval_s
            self._pass_due = min(self._pass_due, ended_at + self._timing.overflow_spacing_s)
        if batch.overflows:
            self._overflows += batch.overflows
            self._overflow_at = now
            # Only a listing finds files that were rewritten in place.
            self._full_due = min(self._full_due, now + self.root.scan_interval_s)
            self._reliability.explain_losses(now + self.root.scan_interval_s + self._timing.grace_s)

    async def _follow(self, batch: Batch, rescans: Iterable[str]) -> None:
        began = time.monotonic()
        directories = {path.rpartition("/")[0] for path in batch.files}.union(rescans)
        view = await self._call(partial(self._scanner.follow, directories, batch.trees))
        self._follow_s = time.monotonic() - began
        await self._adopt(view, FoundBy.SCAN)

    async def _pass(self, *, everything: bool) -> None:
        began = time.monotonic()
        unreliable = self._reliability.is_unreliable
        view = await self._call(partial(self._scanner.scan, everything=everything, events_unreliable=unreliable))
        ended = time.monotonic()
        self._last_scan = (time.time(), ended - began)
        self._pass_due = ended + self.root.scan_interval_s
        if everything:
            self._full_due = ended + self.root.full_scan_interval_s
        self._reliability.judge(ended)
        await self._adopt(view, FoundBy.START if view.is_first else FoundBy.SCAN)

    def _is_in_trouble(self) -> bool:
        return self._view is None or self._view.trouble is not None or self._view.is_empty

    def rescan(self, metafile: Path) -> None:
        """Scan a metafile of this root now, and report it even if it seems unchanged."""
        if not is_within(str(metafile), str(self.root.directory)):
            return
        if self.root.follow is None:
            self._scanner.tree.mark_changed(str(metafile))
            self._rescans.add(str(metafile.parent))
        else:
            self._scanner.tree.mark_section(str(metafile))
            self._rescans.add(str(metafile.parent.parent))
        self._woken.set()

    # --- delivery

    async def _adopt(self, view: View, found_by: FoundBy) -> None:
        """Apply the result of a scan and deliver its sightings, together with undelivered ones."""
        self._set_view(view)
        now = time.monotonic()
        for discovery in view.discoveries:
            sighting = self._sighting(discovery, found_by)
            self._handover.add(discovery.found.path, sighting)
            if sighting.found_by is not FoundBy.START:
                self._reliability.find(
                    discovery.found.path,
                    now,
                    announced=discovery.announced,
                    events_expected=discovery.events_expected,
                )
        self._report()
        await self._handover.deliver()

    def _sighting(self, discovery: Discovery, found_by: FoundBy) -> Sighting:
        path, identity, _ = discovery.found
        if discovery.announced or self._reliability.was_announced(path):
            found_by = FoundBy.EVENT
        return Sighting(self.root.name, Path(path), identity, found_by)

    # --- health

    @property
    def metafiles(self) -> int:
        """Number of known metafiles."""
        return self._view.content.metafiles if self._view else 0

    @property
    def is_observable(self) -> bool:
        """Whether the root can be accessed now."""
        return self._status() not in {RootStatus.OPENING, RootStatus.UNREACHABLE, RootStatus.PAUSED}

    def health(self) -> RootHealth:
        """Return the health of the root."""
        view = self._view or View()
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
            undelivered=len(self._handover),
            last_scan_at=self._last_scan[0] if self._last_scan else None,
            last_scan_s=self._last_scan[1] if self._last_scan else None,
        )

    def _modes(self, view: View) -> Iterable[MountMode]:
        for mode in view.modes:
            polled = MountMode(mode.directory, mode.file_system, WatchMode.POLL)
            yield polled if self._reliability.is_unreliable else mode

    def _status(self) -> RootStatus:
        view = self._view
        if self._calls.stuck() is not None or (view is not None and view.trouble is not None):
            return RootStatus.UNREACHABLE
        if view is None:
            return RootStatus.OPENING
        if view.is_empty:
            return RootStatus.PAUSED
        if not self.caught_up.is_set():
            return RootStatus.CATCHING_UP
        return RootStatus.WATCHING if view.has_events and not self._reliability.is_unreliable else RootStatus.POLLING

    def _reasons(self) -> list[Reason]:
        view = self._view or View()
        own = (self._calls.stuck(), view.trouble)
        events = (self._unreliable_events(), self._overflow(), self._handover.reason())
        return [reason for reason in (*own, *view.reasons, *events) if reason]

    def _unreliable_events(self) -> Reason | None:
        if not self._reliability.is_unreliable:
            return None
        missed = self._reliability.found_only_by_scan
        text = f"events are unreliable: {missed} metafiles arrived without an event; the directory is polled"
        return Reason("events_unreliable", text)

    def _overflow(self) -> Reason | None:
        ago_s = time.monotonic() - self._overflow_at
        if ago_s >= self._timing.overflow_shown_s:
            return None
        often = "once" if self._overflows == 1 else f"{self._overflows} times"
        text = f"the event queue overflowed {often}, last {ago_s:.0f} s ago: scans find the missed metafiles"
        return Reason("overflow", text)

    def _report_if_known(self) -> None:
        if self._view is not None or self._calls.stuck() is not None:
            self._report()

    def _report(self) -> None:
        """Log changes of status and reasons since the last report."""
        if self._calls.stuck() is not None:  # the reason is known why the root is not watched: the start need not wait
            self.watching.set()
        status, reasons = self._status(), {reason.code: reason.text for reason in self._reasons()}
        before_status, before = self._reported
        if (status, reasons.keys()) == (before_status, before.keys()):
            return
        new = [text for code, text in reasons.items() if code not in before]
        over = [text for code, text in before.items() if code not in reasons]
        level = log.warning if new else log.info
        where = printable(self.root.directory)
        level("watch.state", watch=self.root.name, status=str(status), directory=where, new=new, over=over)
        self._reported = (status, reasons)
