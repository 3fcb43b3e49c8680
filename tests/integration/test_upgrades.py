"""Upgrades: journals of every former version, checked on a copy and migrated; a configuration of version 0.1."""

import hashlib
import re
import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from daemon.commands.journal.check import check
from daemon.config.load import load_settings
from daemon.config.settings import Settings
from daemon.journal.faults import UnusableJournal
from daemon.journal.file import connect
from daemon.journal.journal import Journal
from daemon.journal.migration import MIGRATIONS
from daemon.journal.tables import alerts
from daemon.montages.states import Event, MontageState, Step
from handlers.errors import SettingsFault, StorageFault
from tests.integration.old_journals import DATA, STATES, write_journal

VERSIONS = range(1, len(MIGRATIONS) + 1)
FIRST_CONFIG = Path(__file__).parent / "data/config-0.1.toml"


def schema(path: Path) -> dict[str, str]:
    """Return the statement of each table and index, without comments and spaces."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    return {name: re.sub(r"--[^\n]*|[\s\"]+", "", sql) for name, sql in rows}


def contents(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_journal_of_every_version_is_migrated_and_used(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, version)
    async with Journal(path) as journal:
        found = {montage.id: montage for montage in await journal.montages()}
        assert [str(found[number].state) for number in range(1, 9)] == list(STATES)
        assert found[9].state is MontageState.NOTICED
        assert found[5].complete_at == 3.5
        fault = found[6].fault
        assert fault is not None
        assert (fault.problem, found[6].failed_in) == ("is truncated", MontageState.INGESTED)
        for number in range(1, 9):
            assert await journal.tile_ids(number) == {"t1", "t2"}
        assert await journal.count_crashes() == 1
        assert {each for each, *_ in await journal.unfinished()} >= {1, 2, 3, 4, 9}
        assert await journal.retry(6, "the file changed") is not None
        assert (await journal.record(3, Event.APPLIED)).state is MontageState.APPLIED
        assert await journal.record_closing("em/v1/s_mips", [4]) == (4,)
        assert await journal.replay(5, Step.MIPMAPS) is not None
        assert [event["event"] for event in await journal.events(7)] == ["noticed", "superseded"]


async def test_an_undelivered_message_is_kept_when_its_table_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, 20)
    async with Journal(path) as journal:
        (kept,) = (await journal.read(alerts.load)).messages
        assert (kept.id, kept.title, kept.taken) == ("0a", "montage failed (temca2)", "[1]")
        later = kept._replace(id="0b")
        await journal.write(lambda connection: alerts.save(connection, alerts.Change([], [], [later], [], [])))
        assert [each.id for each in (await journal.read(alerts.load)).messages] == ["0a", "0b"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migrated_journal_has_the_schema_of_a_new_one(tmp_path: Path, version: int) -> None:
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    write_journal(old, version)
    connect(old).close()
    connect(new).close()
    assert schema(old) == schema(new)


def test_the_old_journals_have_data_in_every_table(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, len(MIGRATIONS))
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        empty = [name for name in tables if not connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]]
    assert empty == [], "add rows that a daemon of the new version writes to DATA"
    assert max(DATA) <= len(MIGRATIONS)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_check_migrates_a_copy_and_changes_no_file(tmp_path: Path, version: int) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, version)
    before = contents(tmp_path)
    result = check(path)
    assert contents(tmp_path) == before
    assert (result.version, result.montages >= 9, result.montages_after) == (version, True, result.montages)
    (first, *_) = result.lines(path)
    expected = "nothing is migrated" if version == len(MIGRATIONS) else f"migrates it to version {len(MIGRATIONS)}"
    assert expected in first


def test_a_journal_can_be_checked_while_a_daemon_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, 10)
    with closing(sqlite3.connect(path)) as daemon:
        daemon.execute("PRAGMA journal_mode = WAL")
        daemon.execute("UPDATE montages SET watch = 'other' WHERE id = 1")
        assert check(path).version == 10
        daemon.commit()
        assert daemon.execute("PRAGMA user_version").fetchone() == (10,)


def test_a_migration_that_fails_is_reported_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, 9)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE montages ADD COLUMN raw_fields TEXT")  # a change by another program
    before = contents(tmp_path)
    with pytest.raises(SettingsFault, match=r"cannot be migrated from version 9 to version 10: duplicate column"):
        check(path)
    assert contents(tmp_path) == before


def test_a_montage_that_the_new_version_cannot_read_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, len(MIGRATIONS))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE montages SET state = 'polished' WHERE id = 3")
        connection.commit()
    with pytest.raises(SettingsFault, match="montage 3 cannot be read after the migration: ValueError"):
        check(path)


def test_a_check_without_space_for_the_copy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.sqlite"
    write_journal(path, 5)
    monkeypatch.setattr("daemon.commands.journal.check.ROOM", 1e12)
    with pytest.raises(StorageFault, match="so does the upgrade itself"):
        check(path)


def test_a_check_of_a_newer_or_a_missing_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with pytest.raises(SettingsFault, match="does not exist"):
        check(path)
    write_journal(path, len(MIGRATIONS))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(UnusableJournal, match="written by a newer temwatch"):
        check(path)


def test_a_configuration_of_the_first_version_has_the_same_meaning() -> None:
    """The example of version 0.1 sets every key of that version."""
    settings = load_settings(FIRST_CONFIG)
    written = tomllib.loads(FIRST_CONFIG.read_text())
    present = Settings.model_validate(written)
    assert settings == present
    differing = []
    for section, keys in written.items():
        tables = keys if isinstance(keys, list) else [keys]
        for table, model in zip(
            tables, [getattr(settings, section)] if isinstance(keys, dict) else getattr(settings, section), strict=True
        ):
            shown = model.model_dump(mode="json")
            differing += [
                f"{section}.{key}"
                for key, value in table.items()
                if not isinstance(value, dict) and (shown[key] or "") != (value or "")
            ]
    assert differing == []
