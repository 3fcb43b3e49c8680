"""Metafiles that are rewritten while they are read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import daemon.settle
from daemon.settle import Settler


@pytest.mark.parametrize("how", ["replaced", "rewritten", "cut short"])
async def test_a_metafile_that_changes_while_it_is_read_is_not_taken_for_what_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path = tmp_path / "_metadata_1_.json"
    path.write_bytes(b"before")
    montage: Any = SimpleNamespace(id=1, metafile=path, changed_at=0.0)
    watch: Any = SimpleNamespace(
        ignore=(), directory=tmp_path, arrival_timeout_s=60.0, settle_s=0.0, scan_interval_s=1.0
    )
    settler = Settler()
    await settler.not_yet(montage, watch)
    real = daemon.settle.read_metafile

    async def read_and_change(asked: Path) -> bytes:
        content = await real(asked)
        if how == "replaced":
            other = tmp_path / "other"
            other.write_bytes(b"after!")
            other.replace(path)
        else:
            path.write_bytes(b"after, and longer" if how == "rewritten" else b"bef")
        return content

    monkeypatch.setattr(daemon.settle, "read_metafile", read_and_change)
    assert await settler.read(montage) is None
    monkeypatch.undo()
    await settler.not_yet(montage, watch)  # sees the new one
    read = await settler.read(montage)
    assert read is not None
    assert read[0] == path.read_bytes() != b"before"
