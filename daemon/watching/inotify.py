"""An emitter for watchdog's observers that watches single directories on request.

watchdog's own emitter walks the whole tree to request events, which costs as much as the pass that follows. A pass
visits every directory anyway. It requests the events of a directory before it lists it, so no change is missed in
between.
"""

import contextlib
import ctypes
import os
import select
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from watchdog.events import DirCreatedEvent, FileClosedEvent, FileCreatedEvent
from watchdog.observers.api import EventEmitter, EventQueue, ObservedWatch

# Source: inotify(7), sys/inotify.h.
CLOSE_WRITE = 0x0000_0008
MOVED_TO = 0x0000_0080
CREATE = 0x0000_0100
QUEUE_OVERFLOW = 0x0000_4000
IGNORED = 0x0000_8000
ONLY_DIRECTORY = 0x0100_0000
DONT_FOLLOW = 0x0200_0000
IS_DIRECTORY = 0x4000_0000
WANTED = CLOSE_WRITE | MOVED_TO | CREATE | ONLY_DIRECTORY
_HEAD = struct.Struct("iIII")
"""Watch, mask, cookie, length of the following name, which is padded with zeros."""
_READ_BYTES = 1 << 16
_libc = ctypes.CDLL(None, use_errno=True)


class Notice(NamedTuple):
    """One event of the kernel."""

    path: str
    """Path of the file or directory; empty if unknown."""
    mask: int
    is_root: bool
    """Whether the event concerns the root itself and not an entry of a directory."""


class Inotify:
    """An inotify instance that watches a root and the directories for which `watch` is called.

    One thread may add watches while another one reads. No change is lost: the thread that adds a watch lists the
    directory afterwards.

    Raises
    ------
    OSError
        ENOSPC at the watch limit, EMFILE at the limit of inotify instances, ENOENT if the root is gone.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        with contextlib.ExitStack() as undo:
            self._wake_descriptor = os.eventfd(0)
            undo.callback(os.close, self._wake_descriptor)
            self.descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), root)
            undo.callback(os.close, self.descriptor)
            self._root_watch = self.watch(root)
            self._close = undo.pop_all().close
        self._poll = select.poll()
        self._poll.register(self.descriptor, select.POLLIN)
        self._poll.register(self._wake_descriptor, select.POLLIN)

    def watch(self, directory: str) -> int:
        """Request the events of one directory; return the watch. Records the present path of a watched directory.

        Raises
        ------
        OSError
            If it cannot be watched, for example because it is not a directory.
        """
        # The root may be a symbolic link; links below it are not followed.
        mask = WANTED if directory == self._root else WANTED | DONT_FOLLOW
        watch = _checked(_libc.inotify_add_watch(self.descriptor, os.fsencode(directory), mask), directory)
        self._paths[watch] = directory
        return watch

    def read(self) -> Iterator[Notice]:
        """Wait for an event or for `wake`; yield the events since the previous call."""
        self._poll.poll()
        try:
            buffer = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return  # `wake` was called
        at = 0
        while at < len(buffer):
            watch, mask, _, length = _HEAD.unpack_from(buffer, at)
            at += _HEAD.size
            name = buffer[at : at + length].rstrip(b"\0")
            at += length
            directory = self._paths.pop(watch, "") if mask & IGNORED else self._paths.get(watch, "")
            path = f"{directory.rstrip('/')}/{os.fsdecode(name)}" if directory and name else directory
            yield Notice(path, mask, watch == self._root_watch and not name)

    def wake(self) -> None:
        """Make the running and all later `read` calls return at once. Thread-safe."""
        os.eventfd_write(self._wake_descriptor, 1)

    def close(self) -> None:
        """End all watches. Call this only after the reader has ended, since the descriptor's number may be reused."""
        self._close()


class DirectoryEmitter(EventEmitter):
    """Queues events of metafiles and directories for watchdog; drops events of other files.

    Parameters
    ----------
    accepts : whether a file of this name is a metafile.
    on_overflow : called in this thread when the kernel's queue was full and events were lost.
    """

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        inotify: Inotify,
        accepts: Callable[[str], bool],
        on_overflow: Callable[[], None],
        **options: object,
    ) -> None:
        super().__init__(event_queue, watch)
        self._inotify = inotify
        self._accepts = accepts
        self._on_overflow = on_overflow

    def queue_events(self, timeout: float) -> None:
        """See EventEmitter. Ends the thread when the root is gone, even if a new directory has its name."""
        for path, mask, is_root in self._inotify.read():
            if mask & QUEUE_OVERFLOW:
                self._on_overflow()
            elif mask & IGNORED:
                if is_root:
                    self.stop()
            elif path and mask & IS_DIRECTORY:
                self.queue_event(DirCreatedEvent(path))
            elif path and self._accepts(path.rpartition("/")[2]):
                self.queue_event(FileClosedEvent(path) if mask & CLOSE_WRITE else FileCreatedEvent(path))

    def on_thread_stop(self) -> None:
        """See BaseThread."""
        self._inotify.wake()


def _checked(result: int, path: str) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
