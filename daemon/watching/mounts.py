"""Determine a directory's file system, and whether the kernel sees every change there."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")

# fmt: off
REMOTE = frozenset((
    "9p", "acfs", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "fhgfs", "gfs", "gfs2",
    "glusterfs", "gpfs", "hvsock", "kafs", "lustre", "mfs", "mvfs", "ncp", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs",
    "panfs", "pfs", "prl_fs", "pvfs2", "quobyte", "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "wekafs",
))
# fmt: on
"""Types on which other machines can write without an event in this kernel. autofs, since it may mount one of them."""
LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.portal"})
_MAX_LINKS = 40

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount, from one line of mountinfo."""

    directory: str
    """Mount point; undecodable bytes as surrogates, as os.fsdecode returns them."""
    file_system: str
    """Type as the kernel names it: ext4, nfs4, fuse.sshfs."""

    @property
    def is_remote(self) -> bool:
        """Whether other machines can write there without an event: network and cluster file systems, most of FUSE."""
        kind = self.file_system
        return kind in REMOTE or (kind.partition(".")[0] in {"fuse", "fuseblk"} and kind not in LOCAL_FUSE)


def parse_mountinfo(raw: bytes) -> tuple[Mount, ...]:
    """Return the visible mounts. The last mount on a directory hides earlier ones.

    Source: proc(5), /proc/pid/mountinfo. Malformed lines are skipped.

    >>> parse_mountinfo(b"36 35 98:0 / /data/raw\\\\040tiles rw shared:1 master:2 - nfs4 server:/x rw")
    (Mount(directory='/data/raw tiles', file_system='nfs4'),)
    """
    mounts: dict[str, Mount] = {}
    for line in raw.splitlines():
        head, found, tail = line.partition(b" - ")
        fields = head.split(b" ")
        if found and len(fields) >= 6:
            directory = os.fsdecode(_OCTAL.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), fields[4]))
            mounts[directory] = Mount(directory, os.fsdecode(tail.split(b" ")[0]))
    return tuple(mounts.values())


def read_mounts(path: Path = MOUNTINFO) -> tuple[Mount, ...]:
    """Return the mounts that this process sees; none if the kernel does not report them."""
    try:
        return parse_mountinfo(path.read_bytes())
    except OSError:
        return ()


def is_within(path: str, directory: str) -> bool:
    """Whether a path equals a directory or lies below it, by name.

    >>> is_within("/data/a", "/data"), is_within("/database", "/data"), is_within("/x", "/")
    (True, False, True)
    """
    return path == directory or path.startswith(directory if directory.endswith("/") else directory + "/")


def mounts_of(root: str, mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """Return the mount that contains a root, then the mounts below the root, ordered by directory.

    Parameters
    ----------
    root : absolute path without symbolic links.
    """
    known = tuple(mounts)
    above = [mount for mount in known if is_within(root, mount.directory)]
    below = [mount for mount in known if is_within(mount.directory, root) and mount.directory != root]
    home = max(above, key=lambda mount: len(mount.directory), default=Mount("/", "unknown"))
    return (home, *sorted(below, key=lambda mount: mount.directory))


def remote_mount(path: str, mounts: Iterable[Mount]) -> Mount | None:
    """Return the network mount that contains a path; None if the path is on a disk of this machine.

    Symbolic links are followed until a network mount is reached. The mount's server is not accessed, since it may be
    down.

    Parameters
    ----------
    path : absolute; need not exist.
    """
    known, links = tuple(mounts), 0
    here, parts = "/", path.split("/")
    while parts:
        part = parts.pop(0)
        here = os.path.normpath(os.path.join(here, part))  # noqa: PTH118  `here` contains no link, so `..` is its parent
        home = mounts_of(here, known)[0]
        if home.is_remote:
            return home
        try:
            target = os.readlink(here)  # noqa: PTH115  a path may hold undecodable bytes
        except OSError:
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        here, parts = os.path.dirname(here), target.split("/") + parts  # noqa: PTH120
        here = "/" if target.startswith("/") else here
    return None
