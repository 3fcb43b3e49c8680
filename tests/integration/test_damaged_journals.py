"""Journals that are damaged, locked, of an older version or of another program: refused in one line, or read."""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
import zlib
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import pytest

from daemon.commands.journal.backup import back_up
from daemon.commands.journal.check import check
from daemon.journal.faults import UnusableJournal
from daemon.journal.file import Examination, connect, connect_read_only, examine_ahead
from daemon.journal.journal import Journal
from daemon.journal.migration import MIGRATIONS
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState
from handlers.errors import MetafileFault, SettingsFault, StorageFault
from handlers.identity import FileIdentity
from tests.integration.descriptors import descriptors_of

RECOVERY = "temwatch journal rebuild"

ANY = FileIdentity(1, 1, 1, 1)


async def fill(path: Path, montages: int = 40) -> None:
    async with Journal(path) as journal:
        for number in range(montages):
            name = Path(f"/data/{number:04d}/_metadata_{number}_{'x' * 80}.json")
            identity = FileIdentity(10, number, number, number)
            montage_id = await journal.notice(Sighting("temca2", name, identity, FoundBy.SCAN))
            await journal.fail(montage_id, MetafileFault(str(name), "has no data " * 20))


async def refusal_of(path: Path, *, ahead: bool = False) -> str:
    """Open a journal that is refused; return the text of the fault."""
    with pytest.raises(SettingsFault) as refused:
        async with Journal(path, examination=examine_ahead(path) if ahead else None):
            pass
    return str(refused.value)


@pytest.mark.parametrize("ahead", [False, True], ids=["", "examined ahead"])
@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: os.truncate(path, 0), "it is empty"),
        (lambda path: os.truncate(path, 300), "a damaged journal"),
        (lambda path: os.truncate(path, path.stat().st_size // 2 // 4096 * 4096), "a damaged journal"),
        (lambda path: os.truncate(path, path.stat().st_size - 1000), "a damaged journal"),
        (lambda path: path.write_bytes(bytes(path.stat().st_size)), "a damaged journal"),
        (lambda path: path.write_bytes(b"{}" * 5000), "not a database"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:8192] + bytes(path.stat().st_size - 8192)),
            "a damaged journal",
        ),
    ],
    ids=["emptied", "cut in its header", "cut at a page", "cut within a page", "zeroed", "JSON", "zeroed from page 3"],
)
async def test_a_damaged_journal_is_refused_in_one_line_that_names_the_recovery(tmp_path, damage, problem, ahead):
    path = tmp_path / "journal.sqlite"
    await fill(path)
    damage(path)
    before = path.read_bytes()
    text = await refusal_of(path, ahead=ahead)
    assert problem in text
    assert RECOVERY in text
    assert "\n" not in text
    assert path.read_bytes() == before


async def test_the_fault_of_a_copy_names_the_journal_and_not_the_temporary_file(tmp_path):
    path = tmp_path / "journal.sqlite"
    await fill(path)
    content = bytearray(path.read_bytes())
    content[4096:40960] = b"\xff" * 36864
    path.write_bytes(content)
    for command in (check, lambda path: back_up(path, tmp_path / "copy.sqlite")):
        with pytest.raises(UnusableJournal, match=f"{path} is a damaged journal"):
            command(path)


@pytest.mark.parametrize("opening", [connect, connect_read_only])
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"not a database" * 100, sqlite3.DatabaseError),
        (b"SQLite format 3\0" + bytes(8000), sqlite3.DatabaseError),
        (b"", UnusableJournal),
    ],
    ids=["text", "zeroed after its first words", "empty"],
)
def test_a_refused_journal_is_closed(tmp_path, opening, content, error):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    with pytest.raises(error) as refused:  # it keeps the frames, and with them a connection that was not closed
        opening(path)
    assert refused.value
    assert descriptors_of(path) == []


@pytest.mark.parametrize("read_only", [False, True])
async def test_a_journal_whose_opening_is_cancelled_is_closed(tmp_path, monkeypatch, read_only):
    path = tmp_path / "journal.sqlite"
    await fill(path, 1)
    before = set(threading.enumerate())
    is_opening, may_continue = threading.Event(), threading.Event()
    opening = connect_read_only if read_only else connect

    def open_later(*arguments):
        is_opening.set()
        assert may_continue.wait(60)
        return opening(*arguments)

    monkeypatch.setattr(f"daemon.journal.connection.{opening.__name__}", open_later)
    task = asyncio.create_task(Journal(path, read_only=read_only).__aenter__())
    assert await asyncio.to_thread(is_opening.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begun = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("journal")]
    may_continue.set()
    assert begun
    for thread in begun:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
    assert descriptors_of(path) == []


async def test_an_early_examination_creates_no_journal_and_takes_no_lock(tmp_path):
    path = tmp_path / "journal.sqlite"
    examination = examine_ahead(path)
    with pytest.raises(sqlite3.OperationalError):
        examination.result(timeout=60)
    assert not path.exists()
    async with Journal(path, examination=examination) as journal:
        assert await journal.montages() == []


async def test_the_result_of_an_early_examination_is_used(tmp_path):
    path = tmp_path / "journal.sqlite"
    await fill(path)
    found: Examination = Future()
    found.set_result("*** in database main ***\nPage 5 is never used")
    with pytest.raises(SettingsFault, match="Page 5 is never used"):
        async with Journal(path, examination=found):
            pass


