"""Events of the operating system, as hints where to look: never the truth about what is there.

watchdog loses events: on overflow of the kernel's queue, in nested directories made in a burst, past the watch limit.
What it does tell is collected here, so that fifty thousand events make one scan and not fifty thousand.
"""

import contextlib
import errno
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from daemon.watching.coverage import descriptors_watching

WANTED: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
"""Created must be among them: without it watchdog before 7 does not follow into new directories."""
MOST_HINTS = 10_000
"""Distinct hints kept; beyond, they say no more than that the whole tree needs a look."""
_SAME_OVERFLOW_S = 0.5
_WATCHDOG_LOG = "watchdog"
_opening = threading.Lock()
"""One observer at a time is started: which threads are its own is told by comparing those before and after."""


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
        self._last_overflow = float("-inf")
        self._is_flooded = False
        self._is_told = False

    def file(self, path: str) -> None:
        """A metafile came or changed."""
        self._put(self._files, path)

    def tree(self, directory: str) -> None:
        """A directory came, and perhaps something in it."""
        self._put(self._trees, directory)

    def overflow(self) -> None:
        """Events were lost. watchdog says so twice for one overflow, which counts once."""
        with self._lock:
            now = time.monotonic()
            if now < self._last_overflow + _SAME_OVERFLOW_S:
                return
            self._last_overflow = now
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

    def is_alive(self) -> bool:
        """Whether events can still come."""

    def descriptors(self) -> frozenset[int] | None:
        """inotify instances that serve it; None where coverage cannot be measured."""

    def close(self) -> None:
        """No more hints come afterwards. Blocks until the watching threads have ended."""


OpenHints = Callable[[str, Callable[[str], bool], HintSink], Hints]
"""(root, accepts(name), sink) -> Hints. Raises OSError where the system refuses."""


def open_hints(root: str, accepts: Callable[[str], bool], sink: HintSink) -> Hints:
    """Watches a tree with watchdog.

    Raises
    ------
    OSError
        ENOSPC at the watch limit, EMFILE at the limit of inotify instances, ENOENT if the root is gone.
    """
    _be_quiet()
    inode = Path(root).stat().st_ino
    with _opening:
        threads = set(threading.enumerate())
        observer = Observer(timeout=1.0)
        observer.start()
        own = [thread for thread in threading.enumerate() if thread not in threads and _is_watching(thread)]
    try:
        observer.schedule(_Handler(root, accepts, sink), root, recursive=True, event_filter=WANTED)
    except OSError:
        _stop(observer)
        # watchdog 6 leaves the half-made instance open: its watches would count against the limit it ran into.
        for descriptor in descriptors_watching(inode):
            os.close(descriptor)
        raise
    return _Watch(observer, descriptors_watching(inode) or None, [*own, *observer.emitters], sink)


def refusal(error: OSError) -> str:
    """Why the system does not let a tree be watched, with what to do about it."""
    if error.errno == errno.ENOSPC:
        return "watch limit reached: no directory could be watched; raise fs.inotify.max_user_watches"
    if error.errno == errno.EMFILE:
        return "too many inotify instances or open files; raise fs.inotify.max_user_instances or LimitNOFILE"
    return f"the directory cannot be watched: {error.strerror or error}"


def _be_quiet() -> None:
    """watchdog warns by the thousand about nested directories that appear while it adds watches; scans find them.

    Under `-W error` such a warning would end its thread. Set at each opening, since whoever catches warnings undoes it.
    """
    warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"watchdog\..*")
    log = logging.getLogger(_WATCHDOG_LOG)
    log.propagate = False
    log.setLevel(logging.WARNING)


def _is_watching(thread: threading.Thread) -> bool:
    return type(thread).__module__.partition(".")[0] == "watchdog"


def _stop(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join()


class _Handler(FileSystemEventHandler):
    """Sorts events by name, in watchdog's thread: it must be quick, or the kernel's queue overflows behind it."""

    def __init__(self, root: str, accepts: Callable[[str], bool], sink: HintSink) -> None:
        self._root = root
        self._accepts = accepts
        self._sink = sink

    def dispatch(self, event: FileSystemEvent) -> None:
        """Puts one hint into the box, or none."""
        path = os.fsdecode(event.dest_path or event.src_path)
        if event.is_directory:
            if path != self._root:
                self._sink.tree(path)
        elif self._accepts(path.rpartition("/")[2]):
            self._sink.file(path)


class _OverflowListener(logging.Handler):
    """Hears watchdog 7.1 say that events were lost; it says so in the log only. 6.0 says nothing at all."""

    def __init__(self, threads: frozenset[int | None], sink: HintSink) -> None:
        super().__init__(logging.WARNING)
        self._threads = threads
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Counts a warning of the observer's own threads."""
        if record.thread in self._threads and "overflow" in record.msg:
            self._sink.overflow()


class _Watch:
    """A tree watched by an observer of its own, so that a thread that dies takes no other root with it."""

    def __init__(
        self,
        observer: BaseObserver,
        descriptors: frozenset[int] | None,
        threads: list[threading.Thread],
        sink: HintSink,
    ) -> None:
        self._observer = observer
        self._descriptors = descriptors
        self._threads = threads
        self._listener = _OverflowListener(frozenset(thread.ident for thread in threads), sink)
        logging.getLogger(_WATCHDOG_LOG).addHandler(self._listener)

    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def descriptors(self) -> frozenset[int] | None:
        return self._descriptors

    def close(self) -> None:
        logging.getLogger(_WATCHDOG_LOG).removeHandler(self._listener)
        with contextlib.suppress(OSError):  # the tree, and its watches with it, may be gone
            _stop(self._observer)
