"""A journal whose file is deleted, moved or replaced while it is open."""

import asyncio
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.journal.file import COMPANIONS
from daemon.journal.journal import Journal
from daemon.montages.sighting import FoundBy, Sighting
from handlers.identity import FileIdentity

SIGHTING = Sighting("temca2", Path("/data/temca2/_metadata_1_.json"), FileIdentity(100, 1, 1, 7), FoundBy.SCAN)
OTHER = replace(SIGHTING, path=Path("/data/temca2/_metadata_2_.json"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture(autouse=True)
def _short_retries(monkeypatch):
    monkeypatch.setattr("daemon.journal.connection.RETRY_S", 0.05)


def delete(path: Path) -> None:
    for companion in COMPANIONS:
        Path(f"{path}{companion}").unlink(missing_ok=True)


def replace_by_another(path: Path) -> None:
    other = path.with_name("other.sqlite")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    other.replace(path)


@pytest.mark.parametrize("damage", [delete, Path.unlink, replace_by_another], ids=["all", "main file", "replaced"])
async def test_a_missing_journal_is_a_fault_as_soon_as_it_is_read(path, damage):
    async with Journal(path) as journal:
        await journal.notice(SIGHTING)
        assert journal.fault is None
        damage(path)
        assert len(await journal.montages()) == 1, "the open connection still reads the deleted file"
        fault = journal.fault
        assert fault is not None
        assert fault.problem == "the journal's file was deleted or replaced while the daemon uses it"
        assert "temwatch journal backup" in fault.hint


async def test_a_deleted_wal_is_a_fault(path):
    async with Journal(path) as journal:
        await journal.notice(SIGHTING)
        Path(f"{path}-wal").unlink()
        await journal.counts()
        assert journal.fault is not None


async def test_a_write_waits_while_the_journal_is_missing_and_succeeds_when_it_is_back(path, tmp_path):
    aside = tmp_path / "aside.sqlite"
    async with Journal(path) as journal:
        await journal.notice(SIGHTING)
        path.rename(aside)
        noticing = asyncio.create_task(journal.notice(OTHER))
        async with asyncio.timeout(60):
            while journal.fault is None:  # noqa: ASYNC110  there is no event for it
                await asyncio.sleep(0.01)
        assert journal.is_blocked
        assert not noticing.done()
        aside.rename(path)
        async with asyncio.timeout(60):
            assert await noticing is not None
        assert journal.fault is None


async def test_a_deleted_journal_can_be_backed_up_by_the_process_that_uses_it(path, tmp_path):
    copy = tmp_path / "copy.sqlite"
    async with Journal(path) as journal:
        await journal.notice(SIGHTING)
        delete(path)
        await journal.back_up(copy)
    assert not os.path.lexists(f"{copy}-wal")
    async with Journal(copy) as journal:
        assert [each.metafile for each in await journal.montages()] == [SIGHTING.path]


async def test_a_journal_is_new_only_when_it_is_opened_for_the_first_time(path):
    async with Journal(path) as journal:
        assert journal.is_new
    async with Journal(path) as journal:
        assert not journal.is_new
