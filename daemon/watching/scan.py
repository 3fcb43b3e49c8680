"""What a directory tree holds, looked at as cheaply as may be. Blocking; one thread at a time.

A pass stats the known directories and lists those that changed, or that it is told to list. Listing a directory takes
its names, and a stat of the metafiles among them: what was rewritten in place is noticed then, since that leaves the
directory's mtime alone.
"""

import fnmatch
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from daemon.watching.mounts import is_within
from handlers.identity import FileIdentity

Value = TypeVar("Value")

SKEW_NS = 3_600 * 10**9
"""How wrong a file server's clock may be when an mtime is judged to be recent."""


class Found(NamedTuple):
    """A metafile that is new, or not what it was."""

    path: str
    identity: FileIdentity
    is_new: bool
    """Whether its name was not there before."""


class Content(NamedTuple):
    """How much a tree holds."""

    metafiles: int
    directories: int
    """Below the root, which does not count."""


NOTHING = Content(0, 0)


@dataclass(frozen=True, slots=True)
class NameRule:
    """Which file names are metafiles: one shell pattern, and patterns of names to leave out. Case matters.

    >>> rule = NameRule("_metadata_*.json", ("*_reference_*",))
    >>> rule.accepts("_metadata_2017_.json"), rule.accepts("_metadata_reference_1.json"), rule.accepts("a.json")
    (True, False, False)
    """

    pattern: str
    ignore: tuple[str, ...] = ()
    initial: str = field(init=False)
    """What every accepted name starts with, if that is known: rejects images without a call."""
    _matches: Callable[[str], object] = field(init=False, repr=False, compare=False)
    _ignored: Callable[[str], object] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "initial", re.split(r"[*?\[]", self.pattern, maxsplit=1)[0][:1])
        object.__setattr__(self, "_matches", re.compile(fnmatch.translate(self.pattern)).match)
        unwanted = "|".join(fnmatch.translate(pattern) for pattern in self.ignore)
        object.__setattr__(self, "_ignored", re.compile(unwanted).match if unwanted else None)

    def accepts(self, name: str) -> bool:
        """Whether a file of this name is a metafile."""
        return bool(self._matches(name)) and not (self._ignored and self._ignored(name))


