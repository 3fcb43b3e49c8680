"""What an operating system's errors are told as."""

import errno
import os

import pytest

from handlers.errors import Waiting, storage_fault


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EBUSY, "another program has it open: it is tried again until that has closed it"),
        (errno.ETXTBSY, "another program has it open: it is tried again until that has closed it"),
        (
            errno.EROFS,
            "remount the target writable; a service must have it below a path of ReadWritePaths= of its unit",
        ),
        (errno.ENOSPC, "free space on the target"),
        (errno.ENXIO, "see that the disk or mount is there"),
    ],
)
def test_the_hint_fits_the_error(code: int, hint: str) -> None:
    fault = storage_fault("a.tif", "read it", OSError(code, os.strerror(code)))
    assert (fault.hint, fault.waiting_helps) == (hint, Waiting.ALWAYS)
    assert fault.problem == f"could not read it: {os.strerror(code)}"
