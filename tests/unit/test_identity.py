"""Identity of files: the values of a stat, times that are placeholders, identities that match."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from handlers.identity import FileIdentity

DAY_NS = 86_400 * 10**9
LARGEST = 2**63 - 1
IDENTITY = FileIdentity(1, 2, 3, 4)


def test_the_identity_of_a_file_has_the_values_of_its_stat(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 1_700_000_000_123_456_789))
    status = path.stat()
    expected = FileIdentity(5, 1_700_000_000_123_456_789, status.st_ctime_ns, status.st_ino)
    assert FileIdentity.of(status) == expected
    assert expected.matches(FileIdentity.of(path.stat()))


@pytest.mark.parametrize(
    ("time_ns", "stored"),
    [(0, 0), (-5, -5), (LARGEST, LARGEST), (LARGEST + 1, LARGEST), (-LARGEST - 5, -LARGEST), (2**80, LARGEST)],
)
def test_any_time_and_inode_of_a_file_server_can_be_stored_by_the_journal(time_ns: int, stored: int) -> None:
    status: Any = SimpleNamespace(st_size=1, st_mtime_ns=time_ns, st_ctime_ns=time_ns, st_ino=2**64 - 1)
    assert FileIdentity.of(status) == FileIdentity(1, stored, stored, LARGEST)


@pytest.mark.parametrize(
    ("mtime_ns", "is_placeholder"),
    [
        (-11_644_473_600 * 10**9, True),  # 1601
        (0, True),
        (14 * 3600 * 10**9, True),  # 1970 in another time zone
        (DAY_NS * 3 // 2 - 1, True),
        (DAY_NS * 3 // 2, False),
        (3651 * DAY_NS - 1, False),
        (3651 * DAY_NS, True),
        (3652 * DAY_NS, True),  # 1980-01-01
        (3653 * DAY_NS - 1, True),
        (3653 * DAY_NS, False),
        (1_700_000_000 * 10**9, False),
    ],
)
def test_the_epochs_of_windows_unix_and_fat_are_placeholders_in_any_time_zone(
    mtime_ns: int, is_placeholder: bool
) -> None:
    assert FileIdentity(1, mtime_ns, 3, 4).has_placeholder_time is is_placeholder


@pytest.mark.parametrize("change", [{"size": 9}, {"mtime_ns": 9}, {"ctime_ns": 9}, {"inode": 9}])
def test_identities_with_any_difference_do_not_match(change: dict[str, int]) -> None:
    assert IDENTITY.matches(IDENTITY)
    assert not IDENTITY.matches(IDENTITY._replace(**change))
    assert not IDENTITY.matches(None)


@pytest.mark.parametrize("change", [{"size": 9}, {"mtime_ns": 9}, {"inode": 9}])
def test_change_times_count_only_if_both_have_one(change: dict[str, int]) -> None:
    older = IDENTITY._replace(ctime_ns=None)
    assert IDENTITY.matches(older)
    assert older.matches(IDENTITY)
    assert not IDENTITY.matches(older._replace(**change))
    assert not older.matches(IDENTITY._replace(**change))