class Tree:
    """What is known of the directories below a root and of the metafiles in them.

    Paths are strings with undecodable bytes as surrogates. Symbolic links are not followed, but for the root itself.

    Parameters
    ----------
    root : absolute path.
    names : which files are metafiles.
    granularity_s : how coarse the mtimes of the file system may be. A directory whose mtime was new is listed again
        once this time has gone by: a second change within the same tick leaves the same mtime.
    before_listing : called with each directory that is about to be listed: the time to ask for its events.
    """

    def __init__(
        self,
        root: str,
        names: NameRule,
        *,
        granularity_s: float = 2.0,
        before_listing: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.root = root
        self.stop = threading.Event()
        """Ends a pass at the next directory."""
        self.directories: dict[str, tuple[int, int, int]] = {}
        """Path -> (mtime_ns, st_dev, st_ino) before the directory was last listed. Tuples: 10,000 of them are usual."""
        self.failures: dict[str, str] = {}
        """Directories that could not be looked at, and why. Tried again in every pass: chmod leaves mtimes alone."""
        self.strangers: dict[str, int] = {}
        """Directory -> how many things in it have a metafile's name and are no regular file."""
        self.looked_at = 0
        """Directories done, ever: moves while a pass moves."""
        self.changes = 0
        """Directories that came, went, became readable or were replaced, ever."""
        self.moved_at = clock()
        """When the last directory was begun."""
        self.current = root
        """Directory under way."""
        self._names = names
        self._granularity_s = granularity_s
        self._before_listing = before_listing
        self._clock = clock
        self._wall_ns = wall_ns
        self._files: dict[str, dict[str, FileIdentity]] = {}
        self._hot: dict[str, float] = {}
        self._doubted: dict[str, set[str]] = {}
        self._doubts = threading.Lock()

    @property
    def content(self) -> Content:
        """How much was there when last looked at."""
        return Content(sum(map(len, self._files.values())), max(0, len(self.directories) - 1))

    def doubt(self, metafile: str) -> None:
        """Count a metafile as changed when it is listed next: it may have been away between two looks.

        Any thread may call this.
        """
        directory, name = os.path.split(metafile)
        with self._doubts:
            self._doubted.setdefault(directory, set()).add(name)

    def _take_doubts(self, directory: str) -> set[str]:
        with self._doubts:
            return self._doubted.pop(directory, set())

    def pass_over(self, polled: Collection[str] = (), *, everything: bool = False) -> list[Found]:
        """Metafiles new or changed since the last pass, in the whole tree.

        Parameters
        ----------
        polled : directories to list whatever their mtime says.
        everything : list all of them.
        """
        found: list[Found] = []
        new: list[str] = []
        for path in tuple(self.directories) or (self.root,):
            if self.stop.is_set():
                return found
            if path not in self.directories and path != self.root:
                continue  # forgotten during this pass, with a directory above it
            new += self._look(path, found, listing=everything or path in polled)
        while new and not self.stop.is_set():
            new += self._look(new.pop(), found, listing=True)
        return found

    def look_at(self, directories: Iterable[str], trees: Iterable[str]) -> list[Found]:
        """Metafiles new or changed in some directories, and anywhere in some trees, all of them listed."""
        found: list[Found] = []
        new: list[str] = []
        for directory in directories:
            new += self._look(directory, found, listing=True)
        new += trees
        while new and not self.stop.is_set():
            new += self._look(new.pop(), found, listing=True, deep=True)
        return found

    def _look(self, path: str, found: list[Found], *, listing: bool, deep: bool = False) -> list[str]:
        """Directories to go on with: those not known yet, or all of them if deep."""
        self.looked_at += 1
        self.moved_at = self._clock()
        self.current = path
        try:
            status = os.stat(path) if path == self.root else os.lstat(path)  # noqa: PTH116  half the time of a Path's
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
        if not (listing or changed or path in self._hot or path in self.failures):
            return []
        if changed and now[0] > self._wall_ns() - SKEW_NS:
            self._hot[path] = self._clock() + self._granularity_s
        return self._list_known(path, now, found, deep=deep)

    def _list_known(self, path: str, now: tuple[int, int, int], found: list[Found], *, deep: bool) -> list[str]:
        began = self._clock()
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
        was_closed = self.failures.pop(path, None) is not None
        if was_closed or known is None or known[1:] != now[1:]:
            self.changes += 1
        self.directories[path] = now
        if began >= self._hot.get(path, began + 1):
            del self._hot[path]
        return below if deep else [each for each in below if each not in self.directories]

    def _list(self, path: str, found: list[Found]) -> list[str]:
        """Directories directly below; the metafiles go to the known files, and to `found` where they differ."""
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
        self._compare(path, base, named, found)
        return below

    def _compare(self, path: str, base: str, entries: list[os.DirEntry[str]], found: list[Found]) -> None:
        known = self._files.get(path, {})
        present: dict[str, FileIdentity] = {}
        doubted = self._take_doubts(path)
        strangers = 0
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # renamed or removed since the listing
            if not stat.S_ISREG(status.st_mode):
                strangers += 1
                continue
            identity = FileIdentity.of(status)
            present[entry.name] = identity
            if known.get(entry.name) != identity or entry.name in doubted:
                found.append(Found(base + entry.name, identity, entry.name not in known))
        _keep(self._files, path, present)
        _keep(self.strangers, path, strangers)

    def _forget(self, path: str) -> None:
        if self.directories.pop(path, None):
            self.changes += 1
        self._files.pop(path, None)
        self._take_doubts(path)
        self._hot.pop(path, None)
        self.failures.pop(path, None)
        self.strangers.pop(path, None)

    def _forget_tree(self, path: str) -> None:
        """A directory became something else: through a link, paths below it could still resolve."""
        for each in [each for each in self.directories if is_within(each, path)]:
            self._forget(each)


def _keep(facts: dict[str, Value], path: str, value: Value) -> None:
    if value:
        facts[path] = value
    else:
        facts.pop(path, None)


MANY = 10
"""Metafiles whose disappearance, all at once, is an alarm even where directories remain."""


def is_suddenly_empty(before: Content, now: Content) -> bool:
    """Whether a tree lost what it held: a mount that is gone looks like this, and so does a deletion by mistake.

    >>> is_suddenly_empty(Content(1, 1), Content(0, 0)), is_suddenly_empty(Content(1, 1), Content(0, 1))
    (True, False)
    >>> is_suddenly_empty(Content(30, 5), Content(0, 5)), is_suddenly_empty(Content(0, 0), Content(0, 0))
    (True, False)
    """
    if now.metafiles:
        return False
    return before.metafiles >= MANY if now.directories else before.metafiles > 0 or before.directories > 0
