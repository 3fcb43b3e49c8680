"""Metafiles that are rewritten or removed while they are checked and read."""

import contextlib
import errno
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import daemon.pipeline.settling.settle
from daemon.pipeline.settling.settle import Settler
from handlers.errors import Fault


@pytest.mark.parametrize("how", ["replaced", "rewritten", "truncated"])
async def test_a_metafile_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "_metadata_1_.json"
    path.write_bytes(b"before")
    montage: Any = SimpleNamespace(id=1, metafile=path, changed_at=0.0)
    watch: Any = SimpleNamespace(
        ignore=(), directory=tmp_path, arrival_timeout_s=60.0, settle_s=0.0, scan_interval_s=1.0
    )
    settler = Settler()
    await settler.check(montage, watch)
    real = daemon.pipeline.settling.settle.read_metafile

    async def read_and_change(path_to_read: Path, root: Path) -> bytes:
        content = await real(path_to_read, root=root)
        if how == "replaced":
            other = tmp_path / "other"
            other.write_bytes(b"after!")
            other.replace(path)
        else:
            path.write_bytes(b"after, and longer" if how == "rewritten" else b"bef")
        return content

    monkeypatch.setattr(daemon.pipeline.settling.settle, "read_metafile", read_and_change)
    assert await settler.read(montage) is None
    monkeypatch.undo()
    await settler.check(montage, watch)  # finds the new file
    read = await settler.read(montage)
    assert read is not None
    assert read.content == path.read_bytes() != b"before"


async def test_a_directory_that_becomes_a_link_before_its_metafile_is_read_is_refused(tmp_path: Path) -> None:
    directory, outside = tmp_path / "watched" / "section", tmp_path / "outside"
    for each in (directory, outside):
        each.mkdir(parents=True)
        (each / "_metadata_1_.json").write_bytes(b"content")
    montage: Any = SimpleNamespace(id=1, metafile=directory / "_metadata_1_.json", changed_at=0.0)
    watch: Any = SimpleNamespace(
        ignore=(), directory=tmp_path / "watched", arrival_timeout_s=60.0, settle_s=0.0, scan_interval_s=1.0
    )
    settler = Settler()
    await settler.check(montage, watch)
    directory.rename(tmp_path / "former")
    directory.symlink_to(outside)
    with pytest.raises(Fault, match="lies outside the watched directory"):
        await settler.read(montage)
    with pytest.raises(Fault, match="lies outside the watched directory"):
        await settler.check(montage, watch)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ESTALE, errno.EIO, errno.ELOOP])
async def test_a_failure_of_any_file_access_is_a_fault_or_a_missing_metafile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "_metadata_1_.json"
    path.write_bytes(b"content")
    montage: Any = SimpleNamespace(id=1, metafile=path, changed_at=time.time())
    watch: Any = SimpleNamespace(
        ignore=(), directory=tmp_path, arrival_timeout_s=60.0, settle_s=0.0, scan_interval_s=1.0
    )
    accesses = Accesses(path, code)
    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, accesses.failing_later(getattr(os, name)))
    failures = 0
    for successes in range(20):
        settler = Settler()
        accesses.begin(successes)
        with contextlib.suppress(Fault):
            await settler.check(montage, watch)
            await settler.check(montage, watch)
            await settler.read(montage)
        failures += accesses.failed
    assert failures >= 3


class Accesses:
    """File accesses to one path: the first ones succeed, the rest fail."""

    def __init__(self, path: Path, code: int) -> None:
        self._path = str(path)
        self._code = code

    def begin(self, successes: int) -> None:
        self._successes, self.failed = successes, False

    def failing_later(self, real: Any) -> Any:
        def access(path: Any, *arguments: Any, **options: Any) -> Any:
            if str(path) == self._path:
                self._successes -= 1
                if self._successes < 0:
                    self.failed = True
                    raise OSError(self._code, os.strerror(self._code), self._path)
            return real(path, *arguments, **options)

        return access
