"""Hints from the emitters of watchdog: the watcher works with each of them."""

import contextlib
import os
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

from daemon.watching.event_hints import HintSink, OpenHints

POLL_S = 0.05
_FILE_EVENTS = (FileCreatedEvent, FileClosedEvent, FileModifiedEvent, FileMovedEvent)


def inotify_hints(root: str, accepts: Callable[[str], bool], sink: HintSink) -> "TreeHints":
    """Return hints of watchdog's inotify emitter, which adds a watch for each directory of the tree itself."""
    return TreeHints(InotifyObserver(), root, accepts, sink)


def polling_hints(root: str, accepts: Callable[[str], bool], sink: HintSink) -> "TreeHints":
    """Return hints of watchdog's polling emitter, which compares snapshots of the tree on any operating system."""
    return TreeHints(PollingObserver(timeout=POLL_S), root, accepts, sink)


class TreeHints:
    """Hints from an observer that watches a whole tree."""

    def __init__(self, observer: BaseObserver, root: str, accepts: Callable[[str], bool], sink: HintSink) -> None:
        self._observer = observer
        observer.schedule(_Handler(accepts, sink), root, recursive=True)
        observer.start()
        self._threads = [observer, *observer.emitters]

    def watch(self, directory: str) -> None:
        pass  # the observer finds the directories itself

    def is_alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def descriptors(self) -> None:
        return None  # watchdog's documented interface does not provide them

    def close(self) -> None:
        self._observer.stop()
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # never started
                thread.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, accepts: Callable[[str], bool], sink: HintSink) -> None:
        self._accepts = accepts
        self._sink = sink

    def dispatch(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent | DirMovedEvent)
        path = os.fsdecode(event.dest_path if moved else event.src_path)
        if isinstance(event, DirCreatedEvent | DirMovedEvent):
            self._sink.tree(path)
        elif isinstance(event, _FILE_EVENTS) and self._accepts(path.rpartition("/")[2]):
            self._sink.file(path)


EMITTERS: dict[str, OpenHints] = {"watchdog_inotify": inotify_hints, "watchdog_polling": polling_hints}
