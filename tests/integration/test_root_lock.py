"""Locks: a journal and a watched directory have one owner each."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.system import locks
from daemon.system.locks import UnusableJournalDirectory, lock_journal, lock_root
from handlers.errors import SettingsFault, StorageFault


def test_a_journal_in_use_is_refused_with_the_id_of_the_process(tmp_path):
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


HOLD = """
import fcntl, os, sys
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
descriptor = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
NOBODY = 65534


@contextlib.contextmanager
def locked_by_a_process(directory: Path, *user: int) -> Iterator[int]:
    """Let another process lock a directory during the context; yield its id."""
    command = [sys.executable, "-c", HOLD, str(directory), *map(str, user)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"locked\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def state_directory(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_directory_that_another_user_locks_can_be_watched(readable, state_directory):
    if os.geteuid() != 0:
        pytest.skip("only root can start a process of another user")
    with locked_by_a_process(readable, NOBODY) as other, lock_root(readable, state_directory) as lock:
        assert not lock.is_on_directory
        assert f"process {other} of user {NOBODY} locks the directory" in lock.remark
        with pytest.raises(SettingsFault, match="is watched by another temwatch, or by another watch"):
            lock_root(readable, state_directory)
    lock_root(readable, state_directory).close()


def test_a_directory_locked_by_a_user_whom_proc_hides_can_be_watched(readable, state_directory, monkeypatch):
    monkeypatch.setattr(locks, "_user_of", lambda _: None)
    with locked_by_a_process(readable), lock_root(readable, state_directory) as lock:
        assert "of another user locks the directory" in lock.remark


def test_a_lock_file_belongs_to_the_directory_and_not_to_its_name(readable, state_directory, monkeypatch):
    monkeypatch.setattr(locks, "_user_of", lambda _: NOBODY)
    link = state_directory / "link"
    link.symlink_to(readable)
    with (
        locked_by_a_process(readable),
        lock_root(readable, state_directory),
        pytest.raises(SettingsFault, match="is watched by another temwatch"),
    ):
        lock_root(link, state_directory)


def test_a_lock_of_this_user_counts_as_another_temwatch(readable, state_directory):
    with (
        locked_by_a_process(readable) as other,
        pytest.raises(SettingsFault, match=rf"is watched by another temwatch \(process {other}\)"),
    ):
        lock_root(readable, state_directory)


def test_a_lock_whose_owner_the_kernel_does_not_name_is_a_storage_fault(readable, state_directory, monkeypatch):
    monkeypatch.setattr(locks, "_owner", lambda _: None)
    with (
        locked_by_a_process(readable),
        pytest.raises(StorageFault, match="is locked by a process that the kernel does not name"),
    ):
        lock_root(readable, state_directory)
