"""Directories below a container are opened and made without following links."""

import errno
import fcntl
import io
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from daemon.pipeline.changes.compare_images import _content_unless_same
from handlers import container
from handlers.container import Container, Containers, real_path
from handlers.errors import ImageFault
from handlers.identity import FileIdentity
from handlers.images.decode import read_hashed
from handlers.images.digest import FileContent
from handlers.images.header import ImageDirectory, open_descriptor
from handlers.regular_file import NotContained, read_regular

LINK_REFUSED = (errno.ELOOP, errno.ENOTDIR)
"""Errors of opening a directory through a link."""


@pytest.fixture(params=["openat2", "each part"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the parts of a path are opened: all by the kernel, or each with O_NOFOLLOW."""
    if request.param == "each part":
        monkeypatch.setattr(container, "_openat2", lambda: None)
    elif container._openat2() is None:
        pytest.skip("this kernel has no openat2, or a sandbox forbids it")
    return str(request.param)


def open_descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def opened(directory: Container, path: Path, *, create: bool = False) -> str:
    """Open a directory, close it, and return its real path."""
    descriptor = directory.open_directory(path, create=create)
    try:
        return real_path(descriptor)
    finally:
        os.close(descriptor)


def refusal(root: Container, path: Path, **options: Any) -> int | None:
    """Return the error number with which a directory is refused."""
    with pytest.raises(OSError) as refused:  # noqa: PT011  the number decides
        root.open_directory(path, **options)
    return refused.value.errno


@pytest.mark.usefixtures("method")
class TestOpening:
    def test_a_directory_below_the_container_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        root = Container.of(tmp_path)
        assert opened(root, tmp_path / "a/b") == str(tmp_path / "a/b")
        assert opened(root, tmp_path) == str(tmp_path)

    def test_a_missing_directory_is_made_only_on_request(self, tmp_path: Path) -> None:
        root = Container.of(tmp_path)
        with pytest.raises(FileNotFoundError):
            root.open_directory(tmp_path / "a/b")
        assert opened(root, tmp_path / "a/b", create=True) == str(tmp_path / "a/b")

    def test_each_directory_that_is_made_is_reported_once_with_its_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        made: list[tuple[str, str]] = []

        def report(descriptor: int, path: str) -> None:
            made.append((real_path(descriptor), path))

        root = Container.of(tmp_path)
        for _ in range(2):
            os.close(root.open_directory(tmp_path / "a/b/c", create=True, made=report))
        assert made == [(str(tmp_path / part), str(tmp_path / part)) for part in ("a/b", "a/b/c")]

    def test_a_report_that_fails_leaves_no_descriptor_open(self, tmp_path: Path) -> None:
        def fail(descriptor: int, path: str) -> None:
            raise PermissionError(1, "no", path)

        before = open_descriptors()
        with pytest.raises(PermissionError):
            Container.of(tmp_path).open_directory(tmp_path / "a", create=True, made=fail)
        assert open_descriptors() == before

    @pytest.mark.parametrize("kind", ["link", "file"])
    def test_a_link_or_file_that_another_program_puts_in_place_of_a_directory_is_refused(
        self, tmp_path: Path, kind: str
    ) -> None:
        (tmp_path / "outside").mkdir()

        def put_in_place(_: int, path: str) -> None:
            if kind == "link":
                Path(path, "b").symlink_to(tmp_path / "outside")
            else:
                Path(path, "b").write_text("")

        (tmp_path / "root").mkdir()
        root = Container.of(tmp_path / "root")
        assert refusal(root, tmp_path / "root/a/b", create=True, made=put_in_place) in LINK_REFUSED

    def test_a_file_in_place_of_a_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")
        with pytest.raises(NotADirectoryError):
            Container.of(tmp_path).open_directory(tmp_path / "a", create=True)

    def test_a_container_may_be_configured_as_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "disk").mkdir()
        (tmp_path / "link").symlink_to("disk")
        root = Container.of(tmp_path / "link")
        assert opened(root, tmp_path / "link/a", create=True) == str(tmp_path / "disk/a")

    @pytest.mark.parametrize("create", [False, True])
    @pytest.mark.parametrize("target", ["outside", "inside", "missing"])
    def test_a_link_below_the_container_is_refused(self, tmp_path: Path, target: str, create: bool) -> None:
        (tmp_path / "outside/b").mkdir(parents=True)
        (tmp_path / "root/inside/b").mkdir(parents=True)
        targets = {"outside": "../outside", "inside": "inside", "missing": "../new"}
        (tmp_path / "root/a").symlink_to(targets[target])
        root = Container.of(tmp_path / "root")
        assert refusal(root, tmp_path / "root/a/b", create=create) in LINK_REFUSED
        assert not (tmp_path / "new").exists()

    def test_a_container_that_becomes_a_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        root = Container.of(tmp_path / "root")
        (tmp_path / "root").rename(tmp_path / "other")
        (tmp_path / "root").symlink_to("other")
        for create in (False, True):
            assert refusal(root, tmp_path / "root/a", create=create) in LINK_REFUSED
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
        before = open_descriptors()
        for attempt in attempts:
            try:
                attempt()
            except OSError:
                continue
        assert open_descriptors() == before


def read(root: Container, path: Path, flags: int = os.O_RDONLY) -> str:
    """Return the content of a file in a container, or the name of the error."""
    try:
        descriptor = root.open_beneath(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    with os.fdopen(descriptor) as file:
        return file.read()


@pytest.fixture
def watch(tmp_path: Path) -> Container:
    """A watched directory with two sections and links of all kinds; two directories beside it are outside."""
    root = tmp_path / "watch"
    for name in ("watch/a", "watch/b", "private", "watch2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "image").write_text(name)
    links = {
        "a/relative": "../b/image",
        "a/absolute": root / "b/image",
        "a/around": "../../watch/b/image",
        "a/out": "../../private/image",
        "a/away": tmp_path / "private/image",
        "a/beside": tmp_path / "watch2/image",
        "a/missing": "nothing",
        "a/loop": "loop",
        "to_b": "b",
        "to_b_by_root": root / "b",
        "to_private": tmp_path / "private",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return Container.of(root)


@pytest.mark.usefixtures("method")
class TestReadingBeneath:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("a/image", "watch/a"),
            ("a/relative", "watch/b"),
            ("a/absolute", "watch/b"),
            ("a/around", "watch/b"),
            ("to_b/image", "watch/b"),
            ("to_b_by_root/image", "watch/b"),
            ("a/../b/image", "watch/b"),
            ("a/out", "EXDEV"),
            ("a/away", "EXDEV"),
            ("a/beside", "EXDEV"),
            ("to_private/image", "EXDEV"),
            ("../private/image", "EXDEV"),
            ("../watch2/image", "EXDEV"),
            ("a/missing", "ENOENT"),
            ("a/nothing", "ENOENT"),
            ("a/image/x", "ENOTDIR"),
        ],
    )
    def test_only_files_inside_the_directory_are_opened_with_and_without_links(
        self, watch: Container, name: str, found: str
    ) -> None:
        assert read(watch, watch.path / name) == found

    def test_files_are_opened_with_the_requested_flags(self, watch: Container) -> None:
        descriptor = watch.open_beneath(watch.path / "a/image", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            assert fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_NONBLOCK
            assert fcntl.fcntl(descriptor, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        finally:
            os.close(descriptor)

    def test_a_loop_of_links_is_refused(self, watch: Container) -> None:
        assert read(watch, watch.path / "a/loop") in ("ELOOP", "EXDEV")

    @pytest.mark.parametrize(
        ("name", "found"), [("to_b/image", "watch/b"), ("to_private/image", "EXDEV"), ("a/relative", "ELOOP")]
    )
    def test_with_o_nofollow_the_last_part_may_not_be_a_link(self, watch: Container, name: str, found: str) -> None:
        assert read(watch, watch.path / name, os.O_RDONLY | os.O_NOFOLLOW) == found

    def test_a_path_through_a_link_to_the_directory_is_opened(self, watch: Container, tmp_path: Path) -> None:
        (tmp_path / "mounted").symlink_to("watch")
        configured = Container.of(tmp_path / "mounted")
        for root, path in ((configured, configured.path), (configured, watch.path), (watch, configured.path)):
            assert read(root, path / "a/image") == "watch/a"
            assert read(root, path / "a/out") == "EXDEV"

    def test_the_directory_itself_is_opened(self, watch: Container) -> None:
        descriptor = watch.open_beneath(watch.path, os.O_PATH | os.O_DIRECTORY)
        try:
            assert real_path(descriptor) == str(watch.path)
        finally:
            os.close(descriptor)

    def test_nothing_is_opened_in_a_directory_that_became_a_link(self, watch: Container, tmp_path: Path) -> None:
        watch.path.rename(tmp_path / "watch3")
        assert read(watch, watch.path / "a/image") == "ENOENT"
        watch.path.symlink_to(tmp_path / "watch3")
        assert read(watch, watch.path / "a/image") == "EXDEV"

    def test_no_descriptor_stays_open(self, watch: Container) -> None:
        before = open_descriptors()
        for name in ("a/image", "a/absolute", "a/out", "a/missing", "a/image/x", "../private/image"):
            read(watch, watch.path / name)
        assert open_descriptors() == before


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
    assert containers.of(tmp_path / "b").real == tmp_path / "b"


def test_another_machine_resolves_a_directory_by_its_own_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    link = tmp_path / "link"
    link.symlink_to("a")
    resolved_elsewhere = Container(link, Path("/mnt/only/there"), "another-host")
    assert resolved_elsewhere.here().real == tmp_path / "a"
    assert opened(resolved_elsewhere, link / "b", create=True) == str(tmp_path / "a/b")
    link.unlink()
    link.symlink_to(tmp_path)
    assert resolved_elsewhere.here().real == tmp_path / "a"  # resolved once in each process


# --- links that are replaced while images are opened

INSIDE, OUTSIDE = 8, 16
"""Sides of the images inside and outside of the watched directory, pixels."""
MIN_READS = 1_000
"""Number of reads, more until an image was read and one was refused."""


def by_header(section: Path, root: Container) -> object:
    with ImageDirectory(section, root) as images:
        return images.inspect("a.tif")[0].width


def by_worker(section: Path, root: Container) -> object:
    with open_descriptor(section / "a.tif", root) as descriptor:
        return read_hashed(descriptor, section / "a.tif", INSIDE, INSIDE)[0].shape[0]


def by_metafile_reader(section: Path, root: Container) -> object:
    return INSIDE if read_regular(section / "a.tif", 2**20, root=root)[0] == tiff(INSIDE) else OUTSIDE


def by_later_check(section: Path, root: Container) -> object:
    before = FileContent(FileIdentity(0, 0, 0, 0), b"")
    found = _content_unless_same(section / "a.tif", before, root)
    return INSIDE if found is not None and found.identity.size == len(tiff(INSIDE)) else OUTSIDE


def tiff(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "TIFF")
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.usefixtures("method")
@pytest.mark.parametrize("read", [by_header, by_worker, by_metafile_reader, by_later_check])
@pytest.mark.parametrize("replaced", ["directory", "file"])
def test_a_link_that_is_replaced_while_images_are_opened_never_gives_a_file_from_outside(
    tmp_path: Path, read: Callable[[Path, Container], object], replaced: str
) -> None:
    root = tmp_path / "watch"
    for directory, side in ((root / "section", INSIDE), (root / "real", INSIDE), (tmp_path / "private", OUTSIDE)):
        directory.mkdir(parents=True)
        (directory / "a.tif").write_bytes(tiff(side))
    link, good, bad = root / "section", root / "real", tmp_path / "private"
    if replaced == "directory":
        shutil.rmtree(link)
    else:
        (link / "a.tif").rename(link / "b.tif")
        link, good, bad = link / "a.tif", link / "b.tif", bad / "a.tif"
    link.symlink_to(good)
    container_of_root = Container.of(root)
    is_done = threading.Event()

    def replace_link() -> None:
        while not is_done.is_set():
            for target in (bad, good, os.path.relpath(bad, link.parent), os.path.relpath(good, link.parent)):
                (root / "new").symlink_to(target)
                (root / "new").replace(link)

    thread = threading.Thread(target=replace_link)
    thread.start()
    seen: Counter[object] = Counter()
    deadline = time.monotonic() + 60
    try:
        while (seen.total() < MIN_READS or len(seen) < 2) and time.monotonic() < deadline:
            try:
                seen[read(root / "section", container_of_root)] += 1
            except (ImageFault, NotContained):
                seen["refused"] += 1
    finally:
        is_done.set()
        thread.join()
    assert set(seen) == {INSIDE, "refused"}, seen
