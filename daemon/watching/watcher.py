"""Watch the acquisition directories and report sightings of metafiles. Events trigger scans; scans decide.

At the start of a root the watcher watches a directory, lists it and continues with its subdirectories. Then it delivers
the metafiles that it found. It never writes, moves or deletes anything in a root, and it never concludes that a
metafile is gone.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

from daemon.watching.event_hints import OpenHints, open_hints
from daemon.watching.handover import OnSighting
from daemon.watching.mounts import Mount, read_mounts
from daemon.watching.root_watch import RootWatch, Timing
from daemon.watching.roots import RootHealth, WatchRoot


class Watcher:
    """Watches several roots, each in its own task and independent of the others.

    Parameters
    ----------
    roots : names and directories must differ, and no directory may contain another one.
    on_sighting : awaited for one sighting of a root at a time, in the order of file names.
    known_metafiles : root name -> number of metafiles in the journal. If there are any, an empty root is a problem from
        the start.
    state_directory : see `lock_root`.
    """

    def __init__(
        self,
        roots: Iterable[WatchRoot],
        on_sighting: OnSighting,
        known_metafiles: Mapping[str, int] | None = None,
        *,
        state_directory: Path | None = None,
        open_hints: OpenHints = open_hints,
        read_mounts: Callable[[], Iterable[Mount]] = read_mounts,
        timing: Timing | None = None,
    ) -> None:
        self.watching = asyncio.Event()
        """Set when every root is watched or has reported why it cannot be."""
        self.caught_up = asyncio.Event()
        """Set when the metafiles that were present at the start have been delivered."""
        self._timing = timing or Timing()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._make = partial(
            RootWatch,
            on_sighting=on_sighting,
            state_directory=state_directory,
            open_hints=open_hints,
            read_mounts=read_mounts,
            timing=self._timing,
        )
        known = known_metafiles or {}
        self._watches = {root.name: self._make(root, known_metafiles=known.get(root.name, 0)) for root in roots}

    async def run(self) -> None:
        """Watch until cancelled.

        Raises
        ------
        SettingsFault
            If another process holds the lock of a root. A missing root is locked when it appears.
        """
        try:
            await self._claim()
            async with asyncio.TaskGroup() as self._group:
                for watch in self._watches.values():
                    self._start(watch)
                await self._set_progress_events()
                await asyncio.Event().wait()
        finally:
            self._group = None
            await asyncio.gather(*(watch.end() for watch in self._watches.values()))

    async def _claim(self) -> None:
        """Lock all roots concurrently. A root whose file server does not answer is locked when the server answers."""
        claims = [asyncio.create_task(watch.claim(), name=f"claim {name}") for name, watch in self._watches.items()]
        try:
            done, _ = await asyncio.wait(claims, timeout=self._timing.opening_s)
            for claim in done:
                claim.result()
        finally:
            for claim in claims:
                claim.cancel()  # the thread continues, and the first scan waits for it
            await asyncio.wait(claims)

    def health(self) -> tuple[RootHealth, ...]:
        """Return the health of each root."""
        return tuple(watch.health() for watch in self._watches.values())

    def is_observable(self, name: str) -> bool:
        """Whether a root is watched and can be accessed now."""
        watch = self._watches.get(name)
        return watch is not None and watch.is_observable

    def rescan(self, metafile: Path) -> None:
        """Report a metafile again if it exists, even if it seems unchanged."""
        for watch in self._watches.values():
            watch.rescan(metafile)

    async def replace_roots(self, roots: Iterable[WatchRoot]) -> None:
        """Watch these roots from now on; unchanged roots are not interrupted. Call this only while `run` runs.

        Returns when each new root is watched or has reported why it cannot be.
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

    def _start(self, watch: RootWatch) -> None:
        assert self._group is not None, "roots are replaced only while the watcher runs"
        name = watch.root.name
        self._tasks[name] = self._group.create_task(watch.run(), name=f"watch {name}")

    async def _stop(self, watch: RootWatch) -> None:
        task = self._tasks.pop(watch.root.name)
        task.cancel()
        await asyncio.wait([task])

    async def _set_progress_events(self) -> None:
        for watch in tuple(self._watches.values()):
            await watch.watching.wait()
        self.watching.set()
        for watch in tuple(self._watches.values()):
            await watch.caught_up.wait()
        self.caught_up.set()
