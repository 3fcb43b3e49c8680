"""Events of one root: request them, and determine which directories they do not cover."""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from daemon.watching.coverage import UNMEASURED, Coverage, compare, inotify_descriptors, read_watches, watch_limit
from daemon.watching.event_hints import Hints, HintSink, OpenHints, explain_refusal
from daemon.watching.mounts import Mount, is_within, mounts_of
from daemon.watching.roots import MountMode, Reason, WatchMode, WatchRoot
from daemon.watching.scan import Tree
from handlers.text import abbreviate, printable

log = structlog.get_logger()

MAX_RETRY_S = 3_600.0
"""Longest time between two requests for events after a refusal."""


class RootEvents:
    """Requests the events of a root and measures their coverage. Methods may block.

    Parameters
    ----------
    accepts : whether a file of this name is a metafile.
    sink : receives the hints.
    """

    def __init__(
        self,
        root: WatchRoot,
        accepts: Callable[[str], bool],
        sink: HintSink,
        *,
        open_hints: OpenHints,
        read_mounts: Callable[[], Iterable[Mount]],
    ) -> None:
        self.is_new = False
        """Whether events were requested since the last `measure` after a full listing."""
        self._root = root
        self._path = os.fspath(root.directory)
        self._real = self._path
        self._accepts = accepts
        self._sink = sink
        self._open_hints = open_hints
        self._read_mounts = read_mounts
        self._hints: Hints | None = None
        self._refused: Reason | None = None
        self._refused_at_limit: int | None = None
        self._retry_at = 0.0
        self._retry_s = root.full_scan_interval_s
        self._mounts: tuple[Mount, ...] = ()
        self._mounts_seen: dict[str, Mount] = {}
        self._coverage = UNMEASURED
        self._measured_changes: int | None = None
        self._unwatched_passes = 0

    @property
    def are_coming(self) -> bool:
        """Whether events are requested, at least for the mount that contains the root."""
        return self._hints is not None

    def refresh(self, *, renew: bool, may_open: bool) -> None:
        """Read the mounts, and request events if they are wanted and missing.

        Parameters
        ----------
        renew : whether events are requested again even if they seem to work.
        may_open : whether a new request may be made.
        """
        self._real = os.path.realpath(self._path)
        self._mounts = mounts_of(self._real, self._read_mounts())
        self._mounts_seen |= {mount.directory: mount for mount in self._mounts[1:]}
        if not self._are_wanted():
            self.stop()
            return
        now = time.monotonic()
        if self._hints is not None and (renew or not self._hints.is_alive()):
            log.info("watch.events_renewed", watch=self._root.name)
            self.stop()
        is_due = now >= self._retry_at or watch_limit() != self._refused_at_limit
        if self._hints is None and may_open and is_due:
            self._request(now)

    def _are_wanted(self) -> bool:
        mode = self._root.mode
        return mode is WatchMode.EVENTS or (mode is WatchMode.AUTO and not self._mounts[0].is_remote)

    def _request(self, now: float) -> None:
        try:
            self._hints = self._open_hints(self._path, self._accepts, self._sink)
            self.is_new = True
            self._refused = None
        except OSError as error:
            self._refused = Reason("events_refused", explain_refusal(error))
            self._refused_at_limit = watch_limit()
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)

    def watch_directory(self, path: str) -> None:
        """Request the events of a directory before it is listed: the listing shows earlier changes, events later ones.

        A repeated request has no effect, and the next listing restores a lost watch. A directory without a watch is
        polled, so every pass lists it.
        """
        if self._hints is not None:
            self._hints.watch(path)

    def stop(self) -> None:
        """Stop watching."""
        if self._hints is not None:
            self._hints.close()
        self._hints = None
        self._coverage = UNMEASURED
        self._measured_changes = None

    def uncovered(self, tree: Tree) -> frozenset[str] | None:
        """Return the directories whose changes no event reports; None: all directories."""
        if self._hints is None:
            return None
        remote = [mount.directory for mount in self._mounts[1:] if mount.is_remote]
        if not remote or self._root.mode is WatchMode.EVENTS:
            return self._coverage.unwatched
        return self._coverage.unwatched.union(path for path in tree.directories if self._is_remote(path))

    def _is_remote(self, path: str) -> bool:
        real = self._real + path[len(self._path) :]
        above = [mount for mount in self._mounts if is_within(real, mount.directory)]
        return max(above, key=lambda mount: len(mount.directory)).is_remote if above else False

    def measure(self, tree: Tree, *, everything: bool) -> None:
        """Compare the kernel's watches with the directories, unless nothing has changed since the last comparison.

        A comparison takes longer than a pass over mtimes.

        Parameters
        ----------
        everything : whether the pass listed every directory.
        """
        if everything or self._coverage.unwatched or self._measured_changes != tree.changes:
            self._compare(tree)
        if everything:
            self.is_new = False

    def _compare(self, tree: Tree) -> None:
        self._measured_changes = tree.changes
        descriptors = self._hints.descriptors() if self._hints else None
        seen = len(tree.directories)
        if descriptors is None:
            self._coverage = Coverage(seen, 0)
            return
        own = read_watches(descriptors)
        held = len(own) + len(read_watches(inotify_descriptors() - descriptors))
        known = {path: facts for path, facts in tree.directories.items() if path not in tree.failures}
        coverage = compare(self._path, known, own, watch_limit(), held)
        self._coverage = replace(coverage, seen=seen)
        self._unwatched_passes = self._unwatched_passes + 1 if coverage.unwatched else 0

    @property
    def coverage(self) -> Coverage:
        """The result of the last comparison."""
        return self._coverage

    def modes(self) -> Iterable[MountMode]:
        """Yield how each mount of the root is watched."""
        for mount in self._mounts:
            by_events = self._hints is not None and (self._root.mode is WatchMode.EVENTS or not mount.is_remote)
            mode = WatchMode.EVENTS if by_events else WatchMode.POLL
            yield MountMode(Path(mount.directory), mount.file_system, mode)

    def reasons(self) -> Iterable[Reason]:
        """Yield the problems of the root's events and mounts."""
        if self._refused is not None and self._hints is None and self._are_wanted():
            yield self._refused
        yield from self._coverage_reasons()
        mounted = {mount.directory for mount in self._mounts}
        gone = [printable(each) for each in self._mounts_seen if each not in mounted]
        if gone:
            yield Reason("mount_gone", f"no longer mounted: {abbreviate(gone)}")

    def _coverage_reasons(self) -> Iterable[Reason]:
        coverage = self._coverage
        counts = f"{coverage.watched} of {coverage.seen} directories watched"
        if coverage.limit_reached:
            yield Reason("watch_limit", f"watch limit reached: {counts}; raise fs.inotify.max_user_watches")
        elif self._unwatched_passes >= 2 and coverage.unwatched:
            paths = [printable(path) for path in sorted(coverage.unwatched)]
            yield Reason("unwatched", f"{counts}, the others are polled: {abbreviate(paths)}")
