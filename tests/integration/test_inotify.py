"""Events are reported for watched directories, under the path with which the watch was requested."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.watching.coverage import inotify_descriptors
from daemon.watching.event_hints import Batch, HintBox, Hints, open_hints
from daemon.watching.scan import NameRule


class Listener:
    """Collects hints until a condition holds."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.trees: set[str] = set()
        self.overflows = 0
        self._arrived = threading.Event()
        self.box = HintBox(self._arrived.set)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not holds():
            assert self._arrived.wait(deadline - time.monotonic()), (self.files, self.trees)
            self._arrived.clear()
            self._gather(self.box.take())

    def _gather(self, batch: Batch) -> None:
        self.files |= batch.files
        self.trees |= batch.trees
        self.overflows += batch.overflows


@contextlib.contextmanager
def listening(root: Path) -> Iterator[tuple[Listener, Hints]]:
    listener = Listener()
    hints = open_hints(str(root), NameRule("_metadata_*.json").accepts, listener.box)
    try:
        yield listener, hints
    finally:
        hints.close()


def touch(path: Path) -> str:
    path.touch()
    return str(path)


def test_only_watched_directories_report_events(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "other").mkdir()
    with listening(tmp_path) as (listener, hints):
        hints.watch(str(tmp_path / "watched"))
        touch(tmp_path / "other" / "_metadata_1_.json")
        expected = {touch(tmp_path / "watched" / "_metadata_2_.json"), touch(tmp_path / "_metadata_3_.json")}
        listener.until(lambda: expected <= listener.files)
        assert listener.files == expected


def test_only_metafiles_and_directories_cause_hints(tmp_path: Path) -> None:
    with listening(tmp_path) as (listener, _):
        touch(tmp_path / "tile.tif")
        (tmp_path / "0").mkdir()
        listener.until(lambda: bool(listener.trees))
        assert (listener.files, listener.trees) == (set(), {str(tmp_path / "0")})


def test_a_directory_watched_again_reports_events_under_its_new_name(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    with listening(tmp_path) as (listener, hints):
        hints.watch(str(old))
        old.rename(new)
        listener.until(lambda: str(new) in listener.trees)
        hints.watch(str(new))
        path = touch(new / "_metadata_1_.json")
        listener.until(lambda: path in listener.files)


def test_a_link_below_the_root_is_not_watched_and_one_that_is_the_root_is(tmp_path: Path) -> None:
    outside, inside, root = tmp_path / "outside", tmp_path / "inside", tmp_path / "root"
    outside.mkdir()
    inside.mkdir()
    root.symlink_to(inside)
    (inside / "link").symlink_to(outside)
    with listening(root) as (listener, hints):
        hints.watch(str(root / "link"))
        touch(outside / "_metadata_1_.json")
        path = touch(root / "_metadata_2_.json")
        listener.until(lambda: bool(listener.files))
        assert listener.files == {path}


def test_events_lost_in_a_full_queue_are_reported_as_an_overflow(tmp_path: Path) -> None:
    queue_size = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    may_read, reader_waits = threading.Event(), threading.Event()

    def accepts(_: str) -> bool:
        reader_waits.set()
        return may_read.wait(60)

    listener = Listener()
    hints = open_hints(str(tmp_path), accepts, listener.box)
    try:
        touch(tmp_path / "first")
        assert reader_waits.wait(60)  # before that, the reader would empty the queue
        names = [tmp_path / f"{number}" for number in range(3)]
        for number in range(queue_size + 1_000):  # identical consecutive events count once
            os.close(os.open(names[number % 3], os.O_WRONLY | os.O_CREAT))
        may_read.set()
        listener.until(lambda: listener.overflows > 0)
    finally:
        may_read.set()
        hints.close()


def test_the_events_of_a_removed_root_end(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with listening(root) as (_, hints):
        assert hints.is_alive()
        root.rmdir()
        deadline = time.monotonic() + 60
        while hints.is_alive():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_root_that_cannot_be_watched_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = inotify_descriptors(), len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        open_hints(str(tmp_path / "missing"), str.isprintable, Listener().box)
    assert (inotify_descriptors(), len(list(Path("/proc/self/fd").iterdir()))) == before


def test_closed_hints_release_their_watches(tmp_path: Path) -> None:
    with listening(tmp_path) as (_, hints):
        assert hints.descriptors()
        assert hints.descriptors() <= inotify_descriptors()
    assert not hints.descriptors() & inotify_descriptors()
