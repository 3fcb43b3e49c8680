"""The status of an open file equals that of `os.fstat`, with `statx` and without it."""

import os
from pathlib import Path

import pytest

from handlers import file_status
from handlers.file_status import Statx, status_of

FIELDS = ("st_mode", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")
TIMES_NS = (1_700_000_000_123_456_789, -1_500_000_001)
"""Times of the last access and the last modification; times before 1970 are negative."""


@pytest.mark.parametrize("statx", [file_status._statx(), None, lambda *_: False], ids=["statx", "absent", "refused"])
def test_the_status_has_the_values_of_fstat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statx: Statx | None
) -> None:
    monkeypatch.setattr(file_status, "_statx", lambda: statx)
    path = tmp_path / "a"
    path.write_bytes(bytes(12_345))
    path.chmod(0o640)
    os.utime(path, ns=TIMES_NS)
    for name in (path, tmp_path):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            found, expected = status_of(descriptor), os.fstat(descriptor)
        finally:
            os.close(descriptor)
        assert [getattr(found, field) for field in FIELDS] == [getattr(expected, field) for field in FIELDS]


def test_a_descriptor_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        status_of(1_000_000)
