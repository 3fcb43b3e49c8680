"""Scan a directory tree for metafiles. Blocking; only one thread at a time.

A pass stats all known directories and lists those that changed or that the caller names. Listing a directory reads its
names and stats its metafiles. Only a listing finds a file that was rewritten in place, since rewriting does not change
the directory's mtime.
"""

import fnmatch
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from daemon.watching.mounts import is_within
from handlers.identity import FileIdentity

Value = TypeVar("Value")

SKEW_NS = 3_600 * 10**9
"""Tolerated clock error of a file server when an mtime is judged to be recent."""


class Found(NamedTuple):
    """A metafile that is new or has changed."""

    path: str
    identity: FileIdentity
    is_new: bool
    """Whether its name was not known before."""


class Content(NamedTuple):
    """Size of a tree."""

    metafiles: int
    directories: int
    """Number of directories below the root."""


NOTHING = Content(0, 0)


class Follower(Protocol):
    """Finds sections in growing files that contain many sections."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return path and identity of the sections that are new or changed since the last call. May raise OSError."""

    def is_due(self, path: str) -> bool:
        """Whether an unchanged file may have new sections, because of another file."""

    def identity(self, path: str) -> FileIdentity | None:
        """Return the present identity of a section; None if it does not exist. May raise OSError."""


