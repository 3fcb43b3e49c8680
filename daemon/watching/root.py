"""The blocking half of one watch root: reaching it, owning it, asking for its events, and the passes over it.

Every method may block for as long as a file server likes; one thread at a time calls them.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import structlog

from daemon.system.locks import RootLock, lock_root
from daemon.watching.coverage import BLIND, Coverage, compare, inotify_descriptors, read_watches, watch_limit
from daemon.watching.event_hints import Hints, HintSink, OpenHints, refusal
from daemon.watching.mounts import Mount, is_within, mounts_of
from daemon.watching.roots import MountMode, Reason, WatchMode, WatchRoot
from daemon.watching.scan import NOTHING, Content, Found, NameRule, Tree, is_suddenly_empty
from handlers.errors import Fault, StorageFault
from handlers.text import abbreviate, printable

log = structlog.get_logger()

Result = TypeVar("Result")

LONGEST_RETRY_S = 3_600.0
"""Between attempts to watch what the system refused to let us watch."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """A metafile, and how much its being found says about the events."""

    found: Found
    announced: bool
    """The look was made because its directory had been named as new."""
    events_expected: bool
    """It is new, in a directory that is watched, on a file system that tells of every change."""


@dataclass(frozen=True, slots=True)
class View:
    """What a look at a root gave."""

    discoveries: tuple[Discovery, ...] = ()
    content: Content = NOTHING
    coverage: Coverage = BLIND
    modes: tuple[MountMode, ...] = ()
    reasons: tuple[Reason, ...] = ()
    trouble: Reason | None = None
    """Why it could not be looked at."""
    is_empty: bool = False
    """It lost all that it held."""
    is_first: bool = False
    """What was found was there when watching began, or when the root came back."""
    has_events: bool = False
    """Whether events come, at least from the mount that the root lies on."""


class RootScanner:
    """Looks at one root.

    Parameters
    ----------
    sink : where hints are put.
    known_metafiles : how many were known before this process began; an empty root is an alarm then.
    state_directory : see `lock_root`.
    """

    def __init__(
        self,
        root: WatchRoot,
        sink: HintSink,
        *,
        known_metafiles: int,
        open_hints: OpenHints,
        read_mounts: Callable[[], Iterable[Mount]],
        state_directory: Path | None,
        granularity_s: float,
    ) -> None:
        self._root = root
        self._path = os.fspath(root.directory)
        self._real = self._path
        self._names = NameRule(root.pattern, root.ignore)
        self.tree = Tree(self._path, self._names, granularity_s=granularity_s, before_listing=self._watch_directory)
        self._sink = sink
        self._open_hints = open_hints
        self._read_mounts = read_mounts
        self._state_directory = state_directory
        self._before = Content(known_metafiles, 0)
        self._identity: tuple[int, int] | None = None
        self._lock: RootLock | None = None
        self._hints: Hints | None = None
        self._refused: Reason | None = None
        self._refused_at_limit: int | None = None
        self._retry_at = 0.0
        self._retry_s = root.full_scan_interval_s
        self._mounts: tuple[Mount, ...] = ()
        self._mounts_seen: dict[str, Mount] = {}
        self._coverage = BLIND
        self._measured: int | None = None
        self._unwatched_passes = 0
        self._is_changed = True
        self._is_unlisted = False
        self._is_empty = False

    def claim(self) -> None:
        """Takes the root for this process; leaves one that is not there for later.

        Raises
        ------
        SettingsFault
            If another process owns it, or nothing can be locked.
        """
        if self._lock is None and self._root.directory.is_dir():
            try:
                self._lock = lock_root(self._root.directory, self._state_directory)
            except StorageFault:
                return  # there, but not to be opened: told by the first look
            self._identity = _identity(self._path)

    def open(self) -> View:
        """Reaches the root and asks for its own events; looks at nothing yet, and so knows no directory below it."""
        trouble = self._reach()
        if trouble is None:
            self._watch(distrust=False)
        return self._view([], trouble)

    def survey(self, *, everything: bool = False, distrust: bool = False) -> View:
        """A pass over the whole root.

        Parameters
        ----------
        everything : list every directory, not only those that changed or are polled.
        distrust : whether the root's events have proved wrong.
        """
        trouble = self._reach()
        if trouble is not None:
            return self._view([], trouble)
        self._watch(distrust=distrust and everything)
        try:
            hollow = self._before != NOTHING and _is_hollow(self._path)
        except OSError as error:
            return self._view([], _cannot(error))
        if hollow:
            # What was known stays known: should the same files come back, they are no news.
            self._is_empty = self._is_changed = True
            return self._view([], None)
        unseen = self._unseen()
        everything = everything or distrust or self._is_changed or self._is_unlisted or unseen is None
        found = self.tree.pass_over(unseen or (), everything=everything)
        if self.tree.stop.is_set():
            return self._view([], None)
        return self._judge(found, everything=everything)

    def follow(self, directories: Iterable[str], trees: Iterable[str], asked: Iterable[str]) -> View:
        """A look where hints point.

        Parameters
        ----------
        directories : where a metafile came or changed.
        trees : directories that are new.
        asked : directories to look at for another reason than an event.
        """
        within = [each for each in directories if is_within(each, self._path)]
        unseen = self._unseen()
        discoveries = self._discoveries(self.tree.look_at(within, ()), unseen)
        news = [each for each in _outermost(trees) if is_within(each, self._path)]
        told = self._discoveries(self.tree.look_at((), news), unseen)
        discoveries += [replace(each, announced=True) for each in told]
        discoveries += self._discoveries(self.tree.look_at((), _outermost(asked)), unseen)
        # What came since the last pass is missed, too, should the next one find nothing.
        self._before = max(self._before, self.tree.content)
        return self._view(discoveries, None)

    def attend(self, work: Callable[[], Result]) -> Result:
        """Does one of the above. If nobody waits for it any more when it ends, it gives the root up itself.

        A look may hang in a dead file server until long after the root was taken off the configuration.
        """
        try:
            return work()
        finally:
            if self.tree.stop.is_set():
                self._leave()

    def close(self) -> None:
        """Ends the events and gives the root up."""
        self._leave()

    # --- reaching, owning

    def _reach(self) -> Reason | None:
        try:
            identity = _identity(self._path)
        except OSError as error:
            self._leave()
            return _cannot(error)
        if identity is None:
            self._leave()
            return Reason("unreachable", "is no directory")
        if identity != self._identity:
            # Recreated, or mounted or unmounted: lock and watches hold on to what was there before.
            if self._identity is not None:
                log.warning("watch.root_changed", watch=self._root.name, directory=printable(self._path))
            self._leave()
            self._identity = identity
            self._is_changed = True
        return self._own()

    def _own(self) -> Reason | None:
        if self._lock is None:
            try:
                self._lock = lock_root(self._root.directory, self._state_directory)
            except Fault as fault:
                return Reason("unowned", fault.problem + (f" ({fault.hint})" if fault.hint else ""))
        return None

    def _leave(self) -> None:
        self._unwatch()
        if self._lock is not None:
            self._lock.close()
        self._lock = self._identity = None

    # --- events

    def _watch(self, *, distrust: bool) -> None:
        """Sees that events come if they are wanted; they are asked for anew where they cannot be as they should."""
        self._real = os.path.realpath(self._path)
        self._mounts = mounts_of(self._real, self._read_mounts())
        self._mounts_seen |= {mount.directory: mount for mount in self._mounts[1:]}
        if not self._wants_events():
            self._unwatch()
            return
        now = time.monotonic()
        if self._hints is not None and (distrust or not self._hints.is_alive()):
            log.info("watch.renewing_events", watch=self._root.name)
            self._unwatch()
        if (
            self._hints is None
            and not self.tree.stop.is_set()
            and (now >= self._retry_at or watch_limit() != self._refused_at_limit)
        ):
            self._ask_for_events(now)

    def _wants_events(self) -> bool:
        mode = self._root.mode
        return mode is WatchMode.EVENTS or (mode is WatchMode.AUTO and not self._mounts[0].is_remote)

    def _ask_for_events(self, now: float) -> None:
        try:
            self._hints = self._open_hints(self._path, self._names.accepts, self._sink)
            self._is_unlisted = True
            self._refused = None
        except OSError as error:
            self._refused = Reason("events_refused", refusal(error))
            self._refused_at_limit = watch_limit()
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, LONGEST_RETRY_S)

    def _watch_directory(self, path: str) -> None:
        """Asks for a directory's events before it is listed: what comes after that is told, what came before is seen.

        One that has its watch already keeps it. So whatever took the watch away, the next listing brings it back; and
        polled, which directories without a watch are, means listed.
        """
        if self._hints is not None:
            self._hints.watch(path)

    def _unwatch(self) -> None:
        if self._hints is not None:
            self._hints.close()
        self._hints = None
        self._coverage = BLIND
        self._measured = None

    def _unseen(self) -> frozenset[str] | None:
        """Directories whose changes no event tells; None if that is all of them."""
        if self._hints is None:
            return None
        remote = [mount.directory for mount in self._mounts[1:] if mount.is_remote]
        if not remote or self._root.mode is WatchMode.EVENTS:
            return self._coverage.unwatched
        return self._coverage.unwatched.union(path for path in self.tree.directories if self._is_remote(path))

    def _is_remote(self, path: str) -> bool:
        real = self._real + path[len(self._path) :]
        over = [mount for mount in self._mounts if is_within(real, mount.directory)]
        return max(over, key=lambda mount: len(mount.directory)).is_remote if over else False

    def _measure(self) -> None:
        """Compares what is watched with what is there. Blind where the kernel does not tell.

        It costs more than a pass over mtimes does: not to be done while nothing changes.
        """
        self._measured = self.tree.changes
        descriptors = self._hints.descriptors() if self._hints else None
        seen = len(self.tree.directories)
        if descriptors is None:
            self._coverage = Coverage(seen, 0)
            return
        own = read_watches(descriptors)
        held = len(own) + len(read_watches(inotify_descriptors() - descriptors))
        known = {path: facts for path, facts in self.tree.directories.items() if path not in self.tree.failures}
        coverage = compare(self._path, known, own, watch_limit(), held)
        self._coverage = replace(coverage, seen=seen)
        self._unwatched_passes = self._unwatched_passes + 1 if coverage.unwatched else 0

    # --- what is told

    def _judge(self, found: list[Found], *, everything: bool) -> View:
        if self._path in self.tree.failures:
            return self._view([], Reason("unreachable", f"cannot be read: {self.tree.failures[self._path]}"))
        if everything or self._coverage.unwatched or self._measured != self.tree.changes:
            self._measure()
        if everything:
            self._is_unlisted = False
        is_first = self._is_changed
        self._is_empty = is_suddenly_empty(self._before, self.tree.content)
        self._is_changed = self._is_empty
        if not self._is_empty:
            self._before = self.tree.content
        return replace(self._view(self._discoveries(found, self._unseen()), None), is_first=is_first)

    def _discoveries(self, found: Iterable[Found], unseen: frozenset[str] | None) -> list[Discovery]:
        def is_expected(each: Found) -> bool:
            # A file that is still being written changes without an event until it is closed.
            return each.is_new and unseen is not None and each.path.rpartition("/")[0] not in unseen

        return [Discovery(each, announced=False, events_expected=is_expected(each)) for each in found]

    def _view(self, discoveries: Iterable[Discovery], trouble: Reason | None) -> View:
        return View(
            discoveries=tuple(discoveries),
            content=self.tree.content,
            coverage=replace(self._coverage, seen=len(self.tree.directories)),
            modes=tuple(self._modes()),
            reasons=tuple(self._reasons()) if trouble is None else (),
            trouble=trouble,
            is_empty=trouble is None and self._is_empty,
            has_events=self._hints is not None,
        )

    def _modes(self) -> Iterable[MountMode]:
        for mount in self._mounts:
            told = self._hints is not None and (self._root.mode is WatchMode.EVENTS or not mount.is_remote)
            mode = WatchMode.EVENTS if told else WatchMode.POLL
            yield MountMode(Path(mount.directory), mount.file_system, mode)

    def _reasons(self) -> Iterable[Reason]:
        if self._is_empty:
            held = f"{self._before.metafiles} metafiles in {self._before.directories} directories"
            hint = "see that its disk is mounted and that nothing was deleted"
            yield Reason("empty", f"suddenly empty, it held {held}: {hint}")
        if self._refused is not None and self._hints is None and self._wants_events():
            yield self._refused
        yield from self._coverage_reasons()
        here = {mount.directory for mount in self._mounts}
        gone = [printable(each) for each, mount in self._mounts_seen.items() if each not in here]
        if gone:
            yield Reason("mount_gone", f"no longer mounted: {abbreviate(gone)}")
        if self.tree.failures:
            texts = [f"{printable(path)} ({why})" for path, why in sorted(self.tree.failures.items())]
            yield Reason("unreadable", f"{len(texts)} of its directories cannot be read: {abbreviate(texts)}")
        if self.tree.strangers:
            count = sum(self.tree.strangers.values())
            where = abbreviate([printable(path) for path in sorted(self.tree.strangers)])
            yield Reason("strangers", f"{count} named like a metafile, but not a regular file, in {where}")

    def _coverage_reasons(self) -> Iterable[Reason]:
        coverage = self._coverage
        counts = f"{coverage.watched} of {coverage.seen} directories watched"
        if coverage.limit_reached:
            yield Reason("watch_limit", f"watch limit reached: {counts}; raise fs.inotify.max_user_watches")
        elif self._unwatched_passes >= 2 and coverage.unwatched:
            yield Reason("unwatched", f"{counts}, the others are polled: {abbreviate(sorted(coverage.unwatched))}")


def _identity(path: str) -> tuple[int, int] | None:
    status = os.stat(path)  # noqa: PTH116  a path may hold undecodable bytes; this one needs no Path
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _is_hollow(path: str) -> bool:
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _cannot(error: OSError) -> Reason:
    return Reason("unreachable", f"cannot be looked at: {error.strerror or error}")


def _outermost(trees: Iterable[str]) -> list[str]:
    """Those that lie in none of the others."""
    kept: list[str] = []
    for tree in sorted(trees, key=lambda each: each + "/"):
        if not (kept and is_within(tree, kept[-1])):
            kept.append(tree)
    return kept
