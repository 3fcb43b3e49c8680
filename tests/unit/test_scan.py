"""Passes over a directory tree: which metafiles they find, which directories they skip, which faults they survive."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemon.watching import scan
from daemon.watching.scan import Content, NameRule, Tree, is_suddenly_empty

NAMES = NameRule("_metadata_*.json")
LONG_AGO = (1_500_000_000, 1_500_000_000)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def tree(root: Path, clock: Clock | None = None) -> Tree:
    return Tree(str(root), NAMES, clock=clock or Clock())


def metafile(directory: Path, name: str = "_metadata_1_.json", text: str = "{}") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def age(*paths: Path) -> None:
    for path in paths:
        os.utime(path, LONG_AGO)


def paths(found: list) -> list[str]:
    return sorted(each.path for each in found)


def test_a_pass_finds_metafiles_at_any_depth_and_nothing_else(tmp_path: Path) -> None:
    deep = metafile(tmp_path / "a" / "b" / "c")
    metafile(tmp_path / "a", "_Metadata_1.json")
    metafile(tmp_path, "image.tif")
    assert paths(tree(tmp_path).pass_over()) == [str(deep)]


def test_files_that_arrive_while_events_of_their_directory_are_requested_are_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    requested: list[str] = []

    def ask(directory: str) -> None:
        requested.append(directory)
        metafile(Path(directory))

    found = Tree(str(tmp_path), NAMES, before_listing=ask).pass_over()
    assert requested == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert paths(found) == sorted(f"{directory}/_metadata_1_.json" for directory in requested)


@pytest.mark.parametrize("pattern", ["*_metadata_*.json", "?metadata*", "[_]metadata*", "_*"])
def test_a_pattern_may_begin_with_a_wildcard(tmp_path: Path, pattern: str) -> None:
    path = metafile(tmp_path)
    (tmp_path / "image.tif").touch()
    assert paths(Tree(str(tmp_path), NameRule(pattern)).pass_over()) == [str(path)]


def test_a_metafile_is_found_once_while_it_is_unchanged(tmp_path: Path) -> None:
    metafile(tmp_path)
    scanned = tree(tmp_path)
    assert len(scanned.pass_over()) == 1
    assert scanned.pass_over(everything=True) == []


def test_a_directory_that_did_not_change_is_not_listed(tmp_path: Path) -> None:
    path = metafile(tmp_path / "a")
    age(tmp_path / "a", tmp_path)
    scanned = tree(tmp_path)
    scanned.pass_over()
    path.write_text("rewritten in place, so that the mtime of the directory does not change")
    assert scanned.pass_over() == []
    assert paths(scanned.pass_over({str(tmp_path / "a")})) == [str(path)]


def test_a_file_rewritten_in_place_is_found_by_a_pass_over_everything(tmp_path: Path) -> None:
    path = metafile(tmp_path)
    age(tmp_path)
    scanned = tree(tmp_path)
    scanned.pass_over()
    path.write_text("longer than before")
    (found,) = scanned.pass_over(everything=True)
    assert (found.identity.size, found.is_new) == (18, False)


def test_a_second_change_within_the_same_tick_of_the_file_system_is_found(tmp_path: Path) -> None:
    clock = Clock()
    scanned = tree(tmp_path, clock)
    scanned.pass_over()
    metafile(tmp_path, "_metadata_1_.json")
    seen = tmp_path.stat()
    assert len(scanned.pass_over()) == 1
    metafile(tmp_path, "_metadata_2_.json")
    os.utime(tmp_path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as if the clock of the file system had not advanced
    clock.now += 1
    assert len(scanned.pass_over()) == 1


def test_a_directory_is_not_listed_again_once_its_change_is_old(tmp_path: Path) -> None:
    clock = Clock()
    path = metafile(tmp_path)
    scanned = tree(tmp_path, clock)
    scanned.pass_over()
    clock.now += 5
    scanned.pass_over()
    path.write_text("longer than before")
    assert scanned.pass_over() == []


def test_directories_that_vanish_are_forgotten(tmp_path: Path) -> None:
    path = metafile(tmp_path / "a" / "b")
    scanned = tree(tmp_path)
    scanned.pass_over()
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    assert scanned.pass_over() == []
    assert list(scanned.directories) == [str(tmp_path)]
    assert scanned.content == Content(0, 0)


class Disk:
    """A directory that can be unmounted and mounted again without a change in it."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self._elsewhere = place / "unmounted"
        self.root.mkdir()

    def unmount(self) -> None:
        if self.root.exists():
            self.root.rename(self._elsewhere)

    def mount(self) -> None:
        self._elsewhere.rename(self.root)

    @contextmanager
    def listing(self, path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """List a directory, and unmount the disk before the status of an entry is read."""
        with os.scandir(path) as entries:
            yield entries
        self.unmount()


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_a_new_directory_is_found_although_its_disk_is_unmounted_before_it_is_listed(disk: Disk) -> None:
    path = metafile(disk.root / "a")
    age(path.parent, disk.root)
    scanned = Tree(str(disk.root), NAMES, before_listing=lambda each: disk.unmount() if each.endswith("/a") else None)
    assert scanned.pass_over() == []
    scanned._before_listing = lambda _: None
    disk.mount()
    assert paths(scanned.pass_over()) == [str(path)]


def test_a_metafile_is_found_although_its_disk_is_unmounted_before_its_size_is_read(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = metafile(disk.root)
    age(disk.root)
    scanned = tree(disk.root)
    with monkeypatch.context() as patched:
        patched.setattr(scan, "os", SimpleNamespace(**{**vars(os), "scandir": disk.listing}))
        assert scanned.pass_over() == []
    disk.mount()
    assert paths(scanned.pass_over()) == [str(path)]


def test_a_new_directory_is_found_although_the_root_was_missing_when_a_hint_was_followed(disk: Disk) -> None:
    known = metafile(disk.root / "known")
    scanned = tree(disk.root)
    scanned.pass_over()
    path = metafile(disk.root / "new")
    age(known.parent, path.parent, disk.root)
    disk.unmount()
    assert scanned.scan_some([str(disk.root)], ()) == []
    disk.mount()
    assert str(path) in paths(scanned.pass_over())


def test_known_directories_are_listed_again_after_their_disk_was_missing(disk: Disk) -> None:
    path = metafile(disk.root / "a" / "b")
    age(path.parent, path.parent.parent, disk.root)
    scanned = tree(disk.root)
    scanned.pass_over()
    path.write_text("rewritten in place")
    disk.unmount()
    assert scanned.scan_some([str(path.parent)], ()) == []
    disk.mount()
    assert paths(scanned.pass_over()) == [str(path)]


def test_a_directory_that_is_moved_in_is_scanned_even_if_its_mtime_is_old(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    path = metafile(outside / "roi" / "0")
    age(path, outside / "roi" / "0", outside / "roi", outside)
    scanned = tree(root)
    scanned.pass_over()
    outside.rename(root / "session")
    assert paths(scanned.pass_over()) == [str(root / "session" / "roi" / "0" / path.name)]


def test_links_to_directories_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    metafile(outside)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root)
    assert tree(root).pass_over() == []


def test_a_directory_replaced_by_a_link_is_forgotten_with_all_below_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    metafile(root / "a" / "b")
    scanned = tree(root)
    scanned.pass_over()
    (root / "a").rename(tmp_path / "elsewhere")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    scanned.pass_over()
    assert list(scanned.directories) == [str(root)]


def test_a_link_with_the_name_of_a_metafile_is_counted_and_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "_metadata_1_.json").symlink_to(metafile(tmp_path / "outside"))
    scanned = tree(root)
    assert scanned.pass_over() == []
    assert scanned.irregular == {str(root): 1}


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)  # noqa: PTH102  bytes paths
    with open(raw + b"/_metadata_\xff_.json", "wb") as file:  # noqa: PTH123  bytes paths
        file.write(b"{}")
    (found,) = tree(tmp_path).pass_over()
    assert os.fsencode(found.path) == raw + b"/_metadata_\xff_.json"


