"""Modes and group of mipmap files and directories."""

import errno
import grp
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon.config.errors import ConfigError
from daemon.config.load import load_settings
from daemon.config.mipmap_settings import MipmapSettings
from handlers.container import Container
from handlers.errors import StorageFault
from handlers.images.encode import PLAIN_TIFF
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.sharing import Sharing, make_directories
from handlers.stores import atomic_write
from handlers.stores.atomic_write import write_beside
from tests.settings_text import settings_text

PAGE = PLAIN_TIFF.page(np.zeros((4, 6), np.uint8), "text")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _strict_umask() -> Any:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize("is_contained", [True, False])
def test_a_level_and_its_new_directories_have_the_configured_modes(tmp_path: Path, is_contained: bool) -> None:
    made_before = tmp_path / "1"
    made_before.mkdir(mode=0o700)
    path = made_before / "data/scope/a.tif"
    container = Container.of(tmp_path) if is_contained else None
    write_beside(1, path, PAGE, PLAIN_TIFF, container, sharing=Sharing(0o664, 0o2775)).finish()
    assert mode_of(path) == 0o664
    assert [mode_of(each) for each in (path.parent, path.parent.parent, made_before)] == [0o2775, 0o2775, 0o700]


def test_without_configured_modes_the_umask_decides(tmp_path: Path) -> None:
    path = tmp_path / "1/a.tif"
    write_beside(1, path, PAGE, PLAIN_TIFF, Container.of(tmp_path)).finish()
    assert (mode_of(path), mode_of(path.parent)) == (0o600, 0o700)


def test_a_level_has_its_mode_and_group_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    rename = os.replace

    def record(source: str, target: str, **directories: int) -> None:
        found = os.stat(source, dir_fd=directories["src_dir_fd"])
        seen.append((stat.S_IMODE(found.st_mode), found.st_gid))
        rename(source, target, **directories)

    monkeypatch.setattr(atomic_write.os, "replace", record)
    group = os.getgid()
    write_beside(1, tmp_path / "a.tif", PAGE, PLAIN_TIFF, sharing=Sharing(0o644, None, str(group))).finish()
    assert seen == [(0o644, group)]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to any group")
def test_files_and_directories_get_the_group_by_its_name(tmp_path: Path) -> None:
    group = grp.getgrnam("daemon")
    path = tmp_path / "1/a.tif"
    write_beside(1, path, PAGE, PLAIN_TIFF, Container.of(tmp_path), sharing=Sharing(0o640, 0o2750, "daemon")).finish()
    assert (path.stat().st_gid, path.parent.stat().st_gid) == (group.gr_gid, group.gr_gid)
    assert (mode_of(path), mode_of(path.parent)) == (0o640, 0o2750)


def test_a_group_without_the_user_as_a_member_is_a_fault_that_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    with pytest.raises(StorageFault, match=r"cannot get the group 7: Operation not permitted .*mipmaps\.group"):
        write_beside(1, tmp_path / "a.tif", PAGE, PLAIN_TIFF, sharing=Sharing(group="7")).finish()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_output_directory_is_made_with_its_mode(tmp_path: Path) -> None:
    make_directories(tmp_path / "a/b", Sharing(directory_mode=0o755))
    make_directories(tmp_path / "a/b", Sharing(directory_mode=0o700))  # it exists and is not changed
    assert [mode_of(tmp_path / each) for each in ("a", "a/b")] == [0o755, 0o755]


def test_the_settings_reach_the_jobs_of_images_and_masks() -> None:
    settings = MipmapSettings(output_dir="/mips", file_mode="0664", directory_mode="2775", group="em")
    plan = MipmapPlan(Path("/mips"), sharing=settings.sharing())
    tile = Level0("t", Path("/data/a.tif"), Path("/data/mask.tif"), 64, 64)
    assert tile_job(tile, plan).sharing == mask_job(tile, plan).sharing == Sharing(0o664, 0o2775, "em")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('file_mode = "0x44"', "file_mode: '0x44' is not an octal mode of three or four digits, as in \"0664\""),
        ('file_mode = "0444"', "file_mode: '0444' does not give the owner enough permissions: expected at least 0600"),
        (
            'directory_mode = "0644"',
            "directory_mode: '0644' does not give the owner enough permissions: expected at least 0700",
        ),
        ("file_mode = 0o664", "file_mode: 436 is not a text in quotes"),
        ('group = "no-such-group"', "group: 'no-such-group' is not a group of this machine"),
    ],
)
def test_a_wrong_mode_or_group_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"{settings_text()}{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    assert caught.value.problems == (f"watch[0].mipmaps.{problem}",)