@dataclass(frozen=True, slots=True)
class NameRule:
    """Shell pattern of the names of metafiles. Case matters.

    >>> rule = NameRule("_metadata_*.json")
    >>> rule.accepts("_metadata_2017_.json"), rule.accepts("_Metadata_2017_.json")
    (True, False)
    """

    pattern: str
    initial: str = field(init=False)
    """First character of every accepted name, empty if it varies. It rejects images without a function call."""
    _matches: Callable[[str], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", re.split(r"[*?\[]", self.pattern, maxsplit=1)[0][:1])
        object.__setattr__(self, "_matches", re.compile(fnmatch.translate(self.pattern)).match)

    def accepts(self, name: str) -> bool:
        """Whether a file of this name is a metafile."""
        return bool(self._matches(name))


class Tree:
    """The known directories below a root and the metafiles in them.

    Paths are strings with undecodable bytes as surrogates. Symbolic links are not followed, except the root itself.

    Parameters
    ----------
    root : absolute path.
    names : rule for the names of metafiles.
    follow : makes the follower that finds the sections in files with many sections; None: each file is one metafile.
    granularity_s : granularity of the file system's mtimes. A directory with a recent mtime is listed again after this
        time, since a second change within the same tick does not change the mtime.
    before_listing : called with each directory before it is listed, so that its events can be requested.
    """

    def __init__(
        self,
        root: str,
        names: NameRule,
        *,
        follow: Callable[[], Follower] | None = None,
        granularity_s: float = 2.0,
        before_listing: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self.stop = threading.Event()
        """Set it to end a pass at the next directory."""
        self.directories: dict[str, tuple[int, int, int]] = {}
        """Path -> (mtime_ns, st_dev, st_ino) before the last listing. Tuples save memory: 10,000 directories are
        usual."""
        self.failures: dict[str, str] = {}
        """Directories that could not be accessed, and why. Retried in every pass: chmod leaves mtimes unchanged."""
        self.irregular: dict[str, int] = {}
        """Directory -> number of its entries that have a metafile's name but are not regular files."""
        self.changes = 0
        """Number of times that directories appeared, vanished, became readable or were replaced, since the start."""
        self.moved_at = clock()
        """When the scan of the current directory began."""
        self.current = root
        """Directory that is being scanned, or was scanned last."""
        self._names = names
        self._follower = follow() if follow else None
        self._sections_again: set[str] = set()
        self._granularity_s = granularity_s
        self._before_listing = before_listing
        self._clock = clock
        self._wall_ns = wall_ns
        self._files: dict[str, dict[str, FileIdentity]] = {}
        self._recent: dict[str, float] = {}
        self._unsure: set[str] = set()
        """Directories in which an entry vanished during a scan. They are listed again even if their mtime is unchanged:
        a disk that was unmounted and mounted again shows the same mtimes."""
        self._marked: dict[str, set[str]] = {}
        self._marks_lock = threading.Lock()

    @property
    def content(self) -> Content:
        """Size of the tree at the last scan."""
        return Content(sum(map(len, self._files.values())), max(0, len(self.directories) - 1))

    def mark_changed(self, metafile: str) -> None:
        """Report a metafile as changed in its next listing: it may have been absent between two scans. Thread-safe."""
        directory, name = os.path.split(metafile)
        with self._marks_lock:
            self._marked.setdefault(directory, set()).add(name)

    def mark_section(self, section: str) -> None:
        """Report a section inside a file again in the file's next listing. Thread-safe."""
        with self._marks_lock:
            self._sections_again.add(section)

    def growing(self) -> set[str]:
        """Return the directories with files that may grow. Growth does not change a directory's mtime."""
        return set(self._files) if self._follower else set()

    def _take_marks(self, directory: str) -> set[str]:
        with self._marks_lock:
            return self._marked.pop(directory, set())

    def pass_over(self, polled: Collection[str] = (), *, everything: bool = False) -> list[Found]:
        """Return the metafiles of the whole tree that are new or changed since the last pass.

        Parameters
        ----------
        polled : directories that are listed even if their mtime is unchanged.
        everything : whether all directories are listed.
        """
        found: list[Found] = []
        new: list[str] = []
        growing = self.growing()
        unvisited_root = () if self.root in self.directories else (self.root,)  # new, or gone at the last scan
        for path in (*unvisited_root, *self.directories):
            if self.stop.is_set():
                return found
            if path not in self.directories and path != self.root:
                continue  # dropped during this pass, with a directory above it
            new += self._scan_directory(path, found, listing=everything or path in polled or path in growing)
        while new and not self.stop.is_set():
            new += self._scan_directory(new.pop(), found, listing=True)
        return found

    def scan_some(self, directories: Iterable[str], trees: Iterable[str]) -> list[Found]:
        """List directories, and trees with everything below; return the new and changed metafiles."""
        found: list[Found] = []
        new: list[str] = []
        for directory in directories:
            new += self._scan_directory(directory, found, listing=True)
        new += trees
        while new and not self.stop.is_set():
            new += self._scan_directory(new.pop(), found, listing=True, deep=True)
        return found

    def _scan_directory(self, path: str, found: list[Found], *, listing: bool, deep: bool = False) -> list[str]:
        """Scan one directory; return its unknown subdirectories, or all of them if `deep`."""
        self.moved_at = self._clock()
        self.current = path
        try:
            status = os.stat(path) if path == self.root else os.lstat(path)  # noqa: PTH116  takes half the time of Path.stat
        except (FileNotFoundError, NotADirectoryError):
            self._forget(path)
            return []
        except OSError as error:
            self.failures[path] = error.strerror or str(error)
            return []
        if not stat.S_ISDIR(status.st_mode):
            self._forget_tree(path)
            return []
        now = (status.st_mtime_ns, status.st_dev, status.st_ino)
        changed = self.directories.get(path) != now
        if not (listing or changed or path in self._recent or path in self._unsure or path in self.failures):
            return []
        if changed and now[0] > self._wall_ns() - SKEW_NS:
            self._recent[path] = self._clock() + self._granularity_s
        return self._list_known(path, now, found, deep=deep)

    def _list_known(self, path: str, now: tuple[int, int, int], found: list[Found], *, deep: bool) -> list[str]:
        began = self._clock()
        self._unsure.discard(path)
        self._before_listing(path)
        try:
            below = self._list(path, found)
        except FileNotFoundError:
            self._forget(path)
            return []
        except OSError as error:
            self.directories[path] = now
            self.failures[path] = error.strerror or str(error)
            return []
        known = self.directories.get(path)
        was_unreadable = self.failures.pop(path, None) is not None
        if was_unreadable or known is None or known[1:] != now[1:]:
            self.changes += 1
        self.directories[path] = now
        if began >= self._recent.get(path, began + 1):
            del self._recent[path]
        return below if deep else [each for each in below if each not in self.directories]

    def _list(self, path: str, found: list[Found]) -> list[str]:
        """List a directory; append its new and changed metafiles to `found`. Return its subdirectories."""
        base = path if path.endswith("/") else path + "/"
        below: list[str] = []
        named: list[os.DirEntry[str]] = []
        initial, accepts = self._names.initial, self._names.accepts
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(base + entry.name)
                elif initial in entry.name[0] and accepts(entry.name):
                    named.append(entry)
        self._record(path, base, named, found)
        return below

    def _record(self, path: str, base: str, entries: list[os.DirEntry[str]], found: list[Found]) -> None:
        known = self._files.get(path, {})
        present: dict[str, FileIdentity] = {}
        marked = self._take_marks(path)
        irregular = 0
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                self._unsure.add(path)
                continue  # renamed, removed or unmounted since the listing
            if not stat.S_ISREG(status.st_mode):
                irregular += 1
                continue
            identity = FileIdentity.of(status)
            present[entry.name] = identity
            if self._follower is not None:
                found += self._sections(self._follower, base + entry.name, known.get(entry.name) != identity)
            elif known.get(entry.name) != identity or entry.name in marked:
                found.append(Found(base + entry.name, identity, entry.name not in known))
        _set_or_drop(self._files, path, present)
        _set_or_drop(self.irregular, path, irregular)

    def _sections(self, follower: Follower, path: str, has_changed: bool) -> Iterator[Found]:
        """Yield the sections of a file that are new, changed or marked. No event announces a section."""
        with self._marks_lock:
            again = {each for each in self._sections_again if os.path.dirname(each) == path}  # noqa: PTH120  text
            self._sections_again -= again
        for section, identity in follower.sections(path) if has_changed or follower.is_due(path) else ():
            yield Found(section, identity, False)
            again.discard(section)
        for section in again:
            if present := follower.identity(section):
                yield Found(section, present, False)

    def _forget(self, path: str) -> None:
        if self.directories.pop(path, None):
            self.changes += 1
        self._files.pop(path, None)
        self._take_marks(path)
        self._recent.pop(path, None)
        self.failures.pop(path, None)
        self.irregular.pop(path, None)
        self._unsure.discard(path)
        if path != self.root:
            self._unsure.add(os.path.dirname(path))  # noqa: PTH120  text

    def _forget_tree(self, path: str) -> None:
        """Drop a path that is no longer a directory, and all below it: a symbolic link may still resolve to them."""
        for each in [each for each in self.directories if is_within(each, path)]:
            self._forget(each)


def _set_or_drop(facts: dict[str, Value], path: str, value: Value) -> None:
    if value:
        facts[path] = value
    else:
        facts.pop(path, None)


MANY_METAFILES = 10
"""If at least this many metafiles vanish at once, a tree counts as empty even if directories remain."""


def is_suddenly_empty(before: Content, now: Content) -> bool:
    """Whether a tree has lost its content, for example because its mount is gone or its files were deleted.

    >>> is_suddenly_empty(Content(1, 1), Content(0, 0)), is_suddenly_empty(Content(1, 1), Content(0, 1))
    (True, False)
    >>> is_suddenly_empty(Content(30, 5), Content(0, 5)), is_suddenly_empty(Content(0, 0), Content(0, 0))
    (True, False)
    """
    if now.metafiles:
        return False
    return before.metafiles >= MANY_METAFILES if now.directories else before.metafiles > 0 or before.directories > 0