def test_a_tree_deeper_than_the_recursion_limit_is_scanned(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        path = str(tmp_path)
        while len(path) < 2_400:
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here, path = below, path + "/d"
    finally:
        os.close(here)
    scanned = tree(tmp_path)
    try:
        scanned.pass_over()
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil recurses, and so would pytest's clean-up
    assert scanned.content.directories > sys.getrecursionlimit()


def test_only_the_directories_of_hints_are_scanned(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    scanned = tree(tmp_path)
    scanned.pass_over()
    in_a, in_c = metafile(tmp_path / "a"), metafile(tmp_path / "c" / "new")
    metafile(tmp_path / "b")
    assert paths(scanned.scan_some([str(tmp_path / "a")], [str(tmp_path / "c" / "new")])) == [str(in_a), str(in_c)]


def test_a_pass_ends_at_the_next_directory_after_stop_is_set(tmp_path: Path) -> None:
    for number in range(5):
        metafile(tmp_path / str(number))
    scanned = tree(tmp_path)
    scanned.stop.set()
    assert scanned.pass_over() == []


def test_the_tree_counts_new_and_removed_directories(tmp_path: Path) -> None:
    metafile(tmp_path / "a")
    scanned = tree(tmp_path)
    scanned.pass_over()
    before = scanned.changes
    metafile(tmp_path / "a", "_metadata_2_.json")
    scanned.pass_over()
    assert scanned.changes == before
    (tmp_path / "a").rename(tmp_path / "b")
    scanned.pass_over()
    assert scanned.changes == before + 2


class Microscopist:
    """Writes, rewrites, moves and removes files and directories at random."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)
        self._count = 0

    def act(self) -> None:
        action = self._random.choice([self._write, self._write, self._rewrite, self._make, self._move, self._remove])
        action()

    def metafiles(self) -> set[str]:
        return {str(path) for path in self._root.rglob("_metadata_*.json")}

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _somewhere(self) -> Path:
        return self._random.choice([self._root, *sorted(path for path in self._root.rglob("*") if path.is_dir())])

    def _make(self) -> None:
        (self._somewhere() / f"d{self._next()}" / "roi").mkdir(parents=True)

    def _write(self) -> None:
        metafile(self._somewhere(), f"_metadata_{self._next()}_.json")

    def _rewrite(self) -> None:
        for path in sorted(self.metafiles())[:1]:
            Path(path).write_text("x" * self._next())

    def _move(self) -> None:
        moved, target = self._somewhere(), self._somewhere()
        if moved != self._root and not target.is_relative_to(moved):
            moved.rename(target / f"d{self._next()}")

    def _remove(self) -> None:
        if (removed := self._somewhere()) != self._root:
            shutil.rmtree(removed)


@pytest.mark.parametrize("seed", range(20))
def test_every_metafile_is_found_after_random_changes_of_the_tree(tmp_path: Path, seed: int) -> None:
    microscopist, clock = Microscopist(tmp_path, seed), Clock()
    scanned = tree(tmp_path, clock)
    found: dict[str, int] = {}
    for _ in range(30):
        for _ in range(3):
            microscopist.act()
        clock.now += 0.5
        found |= {each.path: each.identity.size for each in scanned.pass_over()}
        assert microscopist.metafiles() <= found.keys()
    found |= {each.path: each.identity.size for each in scanned.pass_over(everything=True)}
    present = microscopist.metafiles()
    assert {path: Path(path).stat().st_size for path in present} == {path: found[path] for path in present}
    assert scanned.content.metafiles == len(present)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def without_root() -> Iterator[None]:
    """Run without the permissions of root, which can read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_unreadable_directory_is_reported_and_retried(open_directory: Path, request: pytest.FixtureRequest) -> None:
    closed = metafile(open_directory / "closed").parent
    readable = metafile(open_directory / "open")
    closed.chmod(0)
    request.getfixturevalue("without_root")
    scanned = tree(open_directory)
    assert paths(scanned.pass_over()) == [str(readable)]
    assert scanned.failures == {str(closed): "Permission denied"}
    if os.getuid() == 0:
        os.seteuid(0)
    closed.chmod(0o755)
    if os.getuid() == 0:
        os.seteuid(65534)
    assert paths(scanned.pass_over()) == [str(closed / "_metadata_1_.json")]
    assert scanned.failures == {}


@pytest.mark.parametrize(
    ("before", "now", "empty"),
    [
        (Content(0, 0), Content(0, 0), False),
        (Content(1, 0), Content(0, 0), True),
        (Content(0, 3), Content(0, 0), True),
        (Content(9, 3), Content(0, 3), False),
        (Content(10, 3), Content(0, 3), True),
        (Content(10, 3), Content(1, 0), False),
    ],
)
def test_a_tree_that_lost_all_of_many_metafiles_or_everything_is_suddenly_empty(
    before: Content, now: Content, empty: bool
) -> None:
    assert is_suddenly_empty(before, now) is empty
