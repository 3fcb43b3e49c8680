"""The compiled area mean and the area mean by numpy give the same pixels and report the same biased levels."""

import subprocess
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hatch_build
from handlers.images.pixels import FULL_RANGE, Grey, IntensityRange, Rounding
from handlers.mipmaps import measure
from handlers.mipmaps.measure import range_of
from handlers.mipmaps.reductions import mean_kernel
from handlers.mipmaps.reductions.area_mean import MeansByNumpy, means
from handlers.mipmaps.reductions.mean_kernel import DIVIDE, MULTIPLY, MULTIPLY_WIDE, CompiledMeans, GreyRange, division
from tests.reduction import reduce_levels
from tests.unit.noise import file_of_rows, noise

pytestmark = pytest.mark.skipif(mean_kernel.compiled_code() is None, reason="the kernel was not built: no C compiler")

KINDS: list[tuple[Any, IntensityRange | None]] = [
    (np.uint8, None),
    (np.uint16, None),
    (np.uint16, FULL_RANGE),
    (np.uint16, (1000, 1510)),
    (np.uint16, (100, 40001)),
    (np.uint16, (7, 8)),
    (np.uint16, (300, 65535)),
]


def levels_by(
    kind: Any, image: Grey, levels: int, to_8bit: IntensityRange | None
) -> tuple[Mapping[int, Grey], list[int]]:
    """Return the pixels of each level, and the biased levels."""
    height, width = image.shape
    depth = np.uint8 if to_8bit else image.dtype
    outputs: dict[int, Grey] = {n: np.full((height >> n, width >> n), 77, depth) for n in range(1, levels + 1)}
    reducer = kind(width, height, image.itemsize * 8, outputs, to_8bit)
    for _ in range(2):  # the levels of the second image must not depend on the first
        reducer.add_image(image)
    return outputs, reducer.biased()


def require_same(image: Grey, levels: int, to_8bit: IntensityRange | None) -> None:
    compiled, biased = levels_by(CompiledMeans, image, levels, to_8bit)
    expected, expected_biased = levels_by(MeansByNumpy, image, levels, to_8bit)
    for level in expected:
        np.testing.assert_array_equal(compiled[level], expected[level])
    assert biased == expected_biased


@pytest.mark.parametrize(("depth", "to_8bit"), KINDS)
@pytest.mark.parametrize("size", [(256, 512), (259, 515), (1100, 577), (64, 2050), (511, 257)])
def test_compiled_and_numpy_make_the_same_pixels(depth: Any, to_8bit: IntensityRange | None, size: Any) -> None:
    require_same(noise(depth, *size), 6, to_8bit)


@pytest.mark.parametrize(("depth", "to_8bit"), KINDS)
@pytest.mark.parametrize("brightness", [0.0, 0.5, 1.0])
def test_images_of_one_grey_value_up_to_white_do_not_overflow_at_any_level(
    depth: Any, to_8bit: IntensityRange | None, brightness: float
) -> None:
    image = np.full((512, 768), int(np.iinfo(depth).max * brightness), depth)
    require_same(image, mean_kernel.HIGHEST_LEVEL, to_8bit)


@pytest.fixture(scope="module")
def portable_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the code for processors without the vector registers of x86-64."""
    library = tmp_path_factory.mktemp("portable") / "portable.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hatch_build, "FLAGS", (*hatch_build.FLAGS, "-DPORTABLE"))
        if problem := hatch_build.build(library, hatch_build.LIBRARIES["handlers/mipmaps/reductions/libarea_mean.so"]):
            pytest.skip(problem)
    return library


@pytest.fixture
def portable(portable_library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use the code for processors without the vector registers of x86-64."""
    monkeypatch.setattr(mean_kernel, "LIBRARY", portable_library)
    mean_kernel.compiled_code.cache_clear()
    yield
    mean_kernel.compiled_code.cache_clear()


@pytest.mark.usefixtures("portable")
@pytest.mark.parametrize(("depth", "to_8bit"), KINDS)
def test_the_portable_code_makes_the_same_pixels(depth: Any, to_8bit: IntensityRange | None) -> None:
    require_same(noise(depth, 259, 1030), 6, to_8bit)
    require_same(np.full((256, 512), np.iinfo(depth).max, depth), mean_kernel.HIGHEST_LEVEL, to_8bit)


def require_same_numbers(image: Grey) -> None:
    """Require that the compiled code and numpy measure the same numbers of an image."""
    bits = image.itemsize * 8
    compiled, by_numpy = GreyRange.of_bits(bits), GreyRange.of_bits(bits)
    compiled.add(image)
    by_numpy.add_by_numpy(image)
    assert range_of(compiled, bits).to_bytes() == range_of(by_numpy, bits).to_bytes()  # NaN == NaN is false
    assert measure._laplacians(image) == measure._laplacians_by_numpy(image)


@pytest.mark.usefixtures("portable")
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_the_portable_code_measures_the_same_numbers(depth: Any) -> None:
    require_same_numbers(noise(depth, 259, 1030))
    require_same_numbers(np.full((256, 512), np.iinfo(depth).max, depth))


@given(st.data())
def test_compiled_and_numpy_make_the_same_pixels_of_any_image_in_any_range(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(2, 40)), data.draw(st.integers(2, 600))
    depth: Any = data.draw(st.sampled_from([np.uint8, np.uint16]))
    limits = st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True)
    low, high = sorted(data.draw(limits))
    to_8bit = (low, high) if depth is np.uint16 and data.draw(st.booleans()) else None
    values = data.draw(st.lists(st.integers(0, int(np.iinfo(depth).max)), min_size=1, max_size=4))
    image = np.random.default_rng(data.draw(st.integers(0, 99))).choice(np.array(values, depth), (height, width))
    require_same(image, min(height, width).bit_length() - 1, to_8bit)


