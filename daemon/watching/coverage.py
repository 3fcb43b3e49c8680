"""Which directories the kernel really watches, read from /proc/self/fdinfo.

Having asked for a watch says little: past the limit there is none, and what is moved or mounted over takes its along.
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
    """What a look at the watches of a root gave."""

    seen: int
    """Directories known."""
    watched: int
    """Those of them that the kernel watches for us."""
    unwatched: frozenset[str] = frozenset()
    """Paths of the others."""
    limit_reached: bool = False
    """Whether this process holds as many watches as the system lets its user have."""


BLIND = Coverage(0, 0)


def inotify_descriptors() -> frozenset[int]:
    """File descriptors of this process's inotify instances."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if str(entry.readlink()) == "anon_inode:inotify":
                found.append(int(entry.name))
        except OSError:
            continue  # closed since the listing
    return frozenset(found)


def _fdinfo(descriptor: int) -> bytes:
    try:
        return Path(f"/proc/self/fdinfo/{descriptor}").read_bytes()
    except OSError:
        return b""  # closed meanwhile


def parse_watches(fdinfo: bytes) -> frozenset[tuple[int, int]]:
    """(st_dev, st_ino) of each watch in the text of an inotify instance's fdinfo.

    Source: proc(5). The kernel prints its own form of a device number there, major << 20 | minor, in hexadecimal.

    >>> parse_watches(b"inotify wd:1 ino:3c4a3 sdev:fe00000 mask:100") == {(os.makedev(0xFE, 0), 0x3C4A3)}
    True
    """
    return frozenset(
        (os.makedev(int(device, 16) >> _MINOR_BITS, int(device, 16) & ((1 << _MINOR_BITS) - 1)), int(inode, 16))
        for inode, device in _WATCH.findall(fdinfo)
    )


def read_watches(descriptors: Iterable[int]) -> frozenset[tuple[int, int]]:
    """(st_dev, st_ino) of every watch of some inotify instances; an instance closed meanwhile has none."""
    return frozenset[tuple[int, int]]().union(*(parse_watches(_fdinfo(each)) for each in descriptors))


def watch_limit() -> int | None:
    """Watches that one user may have, by sysctl and by user namespace; None where the kernel does not tell."""
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
    """What part of the directories is watched.

    Parameters
    ----------
    root : path of the watch root, which tells how far device and inode numbers can be compared.
    directories : path -> (mtime_ns, st_dev, st_ino).
    watches : (st_dev, st_ino) of the root's watches.
    limit : watches that one user may have.
    held : watches of the whole process.
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
    # btrfs subvolumes stat with another device number than the one that their watches are listed under.
    inodes = frozenset(inode for _, inode in watches)
    if home[2] in inodes:
        return frozenset(path for path, (_, _, inode) in directories.items() if inode not in inodes)
    # Some overlays renumber inodes too: then only the count can be compared.
    return frozenset() if len(watches) >= len(directories) else frozenset(directories)
