"""Passes over a directory tree: what they find, what they need not look at, and what does not stop them."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.watching.scan import Content, NameRule, Tree, is_suddenly_empty

NAMES = NameRule("_metadata_*.json", ("*_reference_*",))
LONG_AGO = (1_500_000_000, 1_500_000_000)


class Clock:
    """Seconds that pass when told to."""

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
    metafile(tmp_path / "a", "_metadata_reference_1.json")
    metafile(tmp_path, "image.tif")
    assert paths(tree(tmp_path).pass_over()) == [str(deep)]


def test_what_comes_once_the_events_of_a_directory_are_asked_for_is_in_its_listing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    asked: list[str] = []

    def ask(directory: str) -> None:
        asked.append(directory)
        metafile(Path(directory))

    found = Tree(str(tmp_path), NAMES, before_listing=ask).pass_over()
    assert asked == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]
    assert paths(found) == sorted(f"{directory}/_metadata_1_.json" for directory in asked)


@pytest.mark.parametrize("pattern", ["*_metadata_*.json", "?metadata*", "[_]metadata*", "_*"])
def test_a_pattern_may_begin_with_anything(tmp_path: Path, pattern: str) -> None:
    path = metafile(tmp_path)
    (tmp_path / "image.tif").touch()
    assert paths(Tree(str(tmp_path), NameRule(pattern)).pass_over()) == [str(path)]


def test_a_metafile_is_found_once_while_it_stays_the_same(tmp_path: Path) -> None:
    metafile(tmp_path)
    looked = tree(tmp_path)
    assert len(looked.pass_over()) == 1
    assert looked.pass_over(everything=True) == []


def test_a_directory_that_did_not_change_is_not_listed(tmp_path: Path) -> None:
    path = metafile(tmp_path / "a")
    age(tmp_path / "a", tmp_path)
    looked = tree(tmp_path)
    looked.pass_over()
    path.write_text("rewritten in place, which leaves the directory's mtime alone")
    assert looked.pass_over() == []
    assert paths(looked.pass_over({str(tmp_path / "a")})) == [str(path)]


def test_a_file_rewritten_in_place_is_found_by_a_pass_over_everything(tmp_path: Path) -> None:
    path = metafile(tmp_path)
    age(tmp_path)
    looked = tree(tmp_path)
    looked.pass_over()
    path.write_text("longer than before")
    (found,) = looked.pass_over(everything=True)
    assert (found.identity.size, found.is_new) == (18, False)


def test_a_second_change_within_the_same_tick_of_the_file_system_is_not_missed(tmp_path: Path) -> None:
    clock = Clock()
    looked = tree(tmp_path, clock)
    looked.pass_over()
    metafile(tmp_path, "_metadata_1_.json")
    seen = tmp_path.stat()
    assert len(looked.pass_over()) == 1
    metafile(tmp_path, "_metadata_2_.json")
    os.utime(tmp_path, ns=(seen.st_atime_ns, seen.st_mtime_ns))  # as if the clock had not ticked in between
    clock.now += 1
    assert len(looked.pass_over()) == 1


def test_a_directory_is_left_alone_once_its_change_is_old(tmp_path: Path) -> None:
    clock = Clock()
    path = metafile(tmp_path)
    looked = tree(tmp_path, clock)
    looked.pass_over()
    clock.now += 5
    looked.pass_over()
    path.write_text("longer than before")
    assert looked.pass_over() == []


def test_directories_that_vanish_are_forgotten_without_a_word(tmp_path: Path) -> None:
    path = metafile(tmp_path / "a" / "b")
    looked = tree(tmp_path)
    looked.pass_over()
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    assert looked.pass_over() == []
    assert list(looked.directories) == [str(tmp_path)]
    assert looked.content == Content(0, 0)


def test_a_directory_moved_in_is_looked_through_whatever_its_age(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    path = metafile(outside / "roi" / "0")
    age(path, outside / "roi" / "0", outside / "roi", outside)
    looked = tree(root)
    looked.pass_over()
    outside.rename(root / "session")
    assert paths(looked.pass_over()) == [str(root / "session" / "roi" / "0" / path.name)]


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
    looked = tree(root)
    looked.pass_over()
    (root / "a").rename(tmp_path / "elsewhere")
    (root / "a").symlink_to(tmp_path / "elsewhere")
    looked.pass_over()
    assert list(looked.directories) == [str(root)]


def test_a_link_with_the_name_of_a_metafile_is_counted_and_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "_metadata_1_.json").symlink_to(metafile(tmp_path / "outside"))
    looked = tree(root)
    assert looked.pass_over() == []
    assert looked.strangers == {str(root): 1}


def test_names_that_are_no_utf8_come_through(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(raw)  # noqa: PTH102  bytes paths
    with open(raw + b"/_metadata_\xff_.json", "wb") as file:  # noqa: PTH123  bytes paths
        file.write(b"{}")
    (found,) = tree(tmp_path).pass_over()
    assert os.fsencode(found.path) == raw + b"/_metadata_\xff_.json"


def test_a_tree_deeper_than_python_recurses_is_looked_through(tmp_path: Path) -> None:
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
    looked = tree(tmp_path)
    try:
        looked.pass_over()
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "d"], check=True)  # shutil recurses, and so would pytest's clean-up
    assert looked.content.directories > sys.getrecursionlimit()


def test_hints_are_followed_where_they_point_and_nowhere_else(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    looked = tree(tmp_path)
    looked.pass_over()
    in_a, in_c = metafile(tmp_path / "a"), metafile(tmp_path / "c" / "new")
    metafile(tmp_path / "b")
    assert paths(looked.look_at([str(tmp_path / "a")], [str(tmp_path / "c" / "new")])) == [str(in_a), str(in_c)]


def test_a_pass_ends_at_the_next_directory_when_told_to(tmp_path: Path) -> None:
    for number in range(5):
        metafile(tmp_path / str(number))
    looked = tree(tmp_path)
    looked.stop.set()
    assert looked.pass_over() == []
    assert looked.looked_at == 0


def test_the_tree_counts_what_watches_would_have_to_follow(tmp_path: Path) -> None:
    metafile(tmp_path / "a")
    looked = tree(tmp_path)
    looked.pass_over()
    before = looked.changes
    metafile(tmp_path / "a", "_metadata_2_.json")
    looked.pass_over()
    assert looked.changes == before
    (tmp_path / "a").rename(tmp_path / "b")
    looked.pass_over()
    assert looked.changes == before + 2


class Microscopist:
    """Does to a tree whatever one can do to a tree, at random."""

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
        if (gone := self._somewhere()) != self._root:
            shutil.rmtree(gone)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_done_to_a_tree_every_metafile_there_is_found(tmp_path: Path, seed: int) -> None:
    microscopist, clock = Microscopist(tmp_path, seed), Clock()
    looked = tree(tmp_path, clock)
    found: dict[str, int] = {}
    for _ in range(30):
        for _ in range(3):
            microscopist.act()
        clock.now += 0.5
        found |= {each.path: each.identity.size for each in looked.pass_over()}
        assert microscopist.metafiles() <= found.keys()
    found |= {each.path: each.identity.size for each in looked.pass_over(everything=True)}
    present = microscopist.metafiles()
    assert {path: Path(path).stat().st_size for path in present} == {path: found[path] for path in present}
    assert looked.content.metafiles == len(present)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that anybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Not being root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_must_not_be_read_is_told_and_tried_again(
    open_directory: Path, request: pytest.FixtureRequest
) -> None:
    closed = metafile(open_directory / "closed").parent
    beside = metafile(open_directory / "open")
    closed.chmod(0)
    request.getfixturevalue("nobody")
    looked = tree(open_directory)
    assert paths(looked.pass_over()) == [str(beside)]
    assert looked.failures == {str(closed): "Permission denied"}
    if os.getuid() == 0:
        os.seteuid(0)
    closed.chmod(0o755)
    if os.getuid() == 0:
        os.seteuid(65534)
    assert paths(looked.pass_over()) == [str(closed / "_metadata_1_.json")]
    assert looked.failures == {}


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
def test_a_tree_that_lost_everything_is_suddenly_empty(before: Content, now: Content, empty: bool) -> None:
    assert is_suddenly_empty(before, now) is empty
