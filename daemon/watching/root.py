"""The blocking part of one watch root: access it, lock it, scan it.

Every method may block as long as a file server does not answer. Only one thread at a time calls them.
"""

import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import structlog

from daemon.system.locks import RootLock, lock_root
from daemon.watching.coverage import UNMEASURED, Coverage
from daemon.watching.event_hints import HintSink, OpenHints
from daemon.watching.mounts import Mount, is_within
from daemon.watching.root_events import RootEvents
from daemon.watching.roots import MountMode, Reason, WatchRoot
from daemon.watching.scan import NOTHING, Content, Found, NameRule, Tree, is_suddenly_empty
from handlers.errors import Fault, StorageFault, reading_hint
from handlers.text import abbreviate, printable

log = structlog.get_logger()

Result = TypeVar("Result")

_READABLE = "let the user that runs temwatch read {}, or check the disk"


@dataclass(frozen=True, slots=True)
class Discovery:
    """A metafile that a scan found, and whether an event announced it."""

    found: Found
    announced: bool
    """Whether an event of a new directory above it caused the scan."""
    events_expected: bool
    """Whether it is new and in a watched directory of a file system that reports every change."""


@dataclass(frozen=True, slots=True)
class View:
    """Result of a scan of a root."""

    discoveries: tuple[Discovery, ...] = ()
    content: Content = NOTHING
    coverage: Coverage = UNMEASURED
    modes: tuple[MountMode, ...] = ()
    reasons: tuple[Reason, ...] = ()
    trouble: Reason | None = None
    """Why the root cannot be accessed; None if it can."""
    is_empty: bool = False
    """Whether the root has suddenly lost its content."""
    is_first: bool = False
    """Whether the discoveries were present when watching began, or when the root returned."""
    has_events: bool = False
    """Whether events are requested, at least for the mount that contains the root."""


