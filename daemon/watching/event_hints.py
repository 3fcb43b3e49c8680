"""Collect events of the operating system as hints where to scan. Only scans determine which files exist.

Events get lost when the kernel's queue overflows, at the watch limit, and on network file systems. Hints are collected,
so that fifty thousand events cause one scan.
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

MAX_HINTS = 10_000
"""Largest number of distinct hints. With more, the whole tree is scanned."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Hints collected since the previous `take`."""

    files: frozenset[str] = frozenset()
    """Metafiles that were created, closed or moved in."""
    trees: frozenset[str] = frozenset()
    """Directories that were created or moved in."""
    overflows: int = 0
    """Number of overflows of the kernel's queue, in which events were lost."""
    is_flooded: bool = False
    """Whether hints were dropped because there were too many."""

    def __bool__(self) -> bool:
        return bool(self.files or self.trees or self.overflows or self.is_flooded)


class HintBox:
    """Holds hints from the watching threads until the scanning task takes them. Thread-safe.

    Parameters
    ----------
    notify : called in the thread that adds the first hint to the empty box.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify = notify
        self._lock = threading.Lock()
        self._files: set[str] = set()
        self._trees: set[str] = set()
        self._overflows = 0
        self._is_flooded = False
        self._is_notified = False

    def file(self, path: str) -> None:
        """Add a metafile that was created or changed."""
        self._put(self._files, path)

    def tree(self, directory: str) -> None:
        """Add a directory that was created or moved in, perhaps with content."""
        self._put(self._trees, directory)

    def overflow(self) -> None:
        """Record that events were lost."""
        with self._lock:
            self._overflows += 1
        self._notify_once()

    def take(self) -> Batch:
        """Return all hints since the previous call, and empty the box."""
        with self._lock:
            batch = Batch(frozenset(self._files), frozenset(self._trees), self._overflows, self._is_flooded)
            self._files.clear()
            self._trees.clear()
            self._overflows = 0
            self._is_flooded = self._is_notified = False
        return batch

    def _put(self, hints: set[str], path: str) -> None:
        with self._lock:
            if len(self._files) + len(self._trees) < MAX_HINTS:
                hints.add(path)
            else:
                self._is_flooded = True
        self._notify_once()

    def _notify_once(self) -> None:
        with self._lock:
            if self._is_notified:
                return
            self._is_notified = True
        self._notify()


class HintSink(Protocol):
    """Receives the hints of watching threads."""

    def file(self, path: str) -> None:
        """Add a metafile that was created or changed."""

    def tree(self, directory: str) -> None:
        """Add a directory that was created or moved in, perhaps with content."""

    def overflow(self) -> None:
        """Record that events were lost."""


class Hints(Protocol):
    """Hints from the events of one tree, until closed."""

    def watch(self, directory: str) -> None:
        """Request events of a directory below the root that is about to be listed. Ignores a refusal."""

    def is_alive(self) -> bool:
        """Whether the watching threads still run."""

    def descriptors(self) -> frozenset[int] | None:
        """Return the inotify instances in use; None where coverage cannot be measured."""

    def close(self) -> None:
        """End the watching threads, and wait for them."""


OpenHints = Callable[[str, Callable[[str], bool], HintSink], Hints]
"""(root, accepts(name), sink) -> Hints. Raises OSError if the system refuses to watch."""


def open_hints(root: str, accepts: Callable[[str], bool], sink: HintSink) -> Hints:
    """Watch a root by inotify. `Hints.watch` must be called for each directory below it.

    Parameters
    ----------
    accepts : whether a file of this name is a metafile.

    Raises
    ------
    OSError
        ENOSPC at the watch limit, EMFILE at the limit of inotify instances, ENOENT if the root is gone.
    """
    inotify = Inotify(root)
    emitter = partial(DirectoryEmitter, inotify=inotify, accepts=accepts, on_overflow=sink.overflow)
    # BaseObserver calls the partial like a class.
    observer = BaseObserver(emitter)  # type: ignore[arg-type]
    observer.schedule(_Handler(sink), root)
    observer.start()
    return _Watch(observer, inotify)


def explain_refusal(error: OSError) -> str:
    """Return why the system refused to watch a tree, with a hint."""
    if error.errno == errno.ENOSPC:
        return "watch limit reached: no directory is watched; raise fs.inotify.max_user_watches"
    if error.errno == errno.EMFILE:
        return "too many inotify instances or open files; raise fs.inotify.max_user_instances or LimitNOFILE"
    return f"the directory cannot be watched: {error.strerror or error}"


class _Handler(FileSystemEventHandler):
    """Puts a hint into the sink for each event, in watchdog's thread."""

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
    """A tree with its own observer, so that a dead thread affects no other root."""

    def __init__(self, observer: BaseObserver, inotify: Inotify) -> None:
        self._observer = observer
        self._inotify = inotify
        self._threads = [observer, *observer.emitters]

    def watch(self, directory: str) -> None:
        with contextlib.suppress(OSError):  # the coverage check finds the directory, and it is polled
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
