"""Temporary files of dead workers: which directories are searched, and what is kept over a restart of the daemon."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from handlers.workers.cluster import leftovers, written_directories
from handlers.workers.cluster.leftovers import Leftovers
from handlers.workers.cluster.written_directories import Visited

OTHER_MACHINE = "00000000"
NODE = "tcp://node7:1"


class Workers:
    """Stand-in for the workers and for the connection to them."""

    paths = ()

    def __init__(self) -> None:
        self.address: str | None = None
        """Address of a worker on the other machine, if there is one."""
        self.is_hanging = False
        self.asked = asyncio.Event()

    def on_machine(self, machine: str) -> str | None:
        return self.address if machine == OTHER_MACHINE else None

    async def run(self, address: str, function: object, files: tuple[Path, ...], paths: object) -> None:
        assert (address, function, paths) == (NODE, leftovers.remove_left_here, ())
        self.asked.set()
        if self.is_hanging:
            await asyncio.Event().wait()
        for path in files:
            path.unlink()


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every `look` search all directories without jobs."""
    monkeypatch.setattr(leftovers, "QUIET_S", -1.0)
    monkeypatch.setattr(leftovers, "RETRY_S", -1.0)


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    directory = tmp_path / "mipmaps" / "1"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """File in which directories are kept over a restart."""
    return tmp_path / "journal.sqlite-visited"


@pytest.fixture
def left(levels: Path) -> Path:
    """Temporary file of a writer on the other machine; only that machine knows that the writer is dead."""
    path = levels / f".a.tif.{OTHER_MACHINE}-1-1-0.tmp"
    path.write_bytes(b"half a lev")
    return path


def leftovers_of(workers: Workers, kept: Path | None) -> Leftovers:
    return Leftovers(workers, Visited(kept))  # type: ignore[arg-type]


async def search(found: Leftovers, workers: Any) -> None:
    """Search once, and wait for the end of the search."""
    found.look(workers)
    assert found._task
    await found._task


async def test_a_file_that_could_not_be_removed_before_a_stop_is_removed_after_the_restart(
    workers: Workers, levels: Path, left: Path, kept: Path
) -> None:
    before = leftovers_of(workers, kept)
    before.begin([levels])
    before.end([levels])
    await search(before, workers)
    assert left.exists()
    after = leftovers_of(workers, kept)
    await search(after, workers)
    assert left.exists(), "no worker of that machine is there"
    workers.address = NODE
    await search(after, workers)
    assert not left.exists()
    assert Visited(kept).read() == []


async def test_a_directory_in_use_when_the_daemon_is_killed_is_searched_after_the_restart(
    workers: Workers, levels: Path, left: Path, kept: Path
) -> None:
    killed = leftovers_of(workers, kept)
    killed.begin([levels])
    await search(killed, workers)
    assert left.exists(), "a job may still write there"
    os.utime(left, (0, 0))
    await search(leftovers_of(workers, kept), workers)
    assert not left.exists()


async def test_a_directory_is_searched_again_after_the_connection_was_lost(
    workers: Workers, levels: Path, left: Path, kept: Path
) -> None:
    workers.address, workers.is_hanging = NODE, True
    found = leftovers_of(workers, kept)
    found.begin([levels])
    found.end([levels])
    found.look(workers)  # type: ignore[arg-type]
    async with asyncio.timeout(60):
        await workers.asked.wait()
    found.stop()
    with pytest.raises(asyncio.CancelledError):
        await found._task  # type: ignore[misc]
    workers.is_hanging = False
    await search(found, workers)
    assert not left.exists()


async def test_a_directory_whose_mount_is_gone_is_searched_until_it_counts_as_deleted(
    workers: Workers, levels: Path, left: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(left, (0, 0))
    found = leftovers_of(workers, kept)
    found.begin([levels])
    found.end([levels])
    unmounted = levels.rename(levels.with_name("unmounted"))
    await search(found, workers)
    assert Visited(kept).read() == [levels]
    unmounted.rename(levels)
    await search(found, workers)
    assert not left.exists()
    assert Visited(kept).read() == []
    found.begin([levels])
    found.end([levels])
    levels.rmdir()
    monkeypatch.setattr(leftovers, "MISSING_S", -1.0)
    await search(found, workers)
    assert Visited(kept).read() == []


async def test_a_directory_with_leftovers_is_searched_again_after_the_pause_or_another_job(
    workers: Workers, levels: Path, left: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = leftovers_of(workers, kept)
    found.begin([levels])
    found.end([levels])
    await search(found, workers)
    monkeypatch.setattr(leftovers, "RETRY_S", 1e9)
    os.utime(left, (0, 0))
    await search(found, workers)
    assert left.exists()
    found.begin([levels])
    found.end([levels])
    await search(found, workers)
    assert not left.exists(), "the directory is searched after each job"


async def test_no_more_directories_are_remembered_than_the_limit(
    workers: Workers, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "MAX_PATHS", 2)
    found = leftovers_of(workers, kept)
    for number in range(4):
        found.begin([tmp_path / str(number)])
        found.end([tmp_path / str(number)])
    await search(found, workers)
    assert Visited(kept).read() == [tmp_path / "2", tmp_path / "3"]


@pytest.mark.parametrize("content", [b"", b"[", b'{"/data": 1}', b'[1, null, "data"]', b"\xff"])
def test_a_damaged_file_of_directories_counts_as_empty(kept: Path, content: bytes) -> None:
    kept.write_bytes(content)
    assert Visited(kept).read() == []


def test_directories_that_could_not_be_written_are_written_later(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Path(os.fsdecode(b"/data/\xb5m \n"))
    written = Visited(kept)
    with monkeypatch.context() as full:
        full.setattr(written_directories, "_replace", lambda path, text: (_ for _ in ()).throw(OSError(28, "no space")))
        written.keep([directory])
    assert Visited(kept).read() == []
    written.keep([directory])
    assert Visited(kept).read() == [directory]
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_without_a_file_no_directory_is_kept() -> None:
    visited_directories = Visited(None)
    visited_directories.keep([Path("/data")])
    assert visited_directories.read() == []