class RootScanner:
    """Scans one root.

    Parameters
    ----------
    sink : receives the hints.
    known_metafiles : number of metafiles in the journal. If there are any, an empty root is a problem.
    granularity_s : see `Tree`.
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
        names = NameRule(root.pattern)
        self._events = RootEvents(root, names.accepts, sink, open_hints=open_hints, read_mounts=read_mounts)
        before_listing = self._events.watch_directory
        self.tree = Tree(
            self._path, names, follow=root.follow, granularity_s=granularity_s, before_listing=before_listing
        )
        self._state_directory = state_directory
        self._before = Content(known_metafiles, 0)
        self._identity: tuple[int, int] | None = None
        self._lock: RootLock | None = None
        self._is_replaced = True
        """Whether the directory is not the one of the last pass, or was empty then."""
        self._is_empty = False

    def claim(self) -> None:
        """Lock the root for this process. A missing root is locked by a later scan.

        Raises
        ------
        SettingsFault
            If another process holds the lock, or nothing can be locked.
        """
        if self._lock is None and self._root.directory.is_dir():
            try:
                self._lock = lock_root(self._root.directory, self._state_directory)
            except StorageFault:
                return  # it cannot be opened or locked now; the first scan reports that
            self._identity = _identity(self._path)

    def open(self) -> View:
        """Access the root and request its own events. Scans nothing, so directories below it are still unknown."""
        trouble = self._access()
        if trouble is None:
            self._refresh_events(renew=False)
        return self._view([], trouble)

    def scan(self, *, everything: bool = False, events_unreliable: bool = False) -> View:
        """Scan the whole root.

        Parameters
        ----------
        everything : whether every directory is listed, not only changed and polled ones.
        events_unreliable : whether events are unreliable. Then every directory is listed, and a scan with `everything`
            requests events again.
        """
        trouble = self._access()
        if trouble is not None:
            return self._view([], trouble)
        self._refresh_events(renew=events_unreliable and everything)
        try:
            has_vanished = self._before != NOTHING and has_no_entries(self._path)
        except OSError as error:
            return self._view([], _inaccessible(error))
        if has_vanished:
            # The known files are kept, so that they are not reported again when they return.
            self._is_empty = self._is_replaced = True
            return self._view([], None)
        uncovered = self._events.uncovered(self.tree)
        everything |= events_unreliable or self._is_replaced or self._events.is_new or uncovered is None
        found = self.tree.pass_over(uncovered or (), everything=everything)
        if self.tree.stop.is_set():
            return self._view([], None)
        return self._judge(found, everything=everything)

    def follow(self, directories: Iterable[str], trees: Iterable[str]) -> View:
        """Scan the places that hints name.

        Parameters
        ----------
        directories : directories in which a metafile was created or changed.
        trees : new directories, scanned with everything below.
        """
        within = [each for each in directories if is_within(each, self._path)]
        uncovered = self._events.uncovered(self.tree)
        discoveries = self._discoveries(self.tree.scan_some(within, ()), uncovered)
        new = [each for each in _outermost(trees) if is_within(each, self._path)]
        announced = self._discoveries(self.tree.scan_some((), new), uncovered)
        discoveries += [replace(each, announced=True) for each in announced]
        # If the next pass finds the root empty, metafiles found since the last pass count as lost, too.
        self._before = max(self._before, self.tree.content)
        return self._view(discoveries, None)

    def run_and_release(self, work: Callable[[], Result]) -> Result:
        """Call one of the methods above; afterwards release the root if the watcher has dropped it meanwhile.

        A call may hang on a dead file server long after the root was removed from the configuration.
        """
        try:
            return work()
        finally:
            if self.tree.stop.is_set():
                self.close()

    def close(self) -> None:
        """End the events and release the lock."""
        self._events.stop()
        if self._lock is not None:
            self._lock.close()
        self._lock = self._identity = None

    # --- access

    def _access(self) -> Reason | None:
        try:
            identity = _identity(self._path)
        except OSError as error:
            self.close()
            return _inaccessible(error)
        if identity is None:
            self.close()
            return Reason("unreachable", "is not a directory (correct watch.directory)")
        if identity != self._identity:
            # The directory was recreated, mounted or unmounted: lock and watches belong to the previous directory.
            if self._identity is not None:
                log.warning("watch.root_changed", watch=self._root.name, directory=printable(self._path))
            self.close()
            self._identity = identity
            self._is_replaced = True
        return self._acquire_lock()

    def _acquire_lock(self) -> Reason | None:
        if self._lock is None:
            try:
                self._lock = lock_root(self._root.directory, self._state_directory)
            except Fault as fault:
                return Reason("unowned", fault.problem + (f" ({fault.hint})" if fault.hint else ""))
        return None

    def _refresh_events(self, *, renew: bool) -> None:
        self._events.refresh(renew=renew, may_open=not self.tree.stop.is_set())

    # --- results

    def _judge(self, found: list[Found], *, everything: bool) -> View:
        if self._path in self.tree.failures:
            why = self.tree.failures[self._path]
            return self._view([], Reason("unreachable", f"cannot be read: {why} ({_READABLE.format('it')})"))
        self._events.measure(self.tree, everything=everything)
        is_first = self._is_replaced
        self._is_empty = is_suddenly_empty(self._before, self.tree.content)
        self._is_replaced = self._is_empty
        if not self._is_empty:
            self._before = self.tree.content
        discoveries = self._discoveries(found, self._events.uncovered(self.tree))
        return replace(self._view(discoveries, None), is_first=is_first)

    def _discoveries(self, found: Iterable[Found], uncovered: frozenset[str] | None) -> list[Discovery]:
        def is_expected(each: Found) -> bool:
            # A file that is still being written changes without an event until it is closed.
            return each.is_new and uncovered is not None and each.path.rpartition("/")[0] not in uncovered

        return [Discovery(each, announced=False, events_expected=is_expected(each)) for each in found]

    def _view(self, discoveries: Iterable[Discovery], trouble: Reason | None) -> View:
        return View(
            discoveries=tuple(discoveries),
            content=self.tree.content,
            coverage=replace(self._events.coverage, seen=len(self.tree.directories)),
            modes=tuple(self._events.modes()),
            reasons=tuple(self._reasons()) if trouble is None else (),
            trouble=trouble,
            is_empty=trouble is None and self._is_empty,
            has_events=self._events.are_coming,
        )

    def _reasons(self) -> Iterable[Reason]:
        if self._is_empty:
            yield Reason("empty", emptied(self._before))
        if self._lock is not None and self._lock.remark:
            yield Reason("locked_by_another_user", self._lock.remark)
        yield from self._events.reasons()
        if self.tree.failures:
            texts = [f"{printable(path)} ({why})" for path, why in sorted(self.tree.failures.items())]
            problem = f"{len(texts)} of its directories cannot be read: {abbreviate(texts)}"
            yield Reason("unreadable", f"{problem}: {_READABLE.format('them')}")
        if self.tree.irregular:
            count = sum(self.tree.irregular.values())
            where = abbreviate([printable(path) for path in sorted(self.tree.irregular)])
            problem = "1 entry with a metafile's name is not a regular file"
            if count > 1:
                problem = f"{count} entries with a metafile's name are not regular files"
            hint = "put the files themselves there, or delete these entries"
            yield Reason("irregular", f"{problem}, in {where}: {hint}")


def emptied(before: Content) -> str:
    """Return why a root without its former content is not watched.

    >>> emptied(Content(3, 0))
    'suddenly empty, it contained 3 metafiles: check that its disk is mounted and that nothing was deleted'
    """
    where = f" in {before.directories} directories" if before.directories else ""
    hint = "check that its disk is mounted and that nothing was deleted"
    return f"suddenly empty, it contained {before.metafiles} metafiles{where}: {hint}"


def has_no_entries(path: str) -> bool:
    """Whether a directory is empty. Raises OSError if it cannot be read."""
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _identity(path: str) -> tuple[int, int] | None:
    status = os.stat(path)  # noqa: PTH116  a path may hold undecodable bytes; a Path is not needed here
    return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _inaccessible(error: OSError) -> Reason:
    return Reason("unreachable", f"cannot be accessed: {error.strerror or error} ({reading_hint(error)})")


def _outermost(trees: Iterable[str]) -> list[str]:
    """Return the trees that are not inside another one."""
    kept: list[str] = []
    for tree in sorted(trees, key=lambda each: each + "/"):
        if not (kept and is_within(tree, kept[-1])):
            kept.append(tree)
    return kept
