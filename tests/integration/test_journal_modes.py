"""Only owner and group can read the journal, its lock and its copies, whatever the umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.commands.journal.backup import back_up
from daemon.journal.journal import Journal
from daemon.system.locks import lock_journal

FILES = (
    *("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite.lock"),
    *("copy.sqlite", "backup.sqlite"),
)


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(directory: Path) -> dict[str, str]:
    return {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in directory.iterdir() if path.is_file()}


async def test_no_other_user_can_read_the_journal_its_lock_or_a_backup(open_umask, tmp_path):
    path = tmp_path / "journal.sqlite"
    with lock_journal(path):
        async with Journal(path) as journal:
            await journal.use_for_mipmaps(tmp_path)
            await journal.back_up(tmp_path / "copy.sqlite")
            back_up(path, tmp_path / "backup.sqlite")
            assert modes(tmp_path) == dict.fromkeys(FILES, "0o640")


async def test_a_stricter_umask_is_kept(open_umask, tmp_path):
    os.umask(0o077)
    async with Journal(tmp_path / "journal.sqlite"):
        assert set(modes(tmp_path).values()) == {"0o600"}
