"""Levels of image files: supported and refused images, and the files on disk after any failure."""

import errno
import os
import pickle
import shutil
import socket
import stat
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from handlers.container import Container, Containers
from handlers.errors import (
    Fault,
    ImageFault,
    ImagesMissing,
    MetafileFault,
    SettingsFault,
    StorageFault,
    Waiting,
    WorkerFault,
)
from handlers.images import decode
from handlers.images.decode import verify_level
from handlers.images.encode import PLAIN_TIFF, Encoding
from handlers.images.header import inspect_image
from handlers.images.level0 import FileLevel0
from handlers.images.pillow_pixels import ROWS_AT_ONCE
from handlers.images.reduction import MASK, METHODS, Reduction
from handlers.mipmaps import atomic_write, make
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.plan import Level0, MipmapPlan, absent_levels, level_uris
from handlers.mipmaps.report import FaultReport, MipmapReport
from handlers.mipmaps.tile_jobs import mask_job, tile_job
from handlers.uris import uri_to_path

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WIDTH, HEIGHT = 21, 13


def texture(depth: Any = np.uint8, width: int = WIDTH, height: int = HEIGHT) -> Any:
    """An image of noise, (height, width)."""
    return np.random.default_rng(11).integers(0, np.iinfo(depth).max, (height, width), depth, endpoint=True)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    """An image file as Pillow writes it."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def job_for(level0: Path, output_dir: Path, levels: int = 2, extension: str = "tif", **changes: Any) -> MipmapJob:
    """A job as the daemon makes it."""
    outputs = tuple((level, output_dir / str(level) / f"{level0.name}.{extension}") for level in range(1, levels + 1))
    job = MipmapJob(
        "tile.1",
        level0,
        outputs,
        WIDTH,
        HEIGHT,
        encoding=Encoding(extension),
        root=Container(level0.parent, level0.parent.resolve()),
    )
    return replace(job, **changes)


def fault_of(job: MipmapJob) -> Fault:
    """The fault that a job ends with, as it arrives from a worker. Nothing is left of the job."""
    report: MipmapReport = pickle.loads(pickle.dumps(make_mipmaps(pickle.loads(pickle.dumps(job)))))
    assert report.fault is not None
    assert not report.made
    assert not [path for _, path in job.outputs if path.exists()]
    assert not leftovers(*{path.parent for _, path in job.outputs})
    return report.fault.to_fault()


def leftovers(*directories: Path) -> list[str]:
    """Temporary files."""
    found = [directory.rglob("*.tmp") for directory in directories if directory.is_dir()]
    return [path.name for paths in found for path in paths]


def tiff(pixels: bytes, *tags: tuple[int, int, int], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of one strip, written by hand; each tag is (number, type, value), the type 3 (SHORT) or 4 (LONG)."""
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}2sHHHQ", mark, 43, 8, 0, 16) if big else struct.pack(f"{order}2sHI", mark, 42, 8)
    word, count, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    entries = {number: (kind, value) for number, kind, value in tags}
    missing = {273, 279} - entries.keys()
    directory_bytes = struct.calcsize(f"<{count}{word}") + (len(entries) + len(missing)) * entry_bytes
    entries.setdefault(273, (4, len(start) + directory_bytes))
    entries.setdefault(279, (4, len(pixels)))
    body = struct.pack(f"{order}{count}", len(entries))
    for number in sorted(entries):
        kind, value = entries[number]
        packed = struct.pack(f"{order}{'H' if kind == 3 else 'I'}", value).ljust(struct.calcsize(f"<{word}"), b"\0")
        body += struct.pack(f"{order}HH{word}", number, kind, 1) + packed
    return start + body + struct.pack(f"{order}{word}", 0) + pixels


