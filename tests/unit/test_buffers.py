"""Level 0 and levels without compression are read and written without a decoder, with the same pixels as with one."""

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.errors import ImageFault
from handlers.images.decode import verify_level
from handlers.images.digest import RunningDigest
from handlers.images.encode import Encoding
from handlers.images.header import inspect_image
from handlers.images.opened import Run
from handlers.images.pixels import Grey
from handlers.mipmaps import buffers, make
from handlers.mipmaps.buffers import Kind, LevelBuffers, buffers_for
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.stores import atomic_write
from tests.reduction import reduce_levels
from tests.unit.levels.files import (
    DEPTHS,
    assert_levels,
    grey_tags,
    info_of,
    job_for_pixels,
    leftovers,
    levels_of,
    save,
    strips,
    tiff,
)
from tests.unit.noise import noise


class TestFilesOfLevels:
    @given(
        st.integers(1, 70),
        st.integers(1, 70),
        st.sampled_from(DEPTHS),
        st.text(st.characters(codec="ascii"), max_size=185),
    )
    def test_a_plain_page_is_the_file_that_pillow_writes(self, width: int, height: int, depth: Any, text: str) -> None:
        pixels = noise(depth, height, width)
        page = Encoding("tif").page(pixels, text)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "TIFF", description=text.ljust(185))
        assert bytes(page.content) == buffer.getvalue()
        assert page.pixels.ctypes.data - np.frombuffer(page.content, np.uint8).ctypes.data == 320

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_the_file_of_a_level_decodes_to_the_expected_pixels(self, tmp_path: Path, depth: Any) -> None:
        pixels = noise(depth, 257, 333)
        job = job_for_pixels(save(tmp_path / "a.tif", pixels), tmp_path / "m", pixels)
        assert_levels(job, pixels)
        for made in make_mipmaps(job).made:
            assert inspect_image(made.path).file_bytes == made.bytes

    @pytest.mark.parametrize("position", [0, 4, 60, 133, 134, 200, 319, 320, -1])
    def test_a_changed_bit_is_detected_at_any_position(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, position: int
    ) -> None:
        write = atomic_write._write

        def flipped(temporary: str, content: bytes, *others: Any) -> None:
            changed = bytearray(content)
            changed[position] ^= 1
            write(temporary, changed, *others)

        monkeypatch.setattr(atomic_write, "_write", flipped)
        pixels = noise(np.uint8, 64, 64)
        report = make_mipmaps(job_for_pixels(save(tmp_path / "a.tif", pixels), tmp_path / "m", pixels))
        assert report.fault is not None
        assert "reads back differently" in report.fault.problem
        assert [path for path in (tmp_path / "m").rglob("*") if path.is_file()] == []

    def test_extra_bytes_are_detected(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write = atomic_write._write
        monkeypatch.setattr(
            atomic_write, "_write", lambda path, content, *others: write(path, content + b"\0", *others)
        )
        pixels = noise(np.uint8, 64, 64)
        report = make_mipmaps(job_for_pixels(save(tmp_path / "a.tif", pixels), tmp_path / "m", pixels))
        assert report.fault is not None
        assert "reads back differently" in report.fault.problem
        assert not leftovers(tmp_path / "m")


class TestLevel0InPlace:
    def require_as_decoded(self, file: Path, pixels: Grey, runs: Sequence[Run] | None = None) -> None:
        """Assert that reading the file in place gives the same levels as the pixels that Pillow decodes."""
        with Image.open(file) as decoded:
            assert np.array_equal(np.asarray(decoded), pixels)
        info = info_of(file)
        assert info.runs
        if runs is not None:
            assert list(info.runs) == runs
        height, width = pixels.shape
        level_buffers = LevelBuffers(Kind(width, height, pixels.itemsize * 8, (1, 2), None))
        with file.open("rb") as content:
            digest = RunningDigest(content.fileno())
            assert level_buffers.fill_from_file(content.fileno(), info.runs, digest.take) == level_buffers.fill(pixels)
            assert digest.digest() == xxhash.xxh3_128(file.read_bytes()).digest()
            level_buffers.fill_from_file(content.fileno(), info.runs, digest.take)
        for level, expected in reduce_levels(pixels, [1, 2]):
            assert np.array_equal(level_buffers.pages[level].pixels, expected)

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_an_image_rewritten_after_its_header_was_read_is_reported_as_changing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: Any
    ) -> None:
        pixels, newer = noise(np.uint8, 48, 64), noise(depth, 48, 64, seed=4)
        file = save(tmp_path / "a.tif", pixels)
        open_level0 = make.open_level0

        def open_then_replace(job: MipmapJob) -> Any:
            level0 = open_level0(job)
            file.write_bytes(strips(newer, 7, gap=3))
            return level0

        monkeypatch.setattr(make, "open_level0", open_then_replace)
        report = make_mipmaps(job_for_pixels(file, tmp_path / "m", pixels, 1))
        assert report.fault is not None
        assert report.fault.kind == "ImageChanging"
        assert not report.made

    @pytest.mark.parametrize("depth", DEPTHS)
    @pytest.mark.parametrize("rows_each", [1, 3, 8, 150, 299])
    @pytest.mark.parametrize("gap", [0, 5])
    def test_strips_of_any_height_with_or_without_gaps(
        self, tmp_path: Path, depth: Any, rows_each: int, gap: int
    ) -> None:
        pixels = noise(depth, 300, 1001)
        file = tmp_path / "a.tif"
        file.write_bytes(strips(pixels, rows_each, gap))
        self.require_as_decoded(file, pixels)
        assert len(info_of(file).runs) == (1 if gap == 0 else -(-300 // rows_each))

    def test_one_strip_is_one_run(self, tmp_path: Path) -> None:
        pixels = noise(np.uint8, 30, 40)
        self.require_as_decoded(save(tmp_path / "a.tif", pixels), pixels, [Run(122, 30)])

    @pytest.mark.parametrize("options", [{"order": ">"}, {"big": True}])
    def test_big_tiff_is_read_in_place_and_big_endian_pixels_are_decoded(
        self, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        pixels = noise(np.uint16, 30, 40)
        content = pixels.astype(">u2").tobytes() if "order" in options else pixels.tobytes()
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(content, *grey_tags(40, 30, 16), **options))
        assert bool(info_of(file).runs) == ("big" in options)
        report = make_mipmaps(job_for_pixels(file, tmp_path / "m", pixels, 1))
        (expected,) = reduce_levels(pixels, [1])
        assert np.array_equal(verify_level(report.made[0].path, 20, 15, "I;16"), expected[1])

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
    def test_compressed_pixels_are_not_read_in_place(self, tmp_path: Path, compression: str) -> None:
        pixels = noise(np.uint8, 30, 40)
        assert info_of(save(tmp_path / "a.tif", pixels, compression=compression)).runs == ()

    def test_reversed_bits_are_not_read_in_place(self, tmp_path: Path) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(bytes(1200), *grey_tags(40, 30), (266, 3, 2)))
        assert info_of(file).runs == ()

    @pytest.mark.parametrize("rows_per_strip", [30, 31, 0xFFFFFFFF])
    def test_rows_per_strip_may_exceed_the_height(self, tmp_path: Path, rows_per_strip: int) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(bytes(1200), *grey_tags(40, 30)[:-1], (278, 4, rows_per_strip)))
        assert len(info_of(file).runs) == 1

    @pytest.mark.parametrize(
        ("rows_per_strip", "problem"), [(0, "without a size"), (10, "1 pieces of pixels, but its size needs 3")]
    )
    def test_an_image_with_too_few_strips_is_refused(self, tmp_path: Path, rows_per_strip: int, problem: str) -> None:
        file = tmp_path / "a.tif"
        file.write_bytes(tiff(bytes(1200), *grey_tags(40, 30)[:-1], (278, 4, rows_per_strip)))
        with pytest.raises(ImageFault, match=problem):
            info_of(file)

    @pytest.mark.parametrize(
        ("length", "problem"), [(16, ""), (8, "1 pieces of pixels, but its size needs 2"), (0, "size")]
    )
    def test_an_image_with_too_few_tiles_is_refused(self, tmp_path: Path, length: int, problem: str) -> None:
        file = tmp_path / "a.tif"
        tags = [tag for tag in grey_tags(16, 16) if tag[0] not in (273, 278, 279)]
        start = len(tiff(b"", *tags, (322, 4, 16), (323, 4, length), (324, 4, 0), (325, 4, 256)))
        file.write_bytes(tiff(bytes(256), *tags, (322, 4, 16), (323, 4, length), (324, 4, start), (325, 4, 256)))
        if problem:
            with pytest.raises(ImageFault, match=problem):
                info_of(file)
        else:
            assert info_of(file).runs == ()

    def test_an_image_truncated_while_it_is_read_is_reported_as_changing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pixels = noise(np.uint8, 600, 600)
        file = save(tmp_path / "a.tif", pixels)
        fill = LevelBuffers.fill_from_file

        def fill_truncated(level_buffers: LevelBuffers, *arguments: Any) -> list[int]:
            os.truncate(file, 200_000)
            return fill(level_buffers, *arguments)

        monkeypatch.setattr(LevelBuffers, "fill_from_file", fill_truncated)
        report = make_mipmaps(job_for_pixels(file, tmp_path / "m", pixels))
        assert report.fault is not None
        assert report.fault.kind == "ImageChanging"
        assert not report.made


