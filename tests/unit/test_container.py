"""Directories below a container are opened and made without following links."""

import errno
import io
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from daemon.pipeline.compare_images import _content_unless_same
from handlers import container
from handlers.container import Container, Containers, is_within, real_path
from handlers.errors import ImageFault
from handlers.identity import FileIdentity
from handlers.images.decode import read_hashed
from handlers.images.digest import FileContent
from handlers.images.header import ImageDirectory
from handlers.regular_file import NotContained, read_regular


@pytest.fixture(params=["openat2", "each part"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "each part":
        monkeypatch.setattr(container, "_openat2", lambda: None)
    elif container._openat2() is None:
        pytest.skip("this kernel has no openat2, or a sandbox forbids it")
    return str(request.param)


def opened(directory: Container, path: Path, *, create: bool = False) -> str:
    """Open a directory, close it, and return its place."""
    descriptor = directory.open_directory(path, create=create)
    try:
        return real_path(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.usefixtures("way")
class TestOpening:
    def test_a_directory_below_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        root = Container.of(tmp_path)
        assert opened(root, tmp_path / "a/b") == str(tmp_path / "a/b")
        assert opened(root, tmp_path) == str(tmp_path)

    def test_a_missing_directory_is_made_only_on_request(self, tmp_path: Path) -> None:
        root = Container.of(tmp_path)
        with pytest.raises(FileNotFoundError):
            root.open_directory(tmp_path / "a/b")
        assert opened(root, tmp_path / "a/b", create=True) == str(tmp_path / "a/b")

    def test_a_container_may_be_configured_as_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to("disk")
        root = Container.of(tmp_path / "link")
        assert opened(root, tmp_path / "link/a", create=True) == str(tmp_path / "disk/a")

    @pytest.mark.parametrize("create", [False, True])
    @pytest.mark.parametrize("target", ["outside", "inside", "missing"])
    def test_a_link_below_is_refused(self, tmp_path: Path, target: str, create: bool) -> None:
        (tmp_path / "outside/b").mkdir(parents=True)
        (tmp_path / "root/inside/b").mkdir(parents=True)
        targets = {"outside": "../outside", "inside": "inside", "missing": "../new"}
        (tmp_path / "root/a").symlink_to(targets[target])
        root = Container.of(tmp_path / "root")
        with pytest.raises(OSError, match=r".") as caught:
            root.open_directory(tmp_path / "root/a/b", create=create)
        assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
        assert not (tmp_path / "new").exists()

    def test_a_container_that_becomes_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        root = Container.of(tmp_path / "root")
        (tmp_path / "root").rename(tmp_path / "other")
        (tmp_path / "root").symlink_to("other")
        for create in (False, True):
            with pytest.raises(OSError, match=r".") as caught:
                root.open_directory(tmp_path / "root/a", create=create)
            assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
        assert not (tmp_path / "other/a").exists()

    def test_a_parent_of_a_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        with pytest.raises(OSError, match="leads out"):
            Container.of(tmp_path / "root").open_directory(tmp_path / "root/../a", create=True)
        assert not (tmp_path / "a").exists()

    def test_no_descriptor_stays_open(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"")
        (tmp_path / "link").symlink_to("nowhere")
        root = Container.of(tmp_path)
        attempts: list[Callable[[], object]] = [
            lambda: opened(root, tmp_path / "b/c/d", create=True),
            lambda: root.open_directory(tmp_path / "a/b", create=True),
            lambda: root.open_directory(tmp_path / "link/b", create=True),
            lambda: root.open_directory(tmp_path / "gone/b"),
        ]
        before = {path.name for path in Path("/proc/self/fd").iterdir()}
        for attempt in attempts:
            try:
                attempt()
            except OSError:
                continue
        assert {path.name for path in Path("/proc/self/fd").iterdir()} == before


def test_a_file_is_below_a_directory_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    for name, expected in (("root/a", True), ("root2/a", False)):
        (tmp_path / name).write_bytes(b"")
        with (tmp_path / name).open("rb") as file:
            assert is_within(file.fileno(), tmp_path / "root") is expected
            assert is_within(file.fileno(), Path("/"))


def test_a_directory_is_resolved_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    link = tmp_path / "link"
    containers = Containers()
    with pytest.raises(FileNotFoundError):
        containers.of(link)
    link.symlink_to("a")
    assert containers.of(link).real == tmp_path / "a"
    link.unlink()
    link.symlink_to("b")
    assert containers.of(link).real == tmp_path / "a"


def test_another_machine_resolves_a_directory_by_its_own_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    link = tmp_path / "link"
    link.symlink_to("a")
    elsewhere = Container(link, Path("/mnt/only/there"), "another-host")
    assert elsewhere.here().real == tmp_path / "a"
    assert opened(elsewhere, link / "b", create=True) == str(tmp_path / "a/b")
    link.unlink()
    link.symlink_to(tmp_path)
    assert elsewhere.here().real == tmp_path / "a"  # resolved once in each process


# --- links that are exchanged while images are opened

READS = 1_000


def by_header(section: Path, root: Path) -> object:
    with ImageDirectory(section, root) as images:
        return images.inspect("a.tif")[0].width


def by_worker(section: Path, root: Path) -> object:
    return read_hashed(section / "a.tif", INSIDE, INSIDE, root=root)[0].shape[0]


def by_metafile_reader(section: Path, root: Path) -> object:
    return INSIDE if read_regular(section / "a.tif", 2**20, root=root)[0] == tiff(INSIDE) else OUTSIDE


def by_later_check(section: Path, root: Path) -> object:
    before = FileContent(FileIdentity(0, 0, 0, 0), b"")
    found = _content_unless_same(section / "a.tif", before, root)
    return INSIDE if found is not None and found.identity.size == len(tiff(INSIDE)) else OUTSIDE


INSIDE, OUTSIDE = 8, 16


def tiff(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.parametrize("read", [by_header, by_worker, by_metafile_reader, by_later_check])
@pytest.mark.parametrize("exchanged", ["directory", "file"])
def test_a_link_that_is_exchanged_while_images_are_opened_never_gives_a_file_from_outside(
    tmp_path: Path, read: Callable[[Path, Path], object], exchanged: str
) -> None:
    root = tmp_path / "watch"
    for directory, side in ((root / "section", INSIDE), (root / "real", INSIDE), (tmp_path / "private", OUTSIDE)):
        directory.mkdir(parents=True)
        (directory / "a.tif").write_bytes(tiff(side))
    place, good, bad = root / "section", root / "real", tmp_path / "private"
    if exchanged == "directory":
        shutil.rmtree(place)
    else:
        (place / "a.tif").rename(place / "b.tif")
        place, good, bad = place / "a.tif", place / "b.tif", bad / "a.tif"
    place.symlink_to(good)
    end = threading.Event()

    def exchange() -> None:
        while not end.is_set():
            for target in (bad, good):
                (root / "new").symlink_to(target)
                (root / "new").replace(place)

    thread = threading.Thread(target=exchange)
    thread.start()
    seen: Counter[object] = Counter()
    deadline = time.monotonic() + 60
    try:
        while (seen.total() < READS or len(seen) < 2) and time.monotonic() < deadline:
            try:
                seen[read(root / "section", root)] += 1
            except (ImageFault, NotContained):
                seen["refused"] += 1
    finally:
        end.set()
        thread.join()
    assert set(seen) == {INSIDE, "refused"}, seen
