"""Directories below a container are opened and made without following links."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from handlers import container
from handlers.container import Container, Containers, is_within, real_path


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
