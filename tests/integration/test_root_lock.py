"""One daemon has one journal, and one directory one daemon."""

import pytest

from daemon.system.locks import UnusableJournalDirectory, lock_journal, lock_root
from handlers.errors import SettingsFault


def test_a_journal_in_use_is_refused_naming_the_process(tmp_path):
    with (
        lock_journal(tmp_path / "journal.sqlite"),
        pytest.raises(SettingsFault, match=r"another temwatch \(process \d+\)"),
    ):
        lock_journal(tmp_path / "journal.sqlite")


def test_a_journal_given_up_can_be_taken_again(tmp_path):
    lock_journal(tmp_path / "journal.sqlite").close()
    with lock_journal(tmp_path / "journal.sqlite"):
        pass


def test_a_journal_whose_directory_is_missing_is_refused(tmp_path):
    with pytest.raises(UnusableJournalDirectory, match="no file can be created in"):
        lock_journal(tmp_path / "absent" / "journal.sqlite")


def test_a_watched_directory_is_refused_to_a_second_owner_and_left_as_it_is(tmp_path):
    with lock_root(tmp_path), pytest.raises(SettingsFault, match="another temwatch"):
        lock_root(tmp_path)
    assert list(tmp_path.iterdir()) == []