async def test_a_missing_journal_is_not_created_beside_its_wal(tmp_path):
    path = tmp_path / "journal.sqlite"
    await fill(path)
    path.unlink()
    Path(f"{path}-wal").write_bytes(b"changes that are not yet in the main file")
    text = await refusal_of(path)
    assert "is missing, but its -wal file exists" in text
    assert RECOVERY in text


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE recipes (name TEXT)",
        "CREATE TABLE montages (camera TEXT); PRAGMA user_version = 1",
    ],
    ids=["other tables", "other columns"],
)
async def test_the_database_of_another_program_is_refused(tmp_path, tables):
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(tables)
    assert "is an SQLite database but not a journal" in await refusal_of(path)


async def test_a_journal_that_another_program_locks_is_refused_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr("daemon.journal.file.BUSY_S", 0.1)
    path = tmp_path / "journal.sqlite"
    await fill(path, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageFault, match="end that program"):
            async with Journal(path):
                pass


async def test_a_journal_on_a_read_only_disk_is_refused_with_a_hint_and_can_be_read(tmp_path):
    path = tmp_path / "disk" / "journal.sqlite"
    path.parent.mkdir()
    await fill(path, 3)
    mounted = subprocess.run(["mount", "--bind", "-o", "ro", path.parent, path.parent], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        with pytest.raises(StorageFault, match="mount its disk writable"):
            async with Journal(path):
                pass
        async with Journal(path, read_only=True) as journal:
            assert len(await journal.montages(states=[MontageState.FAILED])) == 3
    finally:
        subprocess.run(["umount", path.parent], check=True)


async def test_a_journal_of_version_1_is_migrated_without_loss(tmp_path):
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(MIGRATIONS[0])
        connection.execute(
            "INSERT INTO montages (id, watch, metafile, digest, size, mtime_ns, inode, acquired, state, z, raw_stack,"
            " mipmapped_stack, tile_count, tile_ids, noticed_at, changed_at, complete_at) VALUES (7, 'temca2',"
            " 'file:///data/a%20b/_metadata_1.json', 'aa', 10, 20, 30, '_metadata_1.json', 'complete', 1050.0,"
            " 'em/v1/s_raw', 'em/v1/s_mips', 2, ?, 1.5, 2.5, 2.5)",
            (zlib.compress(b"t1\nt2"),),
        )
        connection.execute("INSERT INTO events VALUES (1, 7, 1.5, 'noticed', 'noticed', '{\"found_by\": \"scan\"}')")
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
    async with Journal(path) as journal:
        (montage,) = await journal.montages(metafile=Path("/data/a b/_metadata_1.json"))
        assert (montage.id, montage.state, montage.z) == (7, MontageState.COMPLETE, 1050.0)
        assert [event["event"] for event in await journal.events(7)] == ["noticed"]
        assert await journal.tile_ids(7) == {"t1", "t2"}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
        plan = connection.execute("EXPLAIN QUERY PLAN SELECT id FROM montages WHERE metafile = 'x' ORDER BY id DESC")
        assert "USING COVERING INDEX montages_by_metafile" in plan.fetchone()[3]


async def test_a_journal_can_be_read_while_the_daemon_writes_it(tmp_path):
    path = tmp_path / "journal.sqlite"
    async with Journal(path) as writer:
        await writer.notice(Sighting("temca2", Path("/data/_metadata_1.json"), ANY, FoundBy.SCAN))
        async with Journal(path, read_only=True) as reader:
            assert len(await reader.montages()) == 1
            with pytest.raises(StorageFault, match="for reading only"):
                await reader.notice(Sighting("temca2", Path("/data/_metadata_2.json"), ANY, FoundBy.SCAN))


async def test_a_journal_that_a_crash_left_is_read_with_its_wal(tmp_path):
    path = tmp_path / "journal.sqlite"
    async with Journal(path) as writer:
        await writer.notice(Sighting("temca2", Path("/data/_metadata_1.json"), ANY, FoundBy.SCAN))
        crashed = tmp_path / "crashed.sqlite"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    with closing(connect_read_only(crashed)) as connection:
        assert connection.execute("SELECT count(*) FROM montages").fetchone() == (1,)


@pytest.mark.parametrize("ahead", [False, True], ids=["", "examined ahead"])
async def test_a_directory_in_place_of_the_journal_is_named_as_such(tmp_path: Path, ahead: bool) -> None:
    assert f"{tmp_path} is a directory" in await refusal_of(tmp_path, ahead=ahead)
    with pytest.raises(UnusableJournal, match="is a directory"):
        connect_read_only(tmp_path)


async def test_a_back_up_may_have_the_longest_name_that_the_file_system_allows(tmp_path: Path) -> None:
    journal = tmp_path / "journal.sqlite"
    await fill(journal, 1)
    target = tmp_path / f"{'x' * 248}.sqlite"
    assert back_up(journal, target) == 1
    with pytest.raises(StorageFault, match="File name too long"):
        back_up(journal, tmp_path / f"{'x' * 300}.sqlite")
    assert not list(tmp_path.glob(".*")), "no unfinished copy is left"
