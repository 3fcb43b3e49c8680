"""Measure which directories the kernel watches, from /proc/self/fdinfo.

A successful request for a watch is no proof: a directory that is moved, or mounted over, keeps its watch under another
path. At the watch limit the kernel refuses requests.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_WATCH = re.compile(rb"^inotify wd:[0-9a-f]+ ino:([0-9a-f]+) sdev:([0-9a-f]+)", re.MULTILINE)
_MINOR_BITS = 20
_LIMITS = (Path("/proc/sys/fs/inotify/max_user_watches"), Path("/proc/sys/user/max_inotify_watches"))


@dataclass(frozen=True, slots=True)
class Coverage:
    """Which of a root's directories the kernel watches."""

    seen: int
    """Number of known directories."""
    watched: int
    """Number of known directories that the kernel watches for this process."""
    unwatched: frozenset[str] = frozenset()
    """Known directories that the kernel does not watch."""
    limit_reached: bool = False
    """Whether directories are unwatched because this process has as many watches as its user may have."""


UNMEASURED = Coverage(0, 0)


def inotify_descriptors() -> frozenset[int]:
    """Return the file descriptors of this process's inotify instances."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if str(entry.readlink()) == "anon_inode:inotify":
                found.append(int(entry.name))
        except OSError:
            continue  # closed since it was listed
    return frozenset(found)


def _fdinfo(descriptor: int) -> bytes:
    try:
        return Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()
    except OSError:
        return b""  # closed meanwhile


def parse_watches(fdinfo: bytes) -> frozenset[tuple[int, int]]:
    """Return (st_dev, st_ino) of each watch in the fdinfo of an inotify instance.

    Source: proc(5). The kernel prints a device number as major << 20 | minor there, in hexadecimal.

    >>> parse_watches(b"inotify wd:1 ino:3c4a3 sdev:fe00000 mask:100") == {(os.makedev(0xFE, 0), 0x3C4A3)}
    True
    """
    return frozenset(
        (os.makedev(int(device, 16) >> _MINOR_BITS, int(device, 16) & ((1 << _MINOR_BITS) - 1)), int(inode, 16))
        for inode, device in _WATCH.findall(fdinfo)
    )


def read_watches(descriptors: Iterable[int]) -> frozenset[tuple[int, int]]:
    """Return (st_dev, st_ino) of every watch of inotify instances. A closed instance contributes none."""
    return frozenset[tuple[int, int]]().union(*(parse_watches(_fdinfo(each)) for each in descriptors))


def watch_limit() -> int | None:
    """Return how many watches a user may have; None if neither sysctl nor user namespace limits them."""
    limits = []
    for path in _LIMITS:
        try:
            limits.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return min(limits, default=None)


def compare(
    root: str,
    directories: Mapping[str, tuple[int, int, int]],
    watches: frozenset[tuple[int, int]],
    limit: int | None,
    held: int,
) -> Coverage:
    """Compare the directories of a root with the watches of the kernel.

    Parameters
    ----------
    root : path of the watch root; its own watch shows whether device and inode numbers can be compared.
    directories : path -> (mtime_ns, st_dev, st_ino).
    watches : (st_dev, st_ino) of the root's watches.
    limit : number of watches that one user may have; None: unlimited.
    held : number of watches of the whole process.
    """
    unwatched = _unwatched(root, directories, watches)
    limit_reached = bool(unwatched) and limit is not None and held >= limit
    return Coverage(len(directories), len(directories) - len(unwatched), unwatched, limit_reached)


def _unwatched(
    root: str, directories: Mapping[str, tuple[int, int, int]], watches: frozenset[tuple[int, int]]
) -> frozenset[str]:
    home = directories.get(root)
    if home is None or home[1:] in watches:
        return frozenset(path for path, (_, device, inode) in directories.items() if (device, inode) not in watches)
    # For a btrfs subvolume, stat and fdinfo report different device numbers.
    inodes = frozenset(inode for _, inode in watches)
    if home[2] in inodes:
        return frozenset(path for path, (_, _, inode) in directories.items() if inode not in inodes)
    # Some overlay file systems also renumber inodes. Then only the counts can be compared.
    return frozenset() if len(watches) >= len(directories) else frozenset(directories)