class TestReusedMemory:
    def test_a_tile_contains_no_pixels_of_the_previous_tile(self, tmp_path: Path) -> None:
        for seed in range(3):
            pixels = noise(np.uint8, 96, 128, seed)
            assert_levels(job_for_pixels(save(tmp_path / f"{seed}.tif", pixels), tmp_path / "m", pixels), pixels)

    def test_a_grey_between_two_integers_keeps_its_mean_before_and_after_another_tile(self, tmp_path: Path) -> None:
        quarter = np.full((256, 256), 100, np.uint8)
        quarter[::2, ::2] = 101
        for name, pixels in (("a.tif", quarter), ("b.tif", noise(np.uint8, 256, 256)), ("c.tif", quarter)):
            levels = levels_of(job_for_pixels(save(tmp_path / name, pixels), tmp_path / "m", pixels))
            assert [level for level, found in levels.items() if abs(found.mean() - pixels.mean()) > 0.1] == []

    def test_idle_buffers_are_reused(self) -> None:
        kind = Kind(64, 64, 8, (1, 2), None)
        with buffers_for(kind) as first, buffers_for(kind) as second:
            assert first is not second
        with buffers_for(kind) as third:
            assert third in (first, second)

    def test_no_more_than_two_idle_buffers_are_kept(self) -> None:
        for width in range(10, 20):
            with buffers_for(Kind(width, 64, 8, (1,), None)):
                pass
        assert len(buffers._idle) == buffers.KEPT

    def test_threads_never_share_buffers(self, tmp_path: Path) -> None:
        tiles = [noise(np.uint8, 512, 512, seed) for seed in range(4)]
        jobs = [job_for_pixels(save(tmp_path / f"{n}.tif", tile), tmp_path / "m", tile) for n, tile in enumerate(tiles)]

        def work(job: MipmapJob, pixels: Grey) -> None:
            for _ in range(5):
                assert_levels(job, pixels)

        with ThreadPoolExecutor(len(jobs)) as threads:
            list(threads.map(work, jobs, tiles))  # raises the AssertionError of a thread

    @pytest.mark.parametrize("grey", ["noise", "even"])
    def test_a_worker_uses_at_most_three_times_the_memory_of_its_image(self, tmp_path: Path, grey: str) -> None:
        side = 3000
        pixels = noise(np.uint8, side, side)
        if grey == "even":  # the mean of such levels is corrected, which reads the image again
            pixels = np.where(pixels < 64, 101, 100).astype(np.uint8)
        save(tmp_path / "a.tif", pixels)
        save(tmp_path / "small.tif", pixels[:100, :100])
        assert 0 < memory_of(tmp_path / "a.tif", side) <= 3 * pixels.nbytes

    @pytest.mark.parametrize(("name", "compression", "most"), [("a.jpg", "jpeg", 1.8), ("a.tif", "tiff_lzw", 2.5)])
    def test_an_image_that_is_decoded_whole_is_in_memory_once(
        self, tmp_path: Path, name: str, compression: str, most: float
    ) -> None:
        side = 3000
        pixels = np.repeat(np.repeat(noise(np.uint8, side // 50, side // 50), 50, 0), 50, 1)
        for file, image in ((name, pixels), (f"small{name[1:]}", pixels[:100, :100])):
            Image.fromarray(image).save(tmp_path / file, compression=compression, tiffinfo={278: side})
        # libtiff decodes the only strip into memory of its own.
        assert pixels.nbytes < memory_of(tmp_path / name, side) <= most * pixels.nbytes


def memory_of(image: Path, side: int) -> int:
    """Return the bytes that a job adds at its peak to a process that has made the levels of a small image."""
    program = f"""
from pathlib import Path
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
def made(image, side):
    outputs = tuple((n, image.parent / str(n) / image.name) for n in range(1, 7))
    report = make_mipmaps(MipmapJob("t", image, outputs, side, side))
    assert len(report.made) == 6, report
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
directory = Path({str(image.parent)!r})
print(made(directory / "small{image.suffix}", 100), made(directory / {image.name!r}, {side}))
"""
    before, peak = map(int, subprocess.check_output([sys.executable, "-c", program], text=True).split())
    return peak - before


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_png_levels_have_the_pixels_of_tiff_levels_and_jpeg_levels_their_size(tmp_path: Path, extension: str) -> None:
    pixels = noise(np.uint8, 192, 256)
    file = save(tmp_path / "a.tif", pixels)
    plain = levels_of(job_for_pixels(file, tmp_path / "m", pixels))
    other = levels_of(job_for_pixels(file, tmp_path / extension, pixels, encoding=Encoding(extension)))
    if extension == "png":
        assert all(np.array_equal(plain[level], other[level]) for level in plain)
    else:
        assert [found.shape for found in plain.values()] == [found.shape for found in other.values()]


@pytest.mark.parametrize("damage", ["header", "length"])
def test_a_rename_that_puts_another_content_in_place_is_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def replaced(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        content = Path(f"/proc/self/fd/{src_dir_fd}/{source}").read_bytes()
        content = content[:-1] if damage == "length" else bytes(20) + content[20:]
        Path(f"/proc/self/fd/{dst_dir_fd}/{target}").write_bytes(content)

    pixels = noise(np.uint8, 64, 64)
    job = job_for_pixels(save(tmp_path / "a.tif", pixels), tmp_path / "m", pixels)
    monkeypatch.setattr(os, "replace", replaced)
    report = make_mipmaps(job)
    assert report.fault is not None
    assert "reads back differently" in report.fault.problem
    assert not report.made
