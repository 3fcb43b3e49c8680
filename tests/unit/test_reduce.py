"""Levels from rows of a file equal those of the whole image, for all functions except the mean. Memory is reused."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from PIL import Image

from handlers.images.digest import RunningDigest
from handlers.images.pixels import FULL_RANGE
from handlers.images.reduction import MEAN, METHODS, Reduction
from handlers.mipmaps import buffers
from handlers.mipmaps.buffers import Kind, LevelBuffers, buffers_for
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.reductions import reduce, resize_kernel
from handlers.mipmaps.reductions.mean_kernel import GreyRange
from handlers.mipmaps.reductions.resize import FILTERS, OF_NEIGHBOURS
from tests.reduction import reduce_levels
from tests.unit.levels.files import DEPTHS, info_of, job_for_pixels, save, strips
from tests.unit.noise import noise

OTHERS = [Reduction(method, name) for method, names in METHODS.items() for name in names if name != MEAN.function]
LEVELS = (1, 2, 4)
PAGE_BYTES = resource.getpagesize()


def expected_levels(pixels: Any, reduction: Reduction, to_8bit: Any = None) -> dict[int, Any]:
    return dict(reduce_levels(pixels, LEVELS, reduction, to_8bit))


@pytest.fixture
def _small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of the smallest height: the blocks for one row of the highest level."""
    monkeypatch.setattr(reduce, "STRIP_BYTES", 1)
    monkeypatch.setattr(reduce, "BAND", 1)


@pytest.fixture
def _without_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resize_kernel, "resizing_code", lambda: None)


@pytest.fixture(params=["compiled if possible", "not compiled"])
def _with_and_without_compiled_code(request: pytest.FixtureRequest) -> None:
    if request.param == "not compiled":
        request.getfixturevalue("_without_compiled_code")


@pytest.mark.usefixtures("_small_strips", "_with_and_without_compiled_code")
@pytest.mark.parametrize("reduction", OTHERS, ids=lambda each: f"{each.method}-{each.function}")
class TestRowsOfAFile:
    @pytest.mark.parametrize(("depth", "to_8bit"), [(np.uint8, None), (np.uint16, None), (np.uint16, FULL_RANGE)])
    @pytest.mark.parametrize(("rows_each", "gap"), [(50, 0), (7, 0), (7, 5)])
    def test_a_file_gives_the_levels_of_its_whole_image(
        self, tmp_path: Path, reduction: Reduction, depth: Any, to_8bit: Any, rows_each: int, gap: int
    ) -> None:
        pixels = noise(depth, 91, 101)
        file = tmp_path / "a.tif"
        file.write_bytes(strips(pixels, rows_each, gap))
        level_buffers = LevelBuffers(Kind(101, 91, pixels.itemsize * 8, LEVELS, to_8bit, reduction))
        grey_range, expected_range = (GreyRange.of_bits(pixels.itemsize * 8) for _ in range(2))
        expected_range.add(pixels)
        with file.open("rb") as content:
            digest = RunningDigest(content.fileno())
            level_buffers.fill_from_file(content.fileno(), info_of(file).runs, digest.take, grey_range)
            assert digest.digest() == xxhash.xxh3_128(file.read_bytes()).digest()
        assert bytes(grey_range) == bytes(expected_range)
        for level, expected in expected_levels(pixels, reduction, to_8bit).items():
            np.testing.assert_array_equal(level_buffers.pages[level].pixels, expected)

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_a_decoded_image_gives_the_same_levels(self, reduction: Reduction, depth: Any) -> None:
        level_buffers = LevelBuffers(Kind(70, 83, np.dtype(depth).itemsize * 8, LEVELS, None, reduction))
        for seed in range(2):
            pixels = noise(depth, 83, 70, seed)
            level_buffers.fill(pixels)
            for level, expected in expected_levels(pixels, reduction).items():
                np.testing.assert_array_equal(level_buffers.pages[level].pixels, expected)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("size", [(64, 64), (101, 91), (127, 33), (16, 16)])
def test_nearest_has_the_pixels_of_pillow(depth: Any, size: tuple[int, int]) -> None:
    pixels = noise(depth, *size[::-1])
    whole = Image.fromarray(pixels)
    for level, found in expected_levels(pixels, Reduction("PIL", "NEAREST")).items():
        width, height = size[0] >> level, size[1] >> level
        box = (0, 0, width << level, height << level)
        expected = whole.resize((width, height), Image.Resampling.NEAREST, box=box)
        np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("reduction", [MEAN, *(Reduction("PIL", name) for name in ("NEAREST", "BOX"))], ids=str)
def test_the_next_tile_needs_no_new_memory_for_its_level_0(tmp_path: Path, reduction: Reduction) -> None:
    side = 2048
    pixels = noise(np.uint8, side, side)
    job = replace(job_for_pixels(save(tmp_path / "a.tif", pixels), tmp_path / "m", pixels), reduction=reduction)
    new_pages = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert make_mipmaps(job).fault is None
        new_pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert min(new_pages[1:]) < pixels.nbytes // PAGE_BYTES // 2


@pytest.mark.usefixtures("_without_compiled_code")
class TestBuffersOfAllRows:
    @pytest.mark.parametrize("name", OF_NEIGHBOURS)
    def test_a_filter_that_uses_neighbouring_blocks_reuses_its_buffers(self, name: str) -> None:
        kind = Kind(64, 64, 8, LEVELS, None, Reduction("PIL", name))
        with buffers_for(kind) as first:
            pass
        with buffers_for(kind) as again:
            assert again is first

    def test_only_one_idle_buffer_with_all_rows_is_kept(self) -> None:
        for width in (64, 65, 66):
            with buffers_for(Kind(width, 64, 8, (1,), None, Reduction("PIL", "LANCZOS"))):
                pass
        assert [kind.width for kind, _ in buffers._idle if kind.takes_all_rows] == [66]


def test_every_filter_uses_single_blocks_or_neighbouring_blocks() -> None:
    assert {"NEAREST", "BOX", *OF_NEIGHBOURS} == set(FILTERS)
