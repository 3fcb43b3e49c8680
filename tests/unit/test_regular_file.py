"""A pipe, socket, device or directory in place of a file is refused immediately, with a reason."""

import asyncio
import json
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sections import section

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings
from handlers.acquisition.arrival import check_images, read_metafile
from handlers.acquisition.formats.pytemca import PyTemca
from handlers.acquisition.z import read_z_table
from handlers.errors import Fault
from handlers.images.header import inspect_image
from handlers.regular_file import NotRegular, open_regular, read_regular


def fifo(path: Path) -> None:
    os.mkfifo(path)


def socket_file(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)  # a server's address has at most 107 bytes


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


def metafile(path: Path) -> object:
    return asyncio.run(read_metafile(path, follow_links=True))


def image_of_a_metafile(path: Path) -> object:
    document = section(lambda _, tiles: tiles[0].update(img_path=path.name))
    arrival = check_images(PyTemca().parse(json.dumps(document).encode(), path), path.parent)
    raise Fault(str(path), arrival.unreadable[0].why)


READERS: list[Callable[[Path], object]] = [
    metafile,
    read_z_table,
    inspect_image,
    image_of_a_metafile,
    lambda path: inspect_image(path, mask=True),
    lambda path: read_token(HttpSettings(token_file=path)),
]
NAMES = ["metafile", "z table", "image", "image of a metafile", "mask", "token"]


def outcome_of(read: Callable[[Path], object], path: Path) -> object:
    """Return what the reader returns or raises. Fail if it hangs."""
    outcomes: list[object] = []

    def run() -> None:
        try:
            outcomes.append(read(path))
        except Exception as error:  # noqa: BLE001  the test checks it
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert outcomes, "the reader hangs"
    return outcomes[0]


@pytest.mark.parametrize("put", [fifo, socket_file, device, directory])
@pytest.mark.parametrize("read", READERS, ids=NAMES)
def test_a_file_that_is_not_regular_is_refused_without_blocking(
    tmp_path: Path, read: Callable[[Path], object], put: Callable[[Path], None]
) -> None:
    path = tmp_path / "named.tif"
    put(path)
    outcome = outcome_of(read, path)
    assert isinstance(outcome, Fault), outcome
    assert "named.tif" in str(outcome)
    assert "regular file" in str(outcome) or "outside" in str(outcome), outcome


def test_a_link_is_followed_unless_the_caller_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    link, loop = tmp_path / "link", tmp_path / "loop"
    link.symlink_to("file")
    loop.symlink_to("loop")
    content, status = read_regular(link, 4)
    assert (content, status.st_size) == (b"cont", 7)
    os.close(open_regular(link)[0])
    for path, follow_links, is_link in ((link, False, True), (loop, True, False)):
        with pytest.raises(NotRegular, match=path.name) as caught:
            open_regular(path, follow_links=follow_links)
        assert caught.value.is_link is is_link
    with pytest.raises(NotRegular) as caught:
        open_regular(tmp_path)
    assert caught.value.is_link is False
