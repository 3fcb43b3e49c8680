"""Locks: a journal and a watched directory have one owner each."""

import pytest

from daemon.system.locks import UnusableJournalDirectory, lock_journal, lock_root
from handlers.errors import SettingsFault


def test_a_journal_in_use_is_refused_with_the_process_named(tmp_path):
    with (
        lock_journal(tmp_path / "journal.sqlite"),
        pytest.raises(SettingsFault, match=r"another temwatch \(process \d+\)"),
    ):
        lock_journal(tmp_path / "journal.sqlite")


def test_a_released_journal_can_be_locked_again(tmp_path):
    lock_journal(tmp_path / "journal.sqlite").close()
    with lock_journal(tmp_path / "journal.sqlite"):
        pass


def test_a_journal_whose_directory_is_missing_is_refused(tmp_path):
    with pytest.raises(UnusableJournalDirectory, match="no file can be created in"):
        lock_journal(tmp_path / "absent" / "journal.sqlite")


def test_a_watched_directory_is_refused_to_a_second_owner_and_stays_unchanged(tmp_path):
    with lock_root(tmp_path), pytest.raises(SettingsFault, match="another temwatch"):
        lock_root(tmp_path)
    assert list(tmp_path.iterdir()) == []