def grey_tags(width: int, height: int, bits: int = 8, photometric: int = 1) -> list[tuple[int, int, int]]:
    """The tags that a grey image needs, but for its strip."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (277, 3, 1)]
    return [*tags, (278, 4, height)]


@pytest.fixture
def level0(tmp_path: Path) -> Path:
    """An 8-bit image in a directory of its own."""
    directory = tmp_path / "acquisition"
    directory.mkdir()
    return save(directory / "image.tif", texture())


@pytest.fixture
def output_dir(tmp_path: Path) -> Path:
    return tmp_path / "mipmaps"


class TestMakingLevels:
    def test_levels_are_the_right_pixels_in_the_right_files(self, tmp_path: Path, output_dir: Path) -> None:
        pixels = np.array(
            [[0, 4, 100, 100, 7], [8, 4, 100, 104, 7], [1, 1, 255, 255, 7], [1, 2, 255, 253, 7]], np.uint8
        )
        job = job_for(save(tmp_path / "a.tif", pixels), output_dir, width=5, height=4)
        report = make_mipmaps(job)
        assert report.fault is None
        assert [(made.level, made.width, made.height, made.mode) for made in report.made] == [
            (1, 2, 2, "L"),
            (2, 1, 1, "L"),
        ]
        with Image.open(output_dir / "1" / "a.tif.tif") as level1, Image.open(output_dir / "2" / "a.tif.tif") as level2:
            assert np.asarray(level1).tolist() == [[4, 101], [1, 255]]
            assert np.asarray(level2).tolist() == [[90]]
        assert [made.bytes for made in report.made] == [path.stat().st_size for _, path in job.outputs]
        assert not leftovers(output_dir)

    def test_tiff_levels_are_plain_and_in_one_strip_as_java_reads_them(self, level0: Path, output_dir: Path) -> None:
        make_mipmaps(job_for(level0, output_dir))
        with Image.open(output_dir / "1" / "image.tif.tif") as image:
            tags = image.tag_v2  # type: ignore[attr-defined]
            assert (tags[259], tags[262], tags.get(277, 1), tags[258]) == (1, 1, 1, (8,))
            assert (len(tags[273]), tags[278], tags[279]) == (1, HEIGHT // 2, (WIDTH // 2 * (HEIGHT // 2),))

    @pytest.mark.parametrize("extension", ["tif", "png"])
    @pytest.mark.parametrize(("convert", "depth", "mode"), [(True, np.uint8, "L"), (False, np.uint16, "I;16")])
    def test_16_bit_images_are_converted_to_8_bit_only_on_request(
        self, tmp_path: Path, output_dir: Path, convert: bool, depth: Any, mode: str, extension: str
    ) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 25700, np.uint16))
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=convert, extension=extension))
        assert [made.mode for made in report.made] == [mode, mode]
        pixels = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, mode)
        assert pixels.dtype == depth
        assert (pixels == (100 if convert else 25700)).all()

    @pytest.mark.parametrize("convert", [True, False])
    def test_8_bit_images_stay_as_they_are(self, tmp_path: Path, output_dir: Path, convert: bool) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 200, np.uint8))
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=convert, intensity_range=(1000, 2000)))
        assert (verify_level(report.made[1].path, WIDTH // 4, HEIGHT // 4, "L") == 200).all()

    def test_the_stated_range_is_what_16_bit_values_are_scaled_from(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 1200, np.uint16))
        report = make_mipmaps(job_for(file, output_dir, intensity_range=(1000, 1510)))
        assert (verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L") == 100).all()

    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
    def test_tiffs_of_either_byte_order_and_size_are_read(
        self, tmp_path: Path, output_dir: Path, depth: Any, order: str, big: bool
    ) -> None:
        pixels = texture(depth)
        content = pixels.astype(np.dtype(depth).newbyteorder(order)).tobytes()
        bits = np.iinfo(depth).bits
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(content, *grey_tags(WIDTH, HEIGHT, bits), order=order, big=big))
        assert inspect_image(file).bits == bits
        report = make_mipmaps(job_for(file, output_dir, convert_to_8bit=False))
        assert report.fault is None
        found = verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L" if bits == 8 else "I;16")
        exact = pixels[:12, :20].reshape(6, 2, 10, 2).mean(axis=(1, 3))
        assert np.abs(found - exact).max() < 1

    @pytest.mark.parametrize(
        "options", [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"tiffinfo": {278: 2}}]
    )
    def test_compressed_tiffs_and_those_of_many_strips_are_read(
        self, level0: Path, output_dir: Path, options: dict[str, Any]
    ) -> None:
        make_mipmaps(job_for(level0, output_dir / "plain"))
        other = save(level0.parent / "other.tif", texture(), **options)
        assert make_mipmaps(job_for(other, output_dir / "other")).fault is None
        plain, packed = (output_dir / "plain/1/image.tif.tif"), (output_dir / "other/1/other.tif.tif")
        with Image.open(plain) as one, Image.open(packed) as two:
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.dat"])
    def test_the_content_decides_on_the_format_of_level_0_and_not_the_name(
        self, tmp_path: Path, output_dir: Path, name: str
    ) -> None:
        file = save(tmp_path / name, texture(), format="PNG")
        assert inspect_image(file).format == "png"
        assert make_mipmaps(job_for(file, output_dir)).fault is None

    def test_jpeg_levels_hold_8_bits(self, level0: Path, output_dir: Path) -> None:
        report = make_mipmaps(job_for(level0, output_dir, extension="jpg"))
        assert [made.mode for made in report.made] == ["L", "L"]
        assert inspect_image(report.made[0].path).format == "jpg"

    def test_the_first_page_of_a_tiff_is_used_with_a_note(self, tmp_path: Path, output_dir: Path) -> None:
        first, second = (Image.fromarray(np.full((HEIGHT, WIDTH), grey, np.uint8)) for grey in (10, 200))
        file = save(tmp_path / "a.tif", first, save_all=True, append_images=[second])
        report = make_mipmaps(job_for(file, output_dir))
        assert (verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L") == 10).all()
        assert len(report.notes) == 1
        assert "first" in report.notes[0]

    @pytest.mark.parametrize(
        ("depth", "brightest", "words"),
        [(np.uint16, 255, "16 bits"), (np.uint8, 65535, "8 bits"), (np.uint8, 255, None), (np.uint16, 4095, None)],
    )
    def test_an_intensity_range_that_does_not_suit_the_bits_of_the_image_is_noted(
        self, tmp_path: Path, output_dir: Path, depth: Any, brightest: int, words: str | None
    ) -> None:
        tile = Level0("t", save(tmp_path / "a.tif", texture(depth)), None, WIDTH, HEIGHT, brightest)
        report = make_mipmaps(tile_job(tile, MipmapPlan(output_dir, levels=1)))
        assert report.fault is None
        assert len(report.notes) == (words is not None)
        assert words is None or f"has {words}, but the maximum intensity" in report.notes[0]

    def test_a_job_done_again_replaces_its_files(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir)
        make_mipmaps(job)
        save(level0, np.full((HEIGHT, WIDTH), 77, np.uint8))
        assert make_mipmaps(job).fault is None
        assert (verify_level(job.outputs[1][1], WIDTH // 4, HEIGHT // 4, "L") == 77).all()

    def test_names_with_blanks_umlauts_and_of_great_length_are_fine(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / ("ü #?%41 " + "x" * 230 + ".tif"), texture())
        assert make_mipmaps(job_for(file, output_dir)).fault is None
        assert not leftovers(output_dir)

    def test_a_real_tile_with_odd_sizes_gets_levels_of_the_sizes_that_render_expects(self, output_dir: Path) -> None:
        file = DATA / "fafb_tile_col0066_row0102_cam3.png"
        if not file.exists():
            pytest.skip(f"{file} is not there")
        report = make_mipmaps(job_for(file, output_dir, levels=6, width=2760, height=2330))
        assert [(made.width, made.height) for made in report.made] == [
            *((1380, 1165), (690, 582), (345, 291), (172, 145), (86, 72), (43, 36)),
        ]


class TestMasks:
    @pytest.mark.parametrize("mode", ["L", "1"])
    @pytest.mark.parametrize("extension", ["png", "tif"])
    def test_a_mask_keeps_its_two_values_and_gets_the_sizes_of_its_image(
        self, tmp_path: Path, output_dir: Path, mode: str, extension: str
    ) -> None:
        pixels = np.full((HEIGHT, WIDTH), 255, np.uint8)
        pixels[4, 4] = 0
        file = save(tmp_path / f"mask.{extension}", Image.fromarray(pixels).convert(mode))
        report = make_mipmaps(job_for(file, output_dir, reduction=MASK, is_mask=True))
        assert report.fault is None
        expected = np.full((6, 10), 255, np.uint8)
        expected[2, 2] = 0
        np.testing.assert_array_equal(verify_level(report.made[0].path, 10, 6, "L"), expected)

    def test_the_real_mask_stays_binary(self, output_dir: Path) -> None:
        file = DATA / "fafb_mask_cam_3.png"
        if not file.exists():
            pytest.skip(f"{file} is not there")
        report = make_mipmaps(
            job_for(file, output_dir, levels=6, width=2760, height=2330, reduction=MASK, is_mask=True)
        )
        assert report.fault is None
        for made in report.made:
            pixels = verify_level(made.path, 2760 >> made.level, 2330 >> made.level, "L")
            assert set(np.unique(pixels)) == {0, 255}

    def test_a_mask_of_16_bits_is_refused(self, tmp_path: Path, output_dir: Path) -> None:
        fault = fault_of(
            job_for(save(tmp_path / "m.tif", texture(np.uint16)), output_dir, reduction=MASK, is_mask=True)
        )
        assert isinstance(fault, ImageFault)
        assert "mask with 16 bits" in str(fault)

    def test_a_mask_is_not_written_in_a_lossy_format(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0, output_dir, reduction=MASK, is_mask=True, extension="jpg"))
        assert isinstance(fault, SettingsFault)


def age(path: Path, seconds: float) -> None:
    """Sets a file's time of change back."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def identities(job: MipmapJob) -> list[tuple[int, int]]:
    """Inode numbers and ages of the levels: a level made anew is another file."""
    return [(path.stat().st_ino, path.stat().st_mtime_ns) for _, path in job.outputs]


