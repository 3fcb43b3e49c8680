"""A file that a file server still holds for its client is opened as soon as the server gives it back."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers.container import Container
from handlers.regular_file import NotRegular, open_regular
from tests.leases import leased
from tests.waiting import wait_for

OPENERS: dict[str, Callable[[Path], int]] = {
    "by its path": lambda path: open_regular(path)[0],
    "without following links": lambda path: open_regular(path, follow_links=False)[0],
    "below a directory": lambda path: open_regular(path, root=Container.of(path.parent))[0],
    "relative to a directory": lambda path: _open_in(path.parent, path.name),
}


def _open_in(directory: Path, name: str) -> int:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return open_regular(name, directory=descriptor)[0]
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("how", OPENERS)
def test_a_leased_file_is_opened_when_its_holder_gives_it_back(tmp_path: Path, how: str) -> None:
    path = tmp_path / "tile.tif"
    path.write_bytes(b"pixels")
    contents: list[bytes | OSError] = []

    def read() -> None:
        try:
            with os.fdopen(OPENERS[how](path), "rb") as file:
                contents.append(file.read())
        except OSError as error:
            contents.append(error)

    with leased(path) as lease:
        reader = threading.Thread(target=read)
        reader.start()
        wait_for(lambda: lease.is_wanted() or contents, "the reader asks for the file")
        reader.join(0.05)
        assert contents == []
        lease.give_back()
        reader.join(60)
    assert contents == [b"pixels"]


def test_a_pipe_in_place_of_a_leased_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tile.tif"
    path.write_bytes(b"pixels")
    first = os.open

    def replaced_at_once(name: object, flags: int, **options: int | None) -> int:
        monkeypatch.setattr(os, "open", first)
        path.unlink()
        os.mkfifo(path)
        raise BlockingIOError

    monkeypatch.setattr(os, "open", replaced_at_once)
    with pytest.raises(NotRegular, match=r"tile\.tif"):
        open_regular(path)
