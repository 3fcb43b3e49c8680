"""The mounts of a directory, and which of them are remote."""

from pathlib import Path

import pytest

from daemon.watching.mounts import Mount, mounts_of, parse_mountinfo, remote_mount

MOUNTINFO = rb"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
40 27 8:1 / /data rw,relatime shared:5 - xfs /dev/sda1 rw
41 40 0:50 / /data/temca2/remote\040share rw shared:7 master:1 - nfs4 server:/export rw,vers=4.2
42 40 0:51 / /data/temca2/laptop rw - fuse.sshfs me@laptop:/ rw
43 40 8:2 / /data/temca20 rw - ext4 /dev/sdb rw
44 42 8:3 / /data/temca2/laptop rw - ext4 /dev/sdc rw
not a line of mountinfo
"""


def test_the_mounts_of_a_root_are_its_own_and_those_below_it() -> None:
    found = mounts_of("/data/temca2", parse_mountinfo(MOUNTINFO))
    assert found == (
        Mount("/data", "xfs"),
        Mount("/data/temca2/laptop", "ext4"),
        Mount("/data/temca2/remote share", "nfs4"),
    )


def test_the_last_of_several_mounts_on_one_directory_counts() -> None:
    assert [mount for mount in parse_mountinfo(MOUNTINFO) if mount.directory.endswith("laptop")] == [
        Mount("/data/temca2/laptop", "ext4")
    ]


def test_a_mount_with_the_same_prefix_is_not_below_the_root() -> None:
    directories = [mount.directory for mount in mounts_of("/data/temca2", parse_mountinfo(MOUNTINFO))]
    assert "/data/temca20" not in directories


def test_bytes_of_a_mount_point_that_are_not_utf_8_are_kept() -> None:
    (mount,) = parse_mountinfo(b"1 0 0:1 / /data/caf\xe9 rw - ext4 /dev/sda rw")
    assert mount.directory == "/data/caf\udce9"


def test_a_root_without_a_reported_mount_has_an_unknown_one() -> None:
    assert mounts_of("/data", ()) == (Mount("/", "unknown"),)


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse", "fuse.glusterfs", "9p", "autofs"]
)
def test_network_file_systems_are_remote(kind: str) -> None:
    assert Mount("/", kind).is_remote


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "unknown"])
def test_local_file_systems_are_not_remote(kind: str) -> None:
    assert not Mount("/", kind).is_remote


def test_a_file_on_a_share_is_recognised_by_its_path_and_through_links(tmp_path: Path) -> None:
    share = tmp_path / "share"
    mounts = (Mount("/", "ext4"), Mount(str(share), "nfs4"), Mount(str(share / "disk"), "xfs"))
    here = tmp_path / "here"
    (tmp_path / "link").symlink_to("here/deep/../to the share")
    (here / "deep").mkdir(parents=True)
    (here / "to the share").symlink_to(share)
    (tmp_path / "loop").symlink_to("loop")
    for path in ("share/journal", "share/a/../b", "link/journal", "link"):
        assert remote_mount(f"{tmp_path}/{path}", mounts), path
    for path in ("here/x", "absent/x", "loop/x"):
        assert remote_mount(f"{tmp_path}/{path}", mounts) is None, path