class TestLevelsThatAreThere:
    @pytest.fixture
    def job(self, level0: Path, output_dir: Path) -> MipmapJob:
        """A job that was done, and is to be done where it must; its image is older than its levels."""
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
        "spoil",
        [
            pytest.param(Path.unlink, id="gone"),
            pytest.param(lambda path: path.write_bytes(b""), id="empty"),
            pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-4]), id="cut short"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 4)), id="of another size"),
            pytest.param(lambda path: save(path, texture(np.uint16, 5, 3)), id="of another depth"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 3), format="PNG"), id="of another format"),
            pytest.param(lambda path: save(path, texture(np.uint8, 5, 3)), id="without a word on how it was made"),
        ],
    )
    def test_a_level_that_is_not_valid_is_made_and_no_other_one(
        self, job: MipmapJob, spoil: Callable[[Path], object]
    ) -> None:
        sound = job.outputs[1][1].read_bytes()
        spoil(job.outputs[1][1])
        report = make_mipmaps(job)
        assert report.fault is None
        assert [made.level for made in report.made] == [2]
        assert [kept.level for kept in report.kept] == [1, 3]
        assert job.outputs[1][1].read_bytes() == sound

    @pytest.mark.parametrize("seconds", [-600, 600, 10**9])
    def test_times_of_levels_are_ignored(self, job: MipmapJob, seconds: float) -> None:
        age(job.level0, -seconds)
        report = make_mipmaps(job)
        assert (report.fault, report.made) == (None, ())

    @pytest.mark.parametrize("seconds", [-3600, 0, 3600])
    def test_a_new_image_has_all_its_levels_made_whatever_its_time(self, job: MipmapJob, seconds: float) -> None:
        times = job.level0.stat()
        save(job.level0, np.full((HEIGHT, WIDTH), 77, np.uint8))
        moment = times.st_mtime_ns + int(seconds * 10**9)
        os.utime(job.level0, ns=(moment, moment))
        assert len(make_mipmaps(job).made) == 3
        assert (verify_level(job.outputs[0][1], WIDTH // 2, HEIGHT // 2, "L") == 77).all()

    def test_an_image_that_became_bad_is_a_fault_though_its_levels_are_there(self, job: MipmapJob) -> None:
        job.level0.write_bytes(b"")
        report = make_mipmaps(job)
        assert report.fault is not None
        assert report.kept == ()

    def test_changing_what_is_wanted_makes_the_levels_again(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint16))
        age(file, 60)
        job = job_for(file, output_dir, force=False)
        make_mipmaps(job)
        report = make_mipmaps(replace(job, convert_to_8bit=False))
        assert [made.mode for made in report.made] == ["I;16", "I;16"]
        assert [kept.mode for kept in make_mipmaps(replace(job, convert_to_8bit=False)).kept] == ["I;16", "I;16"]

    def test_levels_of_a_mask_of_one_bit_are_kept_too(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "m.png", Image.fromarray(texture()).convert("1"))
        age(file, 60)
        job = job_for(file, output_dir, reduction=MASK, is_mask=True, force=False)
        assert len(make_mipmaps(job).made) == 2
        assert len(make_mipmaps(job).kept) == 2


class TestFormats:
    @pytest.mark.parametrize("depth", [np.uint8, np.uint16])
    @pytest.mark.parametrize(
        ("encoding", "tag"),
        [
            (Encoding("tif", compression="none"), 1),
            (Encoding("tif", compression="lzw"), 5),
            (Encoding("tiff", compression="deflate"), 8),
            (Encoding("tiff", compression="zip"), 8),
            (Encoding("tiff", compression="packbits"), 32773),
        ],
    )
    def test_a_compressed_tiff_is_compressed_and_has_the_same_pixels(
        self, tmp_path: Path, output_dir: Path, depth: Any, encoding: Encoding, tag: int
    ) -> None:
        file = save(tmp_path / "a.tif", texture(depth, 200, 100))
        job = job_for(file, output_dir, encoding=encoding, convert_to_8bit=False, width=200, height=100)
        assert make_mipmaps(job).fault is None
        with Image.open(job.outputs[0][1]) as found:
            assert found.tag_v2[259] == tag  # type: ignore[attr-defined]
            packed = np.asarray(found)
        plain = make_mipmaps(replace(job, encoding=Encoding("tif"))).made[0]
        np.testing.assert_array_equal(packed, verify_level(plain.path, 100, 50, plain.mode))

    @pytest.mark.parametrize("quality", [40, 95])
    def test_a_lower_quality_makes_a_smaller_jpeg(self, level0: Path, output_dir: Path, quality: int) -> None:
        job = job_for(level0, output_dir, encoding=Encoding("jpeg", quality=quality))
        best = replace(job, encoding=Encoding("jpg", quality=100))
        assert make_mipmaps(job).made[0].bytes < make_mipmaps(best).made[0].bytes

    def test_png_can_be_packed_tighter_or_not_at_all(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 7, np.uint8))
        sizes = [
            make_mipmaps(job_for(file, output_dir, encoding=Encoding("png", compression=level))).made[0].bytes
            for level in (0, 9)
        ]
        assert sizes[0] > sizes[1]

    @pytest.mark.parametrize(
        ("options", "key"),
        [
            ({"format": "bmp"}, "mipmaps.format"),
            ({"format": "webp"}, "mipmaps.format"),
            ({"format": "tif", "quality": 90}, "mipmaps.quality"),
            ({"format": "jpg", "quality": 0}, "mipmaps.quality"),
            ({"format": "jpg", "quality": 101}, "mipmaps.quality"),
            ({"format": "jpg", "compression": "lzw"}, "mipmaps.compression"),
            ({"format": "tif", "compression": "zstd"}, "mipmaps.compression"),
            ({"format": "tif", "compression": 6}, "mipmaps.compression"),
            ({"format": "png", "compression": 10}, "mipmaps.compression"),
            ({"format": "png", "compression": "lzw"}, "mipmaps.compression"),
        ],
    )
    def test_an_invalid_format_or_option_is_refused_before_there_is_a_job(
        self, options: dict[str, Any], key: str
    ) -> None:
        with pytest.raises(SettingsFault) as refusal:
            Encoding(**options)
        assert refusal.value.subject == key

    @pytest.mark.parametrize(
        ("name", "extension"), [("TIFF", "tif"), ("tif", "tif"), ("JPEG", "jpg"), ("jpg", "jpg"), ("PNG", "png")]
    )
    def test_every_name_of_a_format_has_one_extension(self, name: str, extension: str) -> None:
        assert Encoding(name).extension == extension


