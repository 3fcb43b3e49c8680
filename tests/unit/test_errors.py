"""Hints for errors of the operating system."""

import errno
import os
import pickle

import pytest

from handlers.errors import MAX_TEXT, MetafileFault, Waiting, reading_fault, reading_hint, storage_fault


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.EBUSY, "close it in the other program that has it open; retries continue"),
        (errno.ETXTBSY, "close it in the other program that has it open; retries continue"),
        (
            errno.EROFS,
            "remount the target writable; for a service, list it in ReadWritePaths= of the unit",
        ),
        (errno.ENOSPC, "free space on the target"),
        (errno.ENXIO, "check that the disk or mount is there"),
    ],
)
def test_each_error_of_the_operating_system_has_its_hint(code: int, hint: str) -> None:
    fault = storage_fault("a.tif", "read it", OSError(code, os.strerror(code)))
    assert (fault.hint, fault.waiting_helps) == (hint, Waiting.ALWAYS)
    assert fault.problem == f"could not read it: {os.strerror(code)}"


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_nobody_is_told_to_open_acquisitions_for_writing(code: int) -> None:
    error = OSError(code, os.strerror(code))
    assert reading_fault("a.tif", "read it", error).hint == reading_hint(error)
    assert reading_hint(error) == "let the user that runs temwatch read it and enter each directory above it"
    assert storage_fault("a.tif", "write it", error).hint == "let the user that runs temwatch read and write there"
    assert reading_hint(OSError(errno.ENOENT, "gone")) == "check that the disk or mount is there"


def test_a_fault_without_a_hint_has_the_usual_one_of_its_class() -> None:
    fault = MetafileFault("a.json", "data: missing")
    assert fault.hint == "correct the metafile, or the program that wrote it"
    assert pickle.loads(pickle.dumps(fault)).hint == fault.hint
    assert MetafileFault("a.json", "data: missing", "copy it again").hint == "copy it again"


def test_long_texts_of_a_fault_are_shortened_in_their_middle() -> None:
    fault = MetafileFault("a" * 70_000, "should be 'b', found " + "b" * 70_000 + "'", "c" * 70_000)
    assert [len(text) for text in (fault.subject, fault.problem, fault.hint)] == [MAX_TEXT - 1] * 3
    assert fault.problem.startswith("should be 'b', found bb")
    assert fault.problem.endswith("bb'")
    assert str(pickle.loads(pickle.dumps(fault))) == str(fault)