@pytest.mark.parametrize("kind", [CompiledMeans, MeansByNumpy])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("rows_each", [1, 7, 90, 400])
@pytest.mark.parametrize("start", [0, 8, 122, 4095])
def test_rows_at_any_offset_of_a_file_give_the_same_levels(
    tmp_path: Path, kind: Any, depth: Any, rows_each: int, start: int
) -> None:
    image = noise(depth, 395, 1500)
    content, runs = file_of_rows(image, rows_each, start)
    file = tmp_path / "rows"
    file.write_bytes(content)
    levels: list[dict[int, Grey]] = [{n: np.zeros((395 >> n, 1500 >> n), depth) for n in (1, 2, 5)} for _ in range(2)]
    by_file, by_memory = (kind(1500, 395, image.itemsize * 8, outputs, None) for outputs in levels)
    with file.open("rb") as opened:
        pieces: list[tuple[int, bytes]] = []
        by_file.add_file(opened.fileno(), runs, lambda offset, piece: pieces.append((offset, bytes(piece))))
        by_memory.add_image(image)
        assert b"".join(piece for _, piece in pieces) == image.tobytes()
        assert all(content[offset : offset + len(piece)] == piece for offset, piece in pieces)
        assert by_file.biased() == by_memory.biased()
        for one, two in zip(*(outputs.values() for outputs in levels), strict=True):
            np.testing.assert_array_equal(one, two)
        with pytest.raises(EOFError, match="became shorter"):
            by_file.add_file(opened.fileno(), [*runs, (len(content) - 9, 1)], lambda *_: None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        by_file.add_file(-1, runs, lambda *_: None)


def test_levels_without_output_are_computed_but_not_written() -> None:
    image = noise(np.uint8, 128, 200)
    outputs: dict[int, Grey] = {3: np.zeros((16, 25), np.uint8)}
    reducer = CompiledMeans(200, 128, 8, outputs, None)
    reducer.add_image(image)
    np.testing.assert_array_equal(outputs[3], dict(reduce_levels(image, [1, 2, 3]))[3])


@pytest.mark.parametrize(("level", "kind"), [(8, CompiledMeans), (9, MeansByNumpy)])
def test_sums_beyond_32_bits_are_left_to_numpy(level: int, kind: type) -> None:
    outputs: dict[int, Grey] = {level: np.zeros((1, 1), np.uint16)}
    assert isinstance(means(1 << level, 1 << level, 16, outputs, None), kind)


def test_a_machine_without_the_library_uses_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    mean_kernel.compiled_code.cache_clear()
    try:
        monkeypatch.setattr(mean_kernel, "LIBRARY", tmp_path / "none.so")
        outputs: dict[int, Grey] = {1: np.zeros((1, 1), np.uint8)}
        assert isinstance(means(2, 2, 8, outputs, None), MeansByNumpy)
    finally:
        mean_kernel.compiled_code.cache_clear()


class TestDivision:
    @given(st.integers(1, 65535), st.integers(1, 8), st.integers(0, 1 << 32))
    def test_division_is_exact_for_every_number_that_occurs(self, span: int, level: int, seed: int) -> None:
        rule = Rounding.of(4**level, (0, span))
        largest = rule.largest + rule.divisor // 2
        method, before, multiplier, after = division(rule.divisor, largest)
        if method == DIVIDE:
            return  # the processor's own division
        seeded = seed % (largest + 1)
        edges = [q * rule.divisor + d for q in (0, 1, seeded // rule.divisor, largest // rule.divisor) for d in (-1, 0)]
        for number in {seeded, largest, *(edge for edge in edges if 0 <= edge <= largest)}:
            product = (number >> before) * multiplier
            assert product < 1 << (32 if method == MULTIPLY else 64)
            assert product >> after == number // rule.divisor

    @given(st.integers(1, 65535), st.integers(1, 8))
    def test_the_error_of_the_multiplier_is_too_small_to_reach_the_next_integer(self, span: int, level: int) -> None:
        rule = Rounding.of(4**level, (0, span))
        largest = rule.largest + rule.divisor // 2
        method, before, multiplier, after = division(rule.divisor, largest)
        if method != DIVIDE:
            too_much = Fraction(multiplier, 1 << after) - Fraction(1, rule.divisor >> before)
            assert 0 <= too_much * (largest >> before) < Fraction(1, rule.divisor >> before)

    def test_the_full_range_needs_no_more_than_32_bits(self) -> None:
        kinds = [division(257 * 4**n, 65535 * 4**n + 257 * 4**n // 2)[0] for n in range(1, 8)]
        assert set(kinds) == {MULTIPLY}

    def test_a_range_that_needs_more_than_32_bits_uses_the_wide_methods(self) -> None:
        rules = [Rounding.of(4**n, (100, 40001)) for n in (1, 8)]
        kinds = [division(rule.divisor, rule.largest + rule.divisor // 2)[0] for rule in rules]
        assert kinds == [MULTIPLY_WIDE, DIVIDE]


def test_make_compiles_each_library_again_after_its_sources_changed() -> None:
    rules = subprocess.run(["make", "-pn", ".venv/.ready"], cwd=hatch_build.ROOT, capture_output=True, text=True).stdout
    needed = next(line for line in rules.splitlines() if line.startswith(".venv/.ready:")).split()
    assert not {source for each in hatch_build.LIBRARIES.values() for source in each} - {*needed}
