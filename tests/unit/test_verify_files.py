"""Verification of files: levels must be made from the present bytes of their image, whose times do not matter."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers import verify
from handlers.difference import Kind
from handlers.images.digest import FileContent
from handlers.images.encode import Encoding
from handlers.mipmaps.level_digests import level_digests
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.measure import digest_of_levels
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.verify import check_files, check_mask_files

WIDTH, HEIGHT = 64, 48


def pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH), np.uint8)


def write(path: Path, seed: int, when_ns: int | None = None) -> None:
    Image.fromarray(pixels(seed)).save(path, "TIFF")
    if when_ns is not None:
        os.utime(path, ns=(when_ns, when_ns))


class Tile:
    """A tile with levels, and the recorded content of its image."""

    def __init__(self, place: Path) -> None:
        self.image = place / "a.tif"
        write(self.image, 1)
        self.level0 = Level0("a", self.image, None, WIDTH, HEIGHT)
        self.plan = MipmapPlan(place / "mipmaps", levels=2)
        self.made = self.make()

    def make(self) -> FileContent:
        report = make_mipmaps(tile_job(self.level0, self.plan))
        assert report.level0 is not None
        return report.level0

    def level(self, number: int) -> Path:
        return self.plan.path(number, self.image)

    def found(self, recorded: FileContent | None) -> list[tuple[str, str | None]]:
        return [(each.kind, each.start) for each in check_files(self.level0, self.plan, recorded)]


@pytest.fixture
def tile(tmp_path: Path) -> Tile:
    return Tile(tmp_path)


SOURCE_CHANGED = [(Kind.SOURCE_CHANGED, "mipmaps")]
TIMES = {"older": 10**18, "the same": 0, "younger": 3 * 10**18}


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("when", TIMES.values(), ids=TIMES)
def test_a_replaced_image_is_found_with_any_time(tile, when, is_recorded):
    write(tile.image, 2, when or tile.made.identity.mtime_ns)
    assert tile.found(tile.made if is_recorded else None) == SOURCE_CHANGED


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("when", TIMES.values(), ids=TIMES)
def test_an_image_with_the_same_bytes_and_any_time_is_no_difference(tile, when, is_recorded):
    changed_ns = when or tile.made.identity.mtime_ns
    os.utime(tile.image, ns=(changed_ns, changed_ns))
    assert tile.found(tile.made if is_recorded else None) == []


def test_a_level_made_from_another_image_is_found_although_the_image_is_unchanged(tile):
    (tile.image.parent / "other").mkdir()
    other = Tile(tile.image.parent / "other")
    write(other.image, 7)
    other.make()
    tile.level(2).write_bytes(other.level(2).read_bytes())
    (found,) = check_files(tile.level0, tile.plan, tile.made)
    assert (found.kind, found.start) == (Kind.SOURCE_CHANGED, "mipmaps")
    assert "levels 2" in found.what


@pytest.mark.parametrize("is_recorded", [True, False])
def test_levels_without_provenance_are_foreign_if_their_image_is_recorded(tile, is_recorded):
    for number in (1, 2):
        with Image.open(tile.level(number)) as opened:
            plain = Image.fromarray(np.asarray(opened))
        plain.save(tile.level(number), "TIFF")
    broken = [(Kind.LEVEL_BROKEN, "mipmaps")] * 2 if is_recorded else []
    recorded = tile.made if is_recorded else None
    assert tile.found(recorded) == broken
    write(tile.image, 2)
    assert tile.found(recorded) == broken + (SOURCE_CHANGED if is_recorded else [])


def test_an_unchanged_image_is_not_read(tile, monkeypatch):
    read: list[int] = []
    monkeypatch.setattr(verify, "RunningDigest", read.append)
    assert tile.found(tile.made) == []
    assert read == []


def test_a_replaced_mask_is_found_with_any_time(tmp_path):
    mask = tmp_path / "m.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(mask)
    level0 = Level0("a", tmp_path / "a.tif", mask, WIDTH, HEIGHT)
    plan = MipmapPlan(tmp_path / "mipmaps", levels=2)
    made = make_mipmaps(mask_job(level0, plan)).level0
    os.utime(mask, (4e9, 4e9))
    assert check_mask_files(level0, plan, made) == []
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(mask)
    for recorded in (made, None):
        (found,) = check_mask_files(level0, plan, recorded)
        assert (found.kind, found.start) == (Kind.SOURCE_CHANGED, "mipmaps")


def test_a_mask_of_one_bit_beside_jpeg_levels_has_no_difference(tmp_path):
    mask = tmp_path / "m.png"
    Image.new("1", (WIDTH, HEIGHT), 1).save(mask)
    level0 = Level0("a", tmp_path / "a.tif", mask, WIDTH, HEIGHT)
    plan = MipmapPlan(tmp_path / "mipmaps", levels=2, encoding=Encoding("jpg"))
    made = make_mipmaps(mask_job(level0, plan))
    assert made.fault is None
    assert check_mask_files(level0, plan, made.level0) == []


def test_level_files_with_other_bytes_are_found_although_their_pixels_are_the_same(tile):
    levels = tile.plan.outputs(tile.image)
    written = digest_of_levels(level_digests(levels))
    assert check_files(tile.level0, tile.plan, tile.made, written) == []
    with tile.level(2).open("ab") as file:
        file.write(b"\0")
    (found,) = check_files(tile.level0, tile.plan, tile.made, written)
    assert (found.kind, found.where, found.start) == (Kind.LEVEL_BROKEN, str(tile.level(1)), "mipmaps")
    assert found.what == "one of its levels 1 to 2 holds other bytes than were written"


def test_a_level_in_an_emptied_directory_is_not_checked_and_no_bytes_are_compared(tile):
    """The mount of the directory may be missing."""
    tile.level(1).unlink()
    (found,) = check_files(tile.level0, tile.plan, tile.made, b"other")
    assert (found.kind, found.where, found.start) == (Kind.NOT_CHECKED, str(tile.level(1)), "mipmaps")
    assert found.hint == "check that the disk or mount is there; if the levels are lost, replay it"


def test_a_missing_image_is_named_and_its_levels_are_not_compared_with_it(tile):
    tile.image.unlink()
    (found,) = check_files(tile.level0, tile.plan, tile.made)
    assert (found.kind, found.tile_id, found.where, found.what, found.start) == (
        Kind.SOURCE_GONE,
        "a",
        str(tile.image),
        "level 0 is missing",
        None,
    )
