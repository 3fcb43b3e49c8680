"""The compiled filters give the same pixels as Pillow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.images.pixels import FULL_RANGE, Grey, IntensityRange
from handlers.images.reduction import METHODS, Reduction
from handlers.mipmaps.buffers import Kind
from handlers.mipmaps.reductions import mean_kernel
from handlers.mipmaps.reductions.mean_kernel import compiled_code
from handlers.mipmaps.reductions.reduce import ByStrips, filler
from handlers.mipmaps.reductions.resize_kernel import CompiledResize, resizing_code
from tests.reduction import reduce_levels
from tests.unit.noise import file_of_rows, noise

pytestmark = pytest.mark.skipif(resizing_code() is None, reason="the kernel was not built: no C compiler")
FILTERS = METHODS["PIL"]
DEPTHS = (np.uint8, np.uint16)


def require_same_as_pillow(image: Grey, name: str, levels: Any, to_8bit: IntensityRange | None = None) -> None:
    height, width = image.shape
    depth = np.uint8 if to_8bit else image.dtype
    outputs: dict[int, Grey] = {n: np.full((height >> n, width >> n), 77, depth) for n in levels}
    compiled = CompiledResize(width, height, image.itemsize * 8, outputs, to_8bit, name)
    for _ in range(2):  # the levels of the second image must not depend on the first
        compiled.add_image(image)
    for level, expected in reduce_levels(image, levels, Reduction("PIL", name), to_8bit):
        np.testing.assert_array_equal(outputs[level], expected, f"level {level}")
    assert compiled.biased() == []


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("size", [(256, 512), (259, 515), (577, 450), (64, 1030), (1031, 701)])
def test_noise_gives_the_pixels_of_pillow(name: str, depth: Any, size: tuple[int, int]) -> None:
    require_same_as_pillow(noise(depth, *size), name, range(1, 7))


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_edges_between_black_and_white_overshoot_like_those_of_pillow(name: str, depth: Any) -> None:
    white = int(np.iinfo(depth).max)
    image = np.zeros((300, 333), depth)
    image[40:171, 30:290] = white
    image[::7, 100:] = white - image[::7, 100:]
    require_same_as_pillow(image, name, range(1, 8))
    require_same_as_pillow(np.full((130, 140), white, depth), name, range(1, 8))


@given(st.data())
def test_any_image_gives_the_pixels_of_pillow(data: st.DataObject) -> None:
    width = data.draw(st.integers(2, 300))
    height = data.draw(st.integers(2, min(90, 3 * width // 2)))
    depth: Any = data.draw(st.sampled_from(DEPTHS))
    levels = data.draw(st.sets(st.integers(1, min(height, width).bit_length() - 1), min_size=1))
    to_8bit = (300, 40001) if depth is np.uint16 and data.draw(st.booleans()) else None
    values = data.draw(st.lists(st.integers(0, int(np.iinfo(depth).max)), min_size=1, max_size=4))
    image = np.random.default_rng(data.draw(st.integers(0, 99))).choice(np.array(values, depth), (height, width))
    require_same_as_pillow(image, data.draw(st.sampled_from(FILTERS)), levels, to_8bit)


@pytest.mark.parametrize("name", FILTERS)
def test_16_bits_are_converted_to_8_after_the_reduction(name: str) -> None:
    require_same_as_pillow(noise(np.uint16, 130, 150), name, [1, 3], FULL_RANGE)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows_each", [1, 7, 400])
def test_rows_of_a_file_give_the_pixels_of_pillow(tmp_path: Path, name: str, depth: Any, rows_each: int) -> None:
    image = noise(depth, 395, 1500)
    content, runs = file_of_rows(image, rows_each, start=5)
    (tmp_path / "rows").write_bytes(content)
    outputs: dict[int, Grey] = {n: np.zeros((395 >> n, 1500 >> n), depth) for n in (1, 2, 5)}
    compiled = CompiledResize(1500, 395, image.itemsize * 8, outputs, None, name)
    with (tmp_path / "rows").open("rb") as opened:
        compiled.add_file(opened.fileno(), runs, lambda *_: None)
        for level, expected in reduce_levels(image, outputs, Reduction("PIL", name)):
            np.testing.assert_array_equal(outputs[level], expected)
        with pytest.raises(EOFError, match="became shorter"):
            compiled.add_file(opened.fileno(), [*runs, (len(content) - 9, 1)], lambda *_: None)


@pytest.mark.parametrize(
    ("name", "height", "is_compiled"), [("LANCZOS", 300, True), ("LANCZOS", 301, False), ("NEAREST", 999, True)]
)
def test_tall_images_that_pillow_filters_vertically_first_are_left_to_pillow(
    name: str, height: int, is_compiled: bool
) -> None:
    outputs: dict[int, Grey] = {1: np.zeros((height // 2, 100), np.uint8)}
    made = filler(200, height, 8, outputs, None, Reduction("PIL", name))
    assert isinstance(made, CompiledResize if is_compiled else ByStrips)


def test_a_machine_without_the_library_uses_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outputs: dict[int, Grey] = {1: np.zeros((1, 1), np.uint8)}
    lanczos = Reduction("PIL", "LANCZOS")
    assert isinstance(filler(2, 2, 8, outputs, None, lanczos), CompiledResize)
    assert not Kind(2, 2, 8, (1,), None, lanczos).takes_all_rows
    compiled_code.cache_clear()
    try:
        monkeypatch.setattr(mean_kernel, "LIBRARY", tmp_path / "none.so")
        assert isinstance(filler(2, 2, 8, outputs, None, lanczos), ByStrips)
        assert Kind(2, 2, 8, (1,), None, lanczos).takes_all_rows
        with pytest.raises(OSError, match="was not built"):
            CompiledResize(2, 2, 8, outputs, None, "LANCZOS")
    finally:
        compiled_code.cache_clear()
