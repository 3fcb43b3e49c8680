"""Temporary files of dead workers: which directories are looked at, and what a restart of the daemon keeps."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from handlers.workers.cluster import leftovers, visited
from handlers.workers.cluster.leftovers import Leftovers
from handlers.workers.cluster.visited import Visited

OTHER_MACHINE = "00000000"
NODE = "tcp://node7:1"


class Workers:
    """Stands for the workers, and for the connection to them."""

    paths = ()

    def __init__(self) -> None:
        self.address: str | None = None
        """Of a worker on the other machine."""
        self.is_cut = False

    def on_machine(self, machine: str) -> str | None:
        return self.address if machine == OTHER_MACHINE else None

    async def run(self, address: str, function: object, files: tuple[Path, ...], paths: object) -> None:
        assert (address, function, paths) == (NODE, leftovers.remove_left_here, ())
        if self.is_cut:
            await asyncio.Event().wait()
        for path in files:
            path.unlink()


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look looks at every quiet directory."""
    monkeypatch.setattr(leftovers, "QUIET_S", -1.0)
    monkeypatch.setattr(leftovers, "RETRY_S", -1.0)


@pytest.fixture
def levels(tmp_path: Path) -> Path:
    directory = tmp_path / "mipmaps" / "1"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite-visited"


@pytest.fixture
def left(levels: Path) -> Path:
    """A file of a writer that only its own machine can know to be dead."""
    path = levels / f".a.tif.{OTHER_MACHINE}-1-1-0.tmp"
    path.write_bytes(b"half a lev")
    return path


def of(workers: Workers, kept: Path | None) -> Leftovers:
    return Leftovers(workers, Visited(kept))  # type: ignore[arg-type]


async def look(found: Leftovers, workers: Any) -> None:
    found.look(workers)
    assert found._task
    await found._task


async def test_what_could_not_be_removed_before_a_stop_is_removed_after_the_restart(
    workers: Workers, levels: Path, left: Path, kept: Path
) -> None:
    before = of(workers, kept)
    before.begin([levels])
    before.end([levels])
    await look(before, workers)
    assert left.exists()
    after = of(workers, kept)
    await look(after, workers)
    assert left.exists(), "no worker of that machine is there"
    workers.address = NODE
    await look(after, workers)
    assert not left.exists()
    assert Visited(kept).read() == []


async def test_a_directory_in_use_when_the_daemon_is_killed_is_looked_at_after_the_restart(
    workers: Workers, levels: Path, left: Path, kept: Path
) -> None:
    killed = of(workers, kept)
    killed.begin([levels])
    await look(killed, workers)
    assert left.exists(), "its writer may be at work"
    os.utime(left, (0, 0))
    await look(of(workers, kept), workers)
    assert not left.exists()


async def test_a_lost_connection_loses_no_directory(workers: Workers, levels: Path, left: Path, kept: Path) -> None:
    workers.address, workers.is_cut = NODE, True
    found = of(workers, kept)
    found.begin([levels])
    found.end([levels])
    found.look(workers)  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    found.stop()
    with pytest.raises(asyncio.CancelledError):
        await found._task  # type: ignore[misc]
    workers.is_cut = False
    await look(found, workers)
    assert not left.exists()


async def test_a_directory_whose_mount_is_away_is_looked_at_until_it_counts_as_deleted(
    workers: Workers, levels: Path, left: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(left, (0, 0))
    found = of(workers, kept)
    found.begin([levels])
    found.end([levels])
    away = levels.rename(levels.with_name("away"))
    await look(found, workers)
    assert Visited(kept).read() == [levels]
    away.rename(levels)
    await look(found, workers)
    assert not left.exists()
    assert Visited(kept).read() == []
    found.begin([levels])
    found.end([levels])
    levels.rmdir()
    monkeypatch.setattr(leftovers, "MISSING_S", -1.0)
    await look(found, workers)
    assert Visited(kept).read() == []


async def test_a_directory_that_waits_is_not_looked_at_at_every_look(
    workers: Workers, levels: Path, left: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = of(workers, kept)
    found.begin([levels])
    found.end([levels])
    await look(found, workers)
    monkeypatch.setattr(leftovers, "RETRY_S", 1e9)
    os.utime(left, (0, 0))
    await look(found, workers)
    assert left.exists()
    found.begin([levels])
    found.end([levels])
    await look(found, workers)
    assert not left.exists(), "a job that ended there is a reason to look"


async def test_no_more_directories_are_remembered_than_the_limit(
    workers: Workers, tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "MOST", 2)
    found = of(workers, kept)
    for number in range(4):
        found.begin([tmp_path / str(number)])
        found.end([tmp_path / str(number)])
    await look(found, workers)
    assert Visited(kept).read() == [tmp_path / "2", tmp_path / "3"]


@pytest.mark.parametrize("content", [b"", b"[", b'{"/data": 1}', b'[1, null, "data"]', b"\xff"])
def test_a_damaged_file_holds_no_directory(kept: Path, content: bytes) -> None:
    kept.write_bytes(content)
    assert Visited(kept).read() == []


def test_a_file_that_could_not_be_written_is_written_later(
    tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = Path(os.fsdecode(b"/data/\xb5m \n"))
    written = Visited(kept)
    with monkeypatch.context() as full:
        full.setattr(visited, "_replace", lambda path, text: (_ for _ in ()).throw(OSError(28, "no space")))
        written.keep([odd])
    assert Visited(kept).read() == []
    written.keep([odd])
    assert Visited(kept).read() == [odd]
    assert [path.name for path in tmp_path.iterdir()] == [kept.name]


def test_without_a_file_nothing_is_kept() -> None:
    unkept = Visited(None)
    unkept.keep([Path("/data")])
    assert unkept.read() == []