class TestWhatThePlanPromises:
    """Writer and stack take paths from one plan."""

    @pytest.mark.parametrize("name", ["tiff", "TIF", "jpeg", "png"])
    def test_the_stack_names_the_very_files_that_are_written(self, level0: Path, output_dir: Path, name: str) -> None:
        mask = save(level0.parent / "mask #1.png", np.full((HEIGHT, WIDTH), 255, np.uint8))
        tile = Level0("t", level0, mask, WIDTH, HEIGHT)
        plan = MipmapPlan(output_dir, levels=2, encoding=Encoding(name))
        for job in (tile_job(tile, plan), mask_job(tile, plan)):
            assert make_mipmaps(job).fault is None
        for level, (image_uri, mask_uri) in level_uris(tile, plan).items():
            assert mask_uri is not None
            sizes = {
                (found.width, found.height) for found in map(inspect_image, map(uri_to_path, (image_uri, mask_uri)))
            }
            assert sizes == {(WIDTH >> level, HEIGHT >> level)}
        assert absent_levels([tile], plan) == []

    def test_masks_beside_jpeg_are_png_and_stay_binary(self, level0: Path, output_dir: Path) -> None:
        mask = save(level0.parent / "mask.png", np.where(texture() < 200, 255, 0).astype(np.uint8))
        job = mask_job(Level0("t", level0, mask, WIDTH, HEIGHT), MipmapPlan(output_dir, 2, encoding=Encoding("jpg")))
        report = make_mipmaps(job)
        assert report.made[0].path.name == "mask.png.png"
        assert set(np.unique(verify_level(report.made[0].path, WIDTH // 2, HEIGHT // 2, "L"))) == {0, 255}

    def test_files_with_a_hash_in_their_names_do_not_share_a_level(self, level0: Path, output_dir: Path) -> None:
        plan = MipmapPlan(output_dir, levels=1)
        names = [save(level0.parent / name, texture()) for name in ("a#1.tif", "a#2.tif", "a%231.tif", "a?1.tif")]
        paths = [make_mipmaps(tile_job(Level0("t", name, None, WIDTH, HEIGHT), plan)).made[0].path for name in names]
        assert len(set(paths)) == 4


def test_level_0_is_decoded_once_however_many_levels_are_made(
    level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Path] = []
    decoder = decode._decode

    def counted(file: Any, info: Any) -> Any:
        decoded.append(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        return decoder(file, info)

    monkeypatch.setattr(decode, "_decode", counted)
    assert len(make_mipmaps(job_for(level0, output_dir, levels=3)).made) == 3
    assert len([path for path in decoded if path == level0]) == 1


def test_one_bad_image_is_a_report_beside_the_good_ones(level0: Path, output_dir: Path) -> None:
    bad = level0.parent / "bad.tif"
    bad.write_bytes(b"II*\0")
    files = [level0, bad, save(level0.parent / "c.tif", texture())]
    reports = [make_mipmaps(job_for(file, output_dir, tile_id=file.name)) for file in files]
    assert [(report.tile_id, report.fault is None) for report in reports] == [
        *(("image.tif", True), ("bad.tif", False), ("c.tif", True)),
    ]


@pytest.mark.parametrize(
    "reduction", [Reduction(method, name) for method in ("block_reduce", "PIL") for name in METHODS[method]], ids=str
)
@pytest.mark.parametrize("mode", ["RGB", "LA", "P"])
def test_colours_are_refused_by_every_method(tmp_path: Path, output_dir: Path, reduction: Reduction, mode: str) -> None:
    file = save(tmp_path / "a.png", Image.new(mode, (WIDTH, HEIGHT)))
    fault = fault_of(job_for(file, output_dir, reduction=reduction))
    assert isinstance(fault, ImageFault)
    assert "not grey values" in str(fault)


@pytest.mark.parametrize(
    "reduction", [Reduction(method, name) for method in ("block_reduce", "PIL") for name in METHODS[method]], ids=str
)
def test_8_bit_images_are_not_darkened_by_conversion_with_any_method(
    tmp_path: Path, output_dir: Path, reduction: Reduction
) -> None:
    file = save(tmp_path / "a.tif", np.full((HEIGHT, WIDTH), 200, np.uint8))
    report = make_mipmaps(job_for(file, output_dir, reduction=reduction, convert_to_8bit=True))
    assert (verify_level(report.made[1].path, WIDTH // 4, HEIGHT // 4, "L") == 200).all()


@pytest.mark.parametrize("order", [(3, 1), (2, 3, 1), (1, 3)])
def test_levels_asked_for_in_any_order_are_the_levels_made(
    level0: Path, output_dir: Path, order: tuple[int, ...]
) -> None:
    outputs = tuple((level, output_dir / f"{level}.tif") for level in order)
    report = make_mipmaps(job_for(level0, output_dir, outputs=outputs))
    assert {(made.level, made.width) for made in report.made} == {(level, WIDTH >> level) for level in order}
    assert all(inspect_image(path).width == WIDTH >> level for level, path in outputs)


class TestRefusedImages:
    @pytest.mark.parametrize(
        ("mode", "words"),
        [
            ("RGB", "colours"),
            ("RGBA", "colours"),
            ("LA", "colours"),
            ("CMYK", "colours"),
            ("P", "palette"),
            ("F", "floating point"),
            ("I", "signed integers"),
            ("1", "one bit"),
        ],
    )
    def test_images_that_are_not_grey_with_8_or_16_bits_are_refused_with_a_reason(
        self, tmp_path: Path, output_dir: Path, mode: str, words: str
    ) -> None:
        fault = fault_of(job_for(save(tmp_path / "a.tif", Image.new(mode, (WIDTH, HEIGHT))), output_dir))
        assert isinstance(fault, ImageFault)
        assert words in str(fault)
        assert fault.subject.endswith("a.tif")
        assert fault.waiting_helps is Waiting.NEVER

    @pytest.mark.parametrize(("mode", "words"), [("RGB", "colours"), ("P", "palette"), ("1", "one bit")])
    def test_a_png_is_refused_as_a_tiff_is(self, tmp_path: Path, output_dir: Path, mode: str, words: str) -> None:
        assert words in str(fault_of(job_for(save(tmp_path / "a.png", Image.new(mode, (WIDTH, HEIGHT))), output_dir)))

    @pytest.mark.parametrize(
        ("tags", "words"),
        [
            (grey_tags(WIDTH, HEIGHT, photometric=0), "WhiteIsZero"),
            ([*grey_tags(WIDTH, HEIGHT), (339, 3, 2)], "signed integers"),
            ([*grey_tags(WIDTH, HEIGHT), (274, 3, 3)], "rotated"),
            (grey_tags(WIDTH, HEIGHT, bits=12), "12 bits"),
            (grey_tags(0, HEIGHT), "invalid size"),
            (grey_tags(70000, HEIGHT), "invalid size"),
            (grey_tags(WIDTH, HEIGHT + 1), "bytes of pixels"),
            ([*grey_tags(WIDTH, HEIGHT), (273, 4, 0)], "not written to its end"),
            ([*grey_tags(WIDTH, HEIGHT), (279, 4, 1 << 30)], "cut short"),
        ],
    )
    def test_a_header_that_means_something_else_is_refused(
        self, tmp_path: Path, tags: list[tuple[int, int, int]], words: str
    ) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(texture().tobytes(), *tags))
        with pytest.raises(ImageFault, match=words):
            inspect_image(file)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"", "is empty"),
            (b"\0" * 5000, "no image"),
            (b"{}", "no image"),
            (b"%PDF-1.4 and so on", "no image"),
            (b"II*\0", "cut short"),
            (b"II*\0\x08\0\0\0", "cut short"),
            (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "0 entries"),
            (b"MM\0*\xff\xff\xff\xff", "cut short"),
            (b"\x89PNG\r\n\x1a\n", "cut short"),
            (b"\xff\xd8\xff\xe0 and no more", "cut short"),
        ],
    )
    def test_a_file_that_is_not_an_image_is_refused(
        self, tmp_path: Path, output_dir: Path, content: bytes, words: str
    ) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(content)
        fault = fault_of(job_for(file, output_dir))
        assert isinstance(fault, ImageFault)
        assert words in str(fault)

    @pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG"])
    def test_a_truncated_file_is_refused_without_decoding(self, tmp_path: Path, form: str) -> None:
        file = save(tmp_path / "a", texture(), format=form)
        whole = file.read_bytes()
        inspect_image(file)
        for length in range(len(whole)):
            file.write_bytes(whole[:length])
            with pytest.raises(ImageFault):
                inspect_image(file)

    @pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate", "tiff_lzw"])
    def test_a_tiff_with_its_directory_at_the_end_and_its_pixels_cut_out_is_cut_short(
        self, tmp_path: Path, output_dir: Path, compression: str | None
    ) -> None:
        file = save(tmp_path / "a.tif", texture(), compression=compression)
        os.truncate(file, file.stat().st_size - 1)
        assert "cut short" in str(fault_of(job_for(file, output_dir)))

    def test_a_png_whose_pixels_are_damaged_is_refused(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.png", texture())
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 0xFF
        file.write_bytes(content)
        assert isinstance(fault_of(job_for(file, output_dir)), ImageFault)

    def test_an_unexpected_size_is_refused(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0, output_dir, width=WIDTH + 1))
        assert "should have 22x13 pixels, has 21x13" in str(fault)
        assert isinstance(fault, ImageFault)

    def test_a_bomb_is_refused_by_its_header(self, tmp_path: Path, output_dir: Path) -> None:
        header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
        packed = zlib.compress(bytes(1000))
        chunks = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
        content = b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
        file = tmp_path / "a.png"
        file.write_bytes(content)
        started = time.perf_counter()
        assert "60000x60000" in str(fault_of(job_for(file, output_dir)))
        assert time.perf_counter() - started < 1

    @pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
    def test_a_camera_larger_than_pillow_s_limit_neither_warns_nor_fails(
        self, tmp_path: Path, output_dir: Path, compression: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        width, height = 16, 3 * ROWS_AT_ONCE
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * ROWS_AT_ONCE)  # Pillow refuses twice as many
        file = save(tmp_path / "a.tif", texture(np.uint8, width, height), compression=compression)
        assert make_mipmaps(job_for(file, output_dir, width=width, height=height)).fault is None

    def test_a_strip_of_65536_pixels_is_read(self, tmp_path: Path, output_dir: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 65536, 4))
        report = make_mipmaps(job_for(file, output_dir, width=65536, height=4))
        assert [(made.width, made.height) for made in report.made] == [(32768, 2), (16384, 1)]

    def test_16_bits_do_not_go_into_jpeg_and_nothing_is_decoded_to_find_out(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(decode, "_decode", None)
        file = save(tmp_path / "a.tif", texture(np.uint16))
        fault = fault_of(job_for(file, output_dir, extension="jpg", convert_to_8bit=False))
        assert isinstance(fault, SettingsFault)
        assert "16 bits" in str(fault)

    @pytest.mark.parametrize(
        ("changes", "key"),
        [
            ({"reduction": Reduction("render")}, "mipmaps.method"),
            ({"outputs": ((0, Path("/none/x")),)}, "mipmaps.levels"),
            ({"outputs": ((1, Path("/none/x")), (1, Path("/none/y")))}, "mipmaps.levels"),
            ({"intensity_range": (300, 200)}, "mipmaps.range_16bit"),
        ],
    )
    def test_an_invalid_job_is_refused(self, level0: Path, output_dir: Path, changes: dict[str, Any], key: str) -> None:
        fault = fault_of(job_for(level0, output_dir, **changes))
        assert isinstance(fault, SettingsFault)
        assert fault.subject == key

    def test_a_level_without_a_pixel_is_refused_before_any_work(self, level0: Path, output_dir: Path) -> None:
        assert "level 4 is empty" in str(fault_of(job_for(level0, output_dir, levels=4)))

    def test_a_level_never_replaces_its_own_image(self, level0: Path) -> None:
        report = make_mipmaps(MipmapJob("t", level0, ((1, level0),), WIDTH, HEIGHT))
        assert report.fault is not None
        assert inspect_image(level0).width == WIDTH


class TestWhereImagesLie:
    def test_a_link_inside_the_watched_directory_is_followed(self, level0: Path, output_dir: Path) -> None:
        link = level0.parent / "link.tif"
        link.symlink_to(level0)
        assert make_mipmaps(job_for(link, output_dir)).fault is None

    def test_a_link_that_leads_out_of_it_is_refused(self, level0: Path, tmp_path: Path, output_dir: Path) -> None:
        outside = save(tmp_path / "secret.tif", texture())
        (level0.parent / "link.tif").symlink_to(outside)
        (level0.parent / "up").symlink_to(tmp_path)
        for path in (level0.parent / "link.tif", level0.parent / "up" / "secret.tif"):
            fault = fault_of(job_for(path, output_dir, root=Container.of(level0.parent)))
            assert isinstance(fault, ImageFault)
            assert "lies outside" in str(fault)

    def test_a_directory_whose_name_begins_alike_is_outside(self, level0: Path, tmp_path: Path) -> None:
        sibling = tmp_path / "acquisition2"
        sibling.mkdir()
        with pytest.raises(ImageFault, match="lies outside"):
            inspect_image(save(sibling / "a.tif", texture()), level0.parent)

    def test_a_watched_directory_that_is_itself_a_link_holds_its_images(self, level0: Path, tmp_path: Path) -> None:
        root = tmp_path / "mounted"
        root.symlink_to(level0.parent)
        assert inspect_image(root / level0.name, root.resolve()).bits == 8

    def test_a_directory_exchanged_for_a_link_gives_no_levels(
        self, level0: Path, tmp_path: Path, output_dir: Path
    ) -> None:
        watched = tmp_path / "watched"
        image = watched / "section" / "a.tif"
        image.parent.mkdir(parents=True)
        shutil.copy(level0, image)
        shutil.copy(level0, level0.with_name("a.tif"))
        job = job_for(image, output_dir, root=Container.of(watched))
        assert make_mipmaps(job).fault is None
        shutil.rmtree(image.parent)
        image.parent.symlink_to(level0.parent)
        report = make_mipmaps(job)
        assert not report.made
        fault = report.fault.to_fault()
        assert isinstance(fault, ImageFault)
        assert "lies outside" in str(fault)

    @pytest.mark.parametrize("encoding", [PLAIN_TIFF, Encoding("png")])
    @pytest.mark.parametrize("part", ["1", "1/data", ""])
    def test_a_link_in_the_output_directory_is_not_followed(
        self, level0: Path, tmp_path: Path, part: str, encoding: Encoding
    ) -> None:
        output_dir, outside = tmp_path / "mipmaps", tmp_path / "outside"
        plan = MipmapPlan(output_dir, levels=1, encoding=encoding).contained(Containers())
        job = tile_job(Level0("t", level0, None, WIDTH, HEIGHT), plan)
        (path,) = (path for _, path in job.outputs)
        exchanged = output_dir / (part if part != "1/data" else f"1/{level0.parts[1]}")
        target = outside / path.relative_to(exchanged)
        target.parent.mkdir(parents=True)
        target.write_bytes(b"of another user")
        if exchanged == output_dir:
            output_dir.rmdir()
        exchanged.parent.mkdir(parents=True, exist_ok=True)
        exchanged.symlink_to(outside)
        report = make_mipmaps(job)
        assert not report.made
        fault = report.fault.to_fault()
        assert isinstance(fault, StorageFault)
        assert "links below the configured directory are not followed" in str(fault)
        assert target.read_bytes() == b"of another user"
        assert [file.name for file in target.parent.iterdir()] == [target.name]

    def test_a_link_in_place_of_a_level_is_replaced_and_not_followed(self, level0: Path, tmp_path: Path) -> None:
        plan = MipmapPlan(tmp_path / "mipmaps", levels=1).contained(Containers())
        job = tile_job(Level0("t", level0, None, WIDTH, HEIGHT), plan)
        (path,) = (path for _, path in job.outputs)
        (tmp_path / "other.tif").write_bytes(b"of another user")
        path.parent.mkdir(parents=True)
        path.symlink_to(tmp_path / "other.tif")
        assert make_mipmaps(job).fault is None
        assert not path.is_symlink()
        assert (tmp_path / "other.tif").read_bytes() == b"of another user"

    def test_a_pipe_a_socket_a_directory_and_a_circle_of_links_are_refused_at_once(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "directory").mkdir()
        (tmp_path / "circle").symlink_to(tmp_path / "circle")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "socket"))
        for name in ("pipe", "directory", "circle", "socket"):
            with pytest.raises(ImageFault, match="not a regular file"):
                inspect_image(tmp_path / name)

    def test_no_file_stays_open_after_a_refusal(self, tmp_path: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(ImageFault):
                inspect_image(tmp_path)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_an_image_that_is_gone_from_among_others_is_missing(self, level0: Path, output_dir: Path) -> None:
        fault = fault_of(job_for(level0.parent / "gone.tif", output_dir))
        assert isinstance(fault, ImagesMissing)
        with pytest.raises(FileNotFoundError):
            inspect_image(level0.parent / "gone.tif")

    @pytest.mark.parametrize("there", [True, False])
    def test_a_directory_that_is_gone_or_suddenly_empty_is_a_mount_to_wait_for(
        self, tmp_path: Path, output_dir: Path, there: bool
    ) -> None:
        directory = tmp_path / "mount"
        if there:
            directory.mkdir()
        fault = fault_of(job_for(directory / "a.tif", output_dir))
        assert isinstance(fault, StorageFault)
        assert fault.waiting_helps is Waiting.ALWAYS


def fill(file: Any) -> None:
    """Writes until the disk is full, and raises the OSError that ends it."""
    while True:
        file.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 256 KiB, and few file names."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,nr_inodes=64", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class TestDisksThatFail:
    def test_a_full_disk_is_a_storage_fault_and_leaves_no_trace(self, tmp_path: Path, small_disk: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 1200, 1200))
        fault = fault_of(job_for(file, small_disk, width=1200, height=1200))
        assert isinstance(fault, StorageFault)
        assert "No space left" in str(fault)
        assert shutil.disk_usage(small_disk).used < 16384

    def test_a_disk_that_fills_halfway_keeps_the_levels_that_were_whole(self, tmp_path: Path, small_disk: Path) -> None:
        file = save(tmp_path / "a.tif", texture(np.uint8, 800, 800))
        job = job_for(file, small_disk, levels=2, width=800, height=800)
        (small_disk / "filler").write_bytes(bytes(72 * 1024))  # level 1 of 160 kB fits, level 2 of 40 kB does not
        report = make_mipmaps(job)
        assert report.fault is not None
        assert isinstance(report.fault.to_fault(), StorageFault)
        assert [made.level for made in report.made] == [1]
        assert verify_level(report.made[0].path, 400, 400, "L").shape == (400, 400)
        assert not job.outputs[1][1].exists()
        assert not leftovers(small_disk)

    def test_a_disk_that_was_full_works_again_as_soon_as_there_is_room(self, tmp_path: Path, small_disk: Path) -> None:
        file = save(tmp_path / "a.tif", texture())
        job = job_for(file, small_disk)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as out, pytest.raises(OSError, match="No space left"):
            fill(out)
        assert isinstance(fault_of(job), StorageFault)
        filler.unlink()
        assert make_mipmaps(job).fault is None

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE])
    @pytest.mark.parametrize("call", ["fsync", "replace", "mkdir", "scandir"])
    def test_any_call_that_fails_is_a_storage_fault_that_names_the_level(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(Path if call == "mkdir" else os, call, fail)
            report = make_mipmaps(job_for(level0, output_dir))
        assert [path for path in output_dir.rglob("*") if path.is_file()] == []
        assert report.fault is not None
        fault = report.fault.to_fault()
        assert isinstance(fault, StorageFault)
        assert "level 1" in fault.problem
        assert os.strerror(number) in fault.problem
        assert fault.subject.endswith("1/image.tif.tif")

    def test_levels_whose_directory_cannot_be_synced_do_not_count_as_made(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sync = os.fsync

        def fail(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", fail)
        report = make_mipmaps(job_for(level0, output_dir))
        assert report.fault is not None
        assert report.fault.kind == "StorageFault"
        assert str(output_dir) in report.fault.subject
        assert not report.made

    def test_the_directory_of_every_level_in_place_is_synced_once_even_if_a_later_level_fails(
        self, tmp_path: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[Path] = []
        sync = os.fsync

        def watched(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        monkeypatch.setattr(os, "fsync", watched)
        job = job_for(save(tmp_path / "a.tif", texture()), output_dir, levels=3)
        job.outputs[2][1].mkdir(parents=True)  # what level 3 cannot replace
        report = make_mipmaps(job)
        assert [made.level for made in report.made] == [1, 2]
        assert sorted(synced) == sorted({made.path.parent for made in report.made})

    def test_a_disk_that_returns_other_pixels_is_a_fault_and_leaves_no_level(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = atomic_write._write_durably
        monkeypatch.setattr(
            atomic_write, "_write_durably", lambda path, content: write(path, content[:-1] + bytes([content[-1] ^ 1]))
        )
        fault = fault_of(job_for(level0, output_dir))
        assert isinstance(fault, StorageFault)
        assert "reads back differently" in str(fault)

    def test_a_write_that_is_silently_truncated_is_a_fault(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = atomic_write._write_durably
        monkeypatch.setattr(atomic_write, "_write_durably", lambda path, content: write(path, content[:-5]))
        assert "reads back differently" in str(fault_of(job_for(level0, output_dir)))

    def test_a_name_that_is_too_long_fails_at_once(self, tmp_path: Path, output_dir: Path) -> None:
        report = make_mipmaps(job_for(save(tmp_path / ("x" * 252), texture(), format="TIFF"), output_dir))
        assert report.fault is not None
        assert report.fault.kind == "SettingsFault"
        assert not leftovers(output_dir)

    @pytest.mark.parametrize(("function", "where"), [("mean", "reduced_to_mean"), ("max", "reduce_levels")])
    def test_memory_that_runs_out_is_reported(
        self, level0: Path, output_dir: Path, monkeypatch: pytest.MonkeyPatch, function: str, where: str
    ) -> None:
        def fail(*arguments: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(make, where, fail)
        job = job_for(level0, output_dir, reduction=Reduction("block_reduce", function))
        assert isinstance(fault_of(job), WorkerFault)


class TestLeftovers:
    @pytest.fixture(autouse=True)
    def _process_that_has_swept_nothing(self) -> None:
        atomic_write._sweep.cache_clear()

    def dead_pid(self) -> int:
        process = subprocess.Popen(["true"])
        process.wait()
        return process.pid

    def test_temporary_files_of_dead_workers_are_removed_by_the_next_job(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / f".other.tif.tif.{atomic_write._machine()}-{self.dead_pid()}-123-0.tmp"
        old.write_bytes(b"half a lev")
        assert make_mipmaps(job).fault is None
        assert [path.name for path in directory.iterdir()] == ["image.tif.tif"]

    def test_so_are_those_of_a_worker_that_ended_and_was_not_asked_how(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        with subprocess.Popen(["sleep", "60"]) as worker:
            old = directory / f".other.tif.tif.{atomic_write._maker(worker.pid)}-0.tmp"
            old.write_bytes(b"half a lev")
            worker.kill()
            stat_file = Path(f"/proc/{worker.pid}/stat")
            while stat_file.read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.01)
            assert make_mipmaps(job).fault is None
        assert not old.exists()

    def test_those_of_writers_at_work_and_files_of_others_stay(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        names = {
            f".a.tif.tif.{atomic_write._maker(os.getppid())}-0.tmp",  # a process at work
            ".b.tif.tif.00000000-1-1-0.tmp",  # of another machine
            ".hidden",
            "note.tmp",
        }
        for name in names:
            (directory / name).write_bytes(b"")
        os.utime(directory / "note.tmp", (0, 0))
        make_mipmaps(job)
        assert {path.name for path in directory.iterdir()} == names | {"image.tif.tif"}

    def test_those_of_another_machine_go_after_an_hour(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / ".b.tif.tif.00000000-1-1-0.tmp"
        old.write_bytes(b"")
        os.utime(old, (time.time() - 4000, time.time() - 4000))
        make_mipmaps(job)
        assert not old.exists()

    def test_a_process_id_given_out_again_does_not_protect_them(self, level0: Path, output_dir: Path) -> None:
        job = job_for(level0, output_dir, levels=1)
        directory = job.outputs[0][1].parent
        directory.mkdir(parents=True)
        old = directory / f".b.tif.tif.{atomic_write._machine()}-{os.getppid()}-1-0.tmp"
        old.write_bytes(b"")
        make_mipmaps(job)
        assert not old.exists()


class TestVerifying:
    def test_a_level_as_expected_is_returned(self, level0: Path) -> None:
        np.testing.assert_array_equal(verify_level(level0, WIDTH, HEIGHT, "L"), texture())

    @pytest.mark.parametrize(("width", "mode"), [(WIDTH - 1, "L"), (WIDTH, "I;16")])
    def test_another_size_or_mode_is_a_fault(self, level0: Path, width: int, mode: str) -> None:
        with pytest.raises(ImageFault):
            verify_level(level0, width, HEIGHT, mode)

    def test_a_missing_level_is_reported_as_missing(self, level0: Path) -> None:
        with pytest.raises(ImagesMissing):
            verify_level(level0.with_name("gone"), WIDTH, HEIGHT, "L")


def test_an_inspection_reads_little_and_reports_the_header(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tif", texture(np.uint16))
    info = inspect_image(file, tmp_path)
    assert (info.width, info.height, info.bits, info.mode) == (WIDTH, HEIGHT, 16, "I;16")
    assert (info.format, info.file_bytes, info.has_more_pages) == ("tif", file.stat().st_size, False)
    best = min(_seconds(file, tmp_path) for _ in range(20))
    assert best < 0.0005


def _seconds(file: Path, root: Path) -> float:
    started = time.perf_counter()
    inspect_image(file, root)
    return time.perf_counter() - started


@pytest.mark.parametrize("kind", [ImageFault, StorageFault, ImagesMissing, WorkerFault, SettingsFault, MetafileFault])
def test_a_fault_survives_pickling(kind: type[Fault]) -> None:
    fault = FaultReport.of(kind("s", "p", "h")).to_fault()
    assert type(fault) is kind
    assert fault.args == ("s", "p", "h")


def test_a_fault_of_an_unknown_class_is_pickled_as_its_base_class() -> None:
    class Special(ImageFault):
        pass

    assert type(FaultReport.of(Special("s", "p")).to_fault()) is ImageFault


@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120, deadline=None)
@given(data=st.data())
def test_damage_anywhere_never_raises_and_never_leaves_a_trace(tmp_path: Path, form: str, data: st.DataObject) -> None:
    pixels = texture(np.uint8 if form == "JPEG" else data.draw(st.sampled_from([np.uint8, np.uint16])))
    options = {"compression": data.draw(st.sampled_from([None, "tiff_lzw"]))} if form == "TIFF" else {}
    content = bytearray(save(tmp_path / "a", pixels, format=form, **options).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.one_of(st.integers(0, min(300, len(content) - 1)), st.integers(0, len(content) - 1)))
        content[where] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(content)
    report = make_mipmaps(job_for(tmp_path / "a", tmp_path / "mipmaps", root=Container.of(tmp_path)))
    assert report.fault is None or report.fault.kind in ("ImageFault", "ImagesMissing")
    assert not leftovers(tmp_path)
