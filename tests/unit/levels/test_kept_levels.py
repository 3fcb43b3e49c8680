"""Existing levels are kept if they were made from this level 0 with these settings, and made again otherwise."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.images.decode import verify_level
from handlers.images.level0 import FileLevel0
from handlers.images.reduction import MASK
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from tests.unit.levels.files import HEIGHT, WIDTH, job_for, leftovers, save, texture


def age(path: Path, seconds: float) -> None:
    """Set the modification time of a file back."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def identities(job: MipmapJob) -> list[tuple[int, int]]:
    """Inode numbers and modification times of the levels: a level that is made again is another file."""
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for _, path in job.outputs]


class TestExistingLevels:
    @pytest.fixture
    def job(self, level0: Path, output_dir: Path) -> MipmapJob:
        """A job without `force` whose levels exist; its image is older than the levels."""
        age(level0, 60)
        job = job_for(level0, output_dir, levels=3, force=False)
        assert [made.level for made in make_mipmaps(job).made] == [1, 2, 3]
        return job

    def test_valid_levels_are_kept_and_the_image_is_not_decoded_for_them(
        self, job: MipmapJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = identities(job)
        monkeypatch.setattr(FileLevel0, "pixels", None)
        monkeypatch.setattr(FileLevel0, "stream", None)
        report = make_mipmaps(job)
        assert (report.fault, report.made, report.level0_bits) == (None, (), 8)
        assert [(kept.level, kept.path) for kept in report.kept] == list(job.outputs)
        assert report.kept[0].bytes == report.kept[0].path.stat().st_size
        assert identities(job) == before

    def test_with_force_all_levels_are_made_again(self, job: MipmapJob) -> None:
        before = identities(job)
        report = make_mipmaps(replace(job, force=True))
        assert [made.level for made in report.made] == [1, 2, 3]
        assert report.kept == ()
        assert not set(before) & set(identities(job))
        assert not leftovers(job.outputs[0][1].parent)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(Path.unlink, id="deleted"),
            pytest.param(lambda path: path.write_bytes(b""), id="empty"),
            pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-4]), id="truncated"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 4)), id="of another size"),
            pytest.param(lambda path: save(path, texture(np.uint16, 5, 3)), id="of another depth"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 3), format="PNG"), id="of another format"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 3)), id="without its description"),
        ],
    )
    def test_only_the_invalid_level_is_made_again(self, job: MipmapJob, damage: Callable[[Path], object]) -> None:
        valid = job.outputs[1][1].read_bytes()
        damage(job.outputs[1][1])
        report = make_mipmaps(job)
        assert report.fault is None
        assert [made.level for made in report.made] == [2]
        assert [kept.level for kept in report.kept] == [1, 3]
        assert job.outputs[1][1].read_bytes() == valid

    @pytest.mark.parametrize("seconds", [-600, 600, 10**9])
    def test_times_of_levels_are_ignored(self, job: MipmapJob, seconds: float) -> None:
        age(job.level0, -seconds)
        report = make_mipmaps(job)
        assert (report.fault, report.made) == (None, ())

    @pytest.mark.parametrize("seconds", [-3600, 0, 3600])
    def test_all_levels_of_a_new_image_are_made_for_any_time_of_the_image(self, job: MipmapJob, seconds: float) -> None:
        times = job.level0.stat()
        save(job.level0, np.full((HEIGHT, WIDTH), 77, np.uint8))
        moment = times.st_mtime_ns + int(seconds * 10**9)
        os.utime(job.level0, ns=(moment, moment))
        assert len(make_mipmaps(job).made) == 3
        assert (verify_level(job.outputs[0][1], WIDTH // 2, HEIGHT // 2, "L") == 77).all()

    def test_an_image_that_became_invalid_is_a_fault_although_its_levels_exist(self, job: MipmapJob) -> None:
        job.level0.write_bytes(b"")
        report = make_mipmaps(job)
        assert report.fault is not None
        assert report.kept == ()

    def test_a_changed_setting_makes_the_levels_again(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint16))
        age(file, 60)
        job = job_for(file, output_dir, force=False)
        make_mipmaps(job)
        report = make_mipmaps(replace(job, convert_to_8bit=False))
        assert [made.mode for made in report.made] == ["I;16", "I;16"]
        assert [kept.mode for kept in make_mipmaps(replace(job, convert_to_8bit=False)).kept] == ["I;16", "I;16"]

    def test_levels_of_a_mask_of_one_bit_are_kept(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "m.png", Image.fromarray(texture()).convert("1"))
        age(file, 60)
        job = job_for(file, output_dir, reduction=MASK, is_mask=True, force=False)
        assert len(make_mipmaps(job).made) == 2
        assert len(make_mipmaps(job).kept) == 2
