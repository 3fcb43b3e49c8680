"""Coverage of a tree by inotify watches."""

import os

from daemon.watching.coverage import compare, parse_watches

DISK = os.makedev(0xFE, 1)
TREE = {"/data": (0, DISK, 2), "/data/a": (0, DISK, 3), "/data/b": (0, DISK, 4)}
FDINFO = b"""pos:	0
flags:	02004000
mnt_id:	16
ino:	1057
inotify wd:1 ino:2 sdev:fe00001 mask:3ce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:020000001d20d840
inotify wd:2 ino:3 sdev:fe00001 mask:3ce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:030000001d20d840
"""


def test_watches_are_read_with_the_numbers_that_stat_returns() -> None:
    assert parse_watches(FDINFO) == {(DISK, 2), (DISK, 3)}


def test_large_device_numbers_are_read() -> None:
    assert parse_watches(b"inotify wd:1 ino:a sdev:10312345 mask:3ce") == {(os.makedev(0x103, 0x12345), 10)}


def test_directories_without_a_watch_are_listed() -> None:
    coverage = compare("/data", TREE, parse_watches(FDINFO), limit=8192, held=2)
    assert (coverage.seen, coverage.watched, coverage.unwatched) == (3, 2, {"/data/b"})
    assert not coverage.limit_reached


def test_the_limit_is_reached_with_as_many_watches_as_allowed() -> None:
    assert compare("/data", TREE, parse_watches(FDINFO), limit=2, held=2).limit_reached


def test_the_limit_is_not_reached_while_every_directory_is_watched() -> None:
    watches = frozenset((DISK, inode) for inode in (2, 3, 4))
    assert not compare("/data", TREE, watches, limit=3, held=3).limit_reached


def test_a_directory_on_another_device_with_the_inode_number_of_a_watch_is_unwatched() -> None:
    tree = {**TREE, "/data/c": (0, os.makedev(0xFE, 2), 3)}
    assert compare("/data", tree, parse_watches(FDINFO), 8192, 2).unwatched == {"/data/b", "/data/c"}


def test_only_inode_numbers_are_compared_where_device_numbers_differ_as_on_btrfs() -> None:
    subvolume = {path: (0, os.makedev(0, 55), inode) for path, (_, _, inode) in TREE.items()}
    assert compare("/data", subvolume, parse_watches(FDINFO), None, 2).unwatched == {"/data/b"}


def test_only_the_counts_are_compared_where_inode_numbers_also_differ() -> None:
    renumbered = {path: (0, 77, inode + 100) for path, (_, _, inode) in TREE.items()}
    assert compare("/data", renumbered, parse_watches(FDINFO), None, 2).watched == 0
    enough = frozenset((DISK, inode) for inode in (2, 3, 4))
    assert compare("/data", renumbered, enough, None, 3).watched == 3


def test_without_watches_every_directory_is_unwatched() -> None:
    assert compare("/data", TREE, frozenset(), 8192, 0).unwatched == set(TREE)
