"""Events of the operating system, as hints where to look: never the truth about what is there.

Events get lost: on overflow of the kernel's queue, past the watch limit, on network file systems. What is told is
collected here, so that fifty thousand events make one scan and not fifty thousand.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver

from daemon.watching.inotify import DirectoryEmitter, Inotify

MOST_HINTS = 10_000
"""Distinct hints kept; beyond, they say no more than that the whole tree needs a look."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Hints collected since the last time."""

    files: frozenset[str] = frozenset()
    """Metafiles created, closed or moved in."""
    trees: frozenset[str] = frozenset()
    """Directories created or moved in."""
    overflows: int = 0
    """Times that events were lost."""
    is_flooded: bool = False
    """Whether there were more hints than are kept."""

    def __bool__(self) -> bool:
        return bool(self.files or self.trees or self.overflows or self.is_flooded)


class HintBox:
    """Where watching threads put hints, and the scanning task takes them. Any thread may call it.

    Parameters
    ----------
    notify : called, from whichever thread, when the box ceases to be empty.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._files: set[str] = set()
        self._trees: set[str] = set()
        self._overflows = 0
        self._is_flooded = False
        self._is_told = False

    def file(self, path: str) -> None:
        """A metafile came or changed."""
        self._put(self._files, path)

    def tree(self, directory: str) -> None:
        """A directory came, and perhaps something in it."""
        self._put(self._trees, directory)

    def overflow(self) -> None:
        """Events were lost."""
        with self._lock:
            self._overflows += 1
        self._tell()

    def take(self) -> Batch:
        """All hints since the last time; leaves the box empty."""
        with self._lock:
            batch = Batch(frozenset(self._files), frozenset(self._trees), self._overflows, self._is_flooded)
            self._files.clear()
            self._trees.clear()
            self._overflows = 0
            self._is_flooded = self._is_told = False
        return batch

    def _put(self, hints: set[str], path: str) -> None:
        with self._lock:
            if len(self._files) + len(self._trees) < MOST_HINTS:
                hints.add(path)
            else:
                self._is_flooded = True
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            if self._is_told:
                return
            self._is_told = True
        self._notify()


class HintSink(Protocol):
    """What watching threads put hints into."""

    def file(self, path: str) -> None:
        """A metafile came or changed."""

    def tree(self, directory: str) -> None:
        """A directory came, and perhaps something in it."""

    def overflow(self) -> None:
        """Events were lost."""


class Hints(Protocol):
    """Events of one tree being put into a box, until closed."""

    def watch(self, directory: str) -> None:
        """Asks for the events of a directory below the root, which is about to be listed. Does nothing if it cannot."""

    def is_alive(self) -> bool:
        """Whether events can still come."""

    def descriptors(self) -> frozenset[int] | None:
        """inotify instances that serve it; None where coverage cannot be measured."""

    def close(self) -> None:
        """No more hints come afterwards. Blocks until the watching threads have ended."""


OpenHints = Callable[[str, Callable[[str], bool], HintSink], Hints]
"""(root, accepts(name), sink) -> Hints. Raises OSError where the system refuses."""


def open_hints(root: str, accepts: Callable[[str], bool], sink: HintSink) -> Hints:
    """Watches a root; for each directory below it `Hints.watch` is to be called.

    Raises
    ------
    OSError
        ENOSPC at the watch limit, EMFILE at the limit of inotify instances, ENOENT if the root is gone.
    """
    inotify = Inotify(root)
    emitter = partial(DirectoryEmitter, inotify=inotify, accepts=accepts, on_overflow=sink.overflow)
    # Called as the class would be.
    observer = BaseObserver(emitter)  # type: ignore[arg-type]
    observer.schedule(_Handler(sink), root)
    observer.start()
    return _Watch(observer, inotify)


def refusal(error: OSError) -> str:
    """Why the system does not let a tree be watched, with what to do about it."""
    if error.errno == errno.ENOSPC:
        return "watch limit reached: no directory could be watched; raise fs.inotify.max_user_watches"
    if error.errno == errno.EMFILE:
        return "too many inotify instances or open files; raise fs.inotify.max_user_instances or LimitNOFILE"
    return f"the directory cannot be watched: {error.strerror or error}"


class _Handler(FileSystemEventHandler):
    """Puts one hint into the box for each event, in watchdog's thread."""

    def __init__(self, sink: HintSink) -> None:
        self._sink = sink

    def dispatch(self, event: FileSystemEvent) -> None:
        """See FileSystemEventHandler."""
        path = os.fsdecode(event.src_path)
        if event.is_directory:
            self._sink.tree(path)
        else:
            self._sink.file(path)


class _Watch:
    """A tree watched by an observer of its own, so that a thread that dies takes no other root with it."""

    def __init__(self, observer: BaseObserver, inotify: Inotify) -> None:
        self._observer = observer
        self._inotify = inotify
        self._threads = [observer, *observer.emitters]

    def watch(self, directory: str) -> None:
        with contextlib.suppress(OSError):  # what is not watched is found by comparing, and polled
            self._inotify.watch(directory)

    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def descriptors(self) -> frozenset[int] | None:
        return frozenset({self._inotify.descriptor})

    def close(self) -> None:
        self._observer.stop()
        for thread in self._threads:
            thread.join()
        self._inotify.close()
