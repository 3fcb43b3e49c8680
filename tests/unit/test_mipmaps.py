"""Levels as arrays, compared with literal values and with exact means in float64."""

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from sections import DATA

from handlers.errors import SettingsFault
from handlers.images.pixels import FULL_RANGE, Rounding, smallest_type
from handlers.images.reduction import MASK, MEAN, METHODS, Reduction, level_size
from handlers.mipmaps.reductions import block_functions
from handlers.mipmaps.reductions.reduce import REDUCERS
from handlers.mipmaps.reductions.resize import FILTERS
from tests.reduction import reduce_levels

ALL_LEVELS = range(1, 7)
DEPTHS = [np.uint8, np.uint16]
EVERY = [Reduction(method, function) for method, functions in METHODS.items() for function in functions]


def test_every_method_and_function_is_implemented() -> None:
    assert {*REDUCERS, MEAN.function} == {each.function for each in EVERY}


def reduced(
    image: list[list[int]], depth: Any, level: int = 1, reduction: Reduction = MEAN, to_8bit: Any = None
) -> Any:
    """Return one level as a list. Requires the type of pixels."""
    [(found, pixels)] = reduce_levels(np.array(image, depth), [level], reduction, to_8bit)
    assert found == level
    assert pixels.dtype == (np.uint8 if to_8bit else depth)
    return pixels.tolist()


def blocks_of(image: npt.NDArray[Any], level: int) -> npt.NDArray[Any]:
    """Return the blocks of 2^level x 2^level pixels, (row, y, column, x), without odd last rows and columns."""
    size = 2**level
    height, width = (length // size for length in image.shape)
    return image[: height * size, : width * size].reshape(height, size, width, size)


def exact_mean(image: npt.NDArray[Any], level: int) -> npt.NDArray[np.float64]:
    """Return the means of the blocks."""
    means: npt.NDArray[np.float64] = blocks_of(image, level).mean(axis=(1, 3), dtype=np.float64)
    return means


@pytest.mark.parametrize("depth", DEPTHS)
class TestMean:
    def test_a_pixel_is_the_mean_of_its_block(self, depth: Any) -> None:
        image = [
            [0, 4, 100, 100],
            [8, 4, 100, 104],
            [1, 1, 255, 255],
            [1, 2, 255, 255],
        ]
        assert reduced(image, depth) == [[4, 101], [1, 255]]

    def test_ties_are_rounded_up_and_down_alternately_like_a_checkerboard(self, depth: Any) -> None:
        image = [
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
        ]
        assert reduced(image, depth) == [[1, 0, 1], [0, 1, 0]]

    def test_an_odd_last_row_and_column_are_dropped(self, depth: Any) -> None:
        image = [
            [10, 20, 99],
            [30, 40, 99],
            [99, 99, 99],
        ]
        assert reduced(image, depth) == [[25]]

    def test_an_image_one_block_high_is_reduced(self, depth: Any) -> None:
        assert reduced([[1, 3, 5, 7, 0], [1, 3, 5, 7, 0]], depth) == [[2, 6]]

    def test_the_second_level_is_made_from_level_0_and_not_from_a_rounded_first_level(self, depth: Any) -> None:
        # Means at level 1 are 0.25, 0.25, 0.25 and 1.25. The mean of the rounded ones is 0.25, the exact mean 0.5.
        image = [
            [1, 0, 0, 0],
            [0, 0, 0, 1],
            [0, 1, 1, 1],
            [0, 0, 1, 2],
        ]
        assert reduced(image, depth, level=2) == [[1]]

    def test_a_white_image_is_white_at_every_level(self, depth: Any) -> None:
        image = np.full((1024, 2048), np.iinfo(depth).max, depth)
        for level, pixels in reduce_levels(image, range(1, 11)):
            assert pixels.shape == (1024 >> level, 2048 >> level)
            assert (pixels == np.iinfo(depth).max).all()

    def test_a_level_does_not_depend_on_other_levels(self, depth: Any) -> None:
        image = np.random.default_rng(1).integers(0, np.iinfo(depth).max, (97, 83), depth, endpoint=True)
        [(_, alone)] = reduce_levels(image, [3])
        together = dict(reduce_levels(image, [5, 3, 1]))
        np.testing.assert_array_equal(together[3], alone)


def test_levels_come_in_ascending_order() -> None:
    image = np.zeros((16, 16), np.uint8)
    assert [(level, pixels.shape) for level, pixels in reduce_levels(image, [3, 1])] == [(1, (8, 8)), (3, (2, 2))]


@pytest.mark.parametrize(
    ("size", "level", "expected"),
    [
        ((2760, 2330), 1, (1380, 1165)),
        ((2760, 2330), 2, (690, 582)),
        ((2760, 2330), 3, (345, 291)),
        ((513, 515), 1, (256, 257)),
        ((513, 515), 6, (8, 8)),
        ((3840, 3840), 6, (60, 60)),
        ((5504, 5504), 7, (43, 43)),
        ((1, 1), 1, (0, 0)),
    ],
)
def test_a_level_has_the_size_that_render_expects(size: tuple[int, int], level: int, expected: tuple[int, int]) -> None:
    assert level_size(*size, level) == expected


@given(st.integers(1, 65536), st.integers(1, 12), st.integers(0, 12))
def test_halving_level_by_level_gives_the_same_size_as_one_division(side: int, first: int, then: int) -> None:
    assert level_size(*level_size(side, 1, first), then)[0] == level_size(side, 1, first + then)[0]


class TestConversionTo8Bit:
    def test_the_full_range_is_divided_by_257_and_rounded(self) -> None:
        image = [
            [0, 0, 257, 257, 128, 128, 65535, 65535],
            [0, 0, 257, 257, 128, 128, 65535, 65535],
            [129, 129, 32767, 32767, 32768, 32768, 65534, 65534],
            [129, 129, 32767, 32767, 32768, 32768, 65534, 65534],
        ]
        assert reduced(image, np.uint16, to_8bit=FULL_RANGE) == [[0, 1, 0, 255], [1, 127, 128, 255]]

    def test_a_stated_range_is_stretched_and_values_outside_of_it_are_clipped(self) -> None:
        image = [[999, 1000, 2000, 1100], [999, 1000, 2000, 1100], [1000, 1200, 0, 0], [1000, 1200, 0, 0]]
        # Means 999.5, 1550, 1100, 0; a grey value is 2 wide from 1000 on: -0.25, 275, 50, -500.
        assert reduced(image, np.uint16, to_8bit=(1000, 1510)) == [[0, 255], [50, 0]]

    def test_images_are_converted_to_8_bits_after_the_mean(self) -> None:
        # Their mean 129 is converted to 1. Converted first, they are 0, 0, 0 and 1, with the mean 0.25, rounded to 0.
        assert reduced([[128, 128], [128, 132]], np.uint16, to_8bit=FULL_RANGE) == [[1]]

    def test_8_bit_images_are_not_converted(self) -> None:
        [(_, pixels)] = reduce_levels(np.full((2, 2), 200, np.uint8), [1], to_8bit=FULL_RANGE)
        assert pixels.tolist() == [[200]]

    def test_the_range_of_a_12_bit_camera_is_stretched_to_8_bits(self) -> None:
        image = [[0, 0, 4095, 4095], [0, 0, 4095, 4095]]
        assert reduced(image, np.uint16, to_8bit=(0, 4095)) == [[0, 255]]

    @pytest.mark.parametrize("to_8bit", [FULL_RANGE, (1000, 40001), (0, 4095), (7, 8), (30000, 30255)])
    def test_a_converted_level_is_within_1_of_the_exact_value_and_without_bias(self, to_8bit: tuple[int, int]) -> None:
        image = np.random.default_rng(5).integers(0, 65536, (255, 130), np.uint16)
        low, high = to_8bit
        for level, pixels in reduce_levels(image, range(1, 5), to_8bit=to_8bit):
            exact = np.clip((exact_mean(image, level) - low) * 255 / (high - low), 0, 255)
            require_close_without_bias(exact, pixels)


def test_the_mean_of_16_bits_stays_16_bit_without_a_range() -> None:
    assert reduced([[65535, 65535], [65535, 65534]], np.uint16) == [[65535]]


def require_close_without_bias(exact: npt.NDArray[np.float64], pixels: npt.NDArray[Any]) -> None:
    """Require an error below 1 for each pixel, and below 0.1 on average if there are more than four pixels."""
    error = pixels.astype(np.float64) - exact
    assert pixels.shape == exact.shape
    assert np.abs(error).max() < 1
    assert abs(error.mean()) <= max(0.1, 0.5 / error.size) + 1e-9


@given(arrays.arrays(st.sampled_from(DEPTHS), arrays.array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=40)))
def test_any_image_is_within_1_of_its_exact_mean_and_without_bias(image: Any) -> None:
    for level, pixels in reduce_levels(image, [1, 2, 3]):
        require_close_without_bias(exact_mean(image, level), pixels)


@given(
    arrays.arrays(np.uint16, arrays.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=24)),
    st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_any_image_is_without_bias_in_any_range(image: Any, limits: list[int]) -> None:
    low, high = limits
    for level, pixels in reduce_levels(image, [1, 2], to_8bit=(low, high)):
        exact = np.clip((exact_mean(image, level) - low) * 255 / (high - low), 0, 255)
        require_close_without_bias(exact, pixels)


def hard_images() -> dict[str, npt.NDArray[Any]]:
    """Return images that become brighter or darker with some way of rounding."""
    generator = np.random.default_rng(7)
    rows, columns = np.mgrid[0:700, 0:901]
    return {
        "random 8-bit": generator.integers(0, 256, (700, 901), np.uint8),
        "random 16-bit": generator.integers(0, 65536, (700, 901), np.uint16),
        "two values": generator.integers(0, 2, (700, 901), np.uint8),
        "two values, one of them rare": (generator.random((700, 901)) < 0.2).astype(np.uint8),
        "an even grey between two values": (100 + (generator.random((700, 901)) < 0.3)).astype(np.uint8),
        "every mean a quarter": ((rows % 2 == 0) & (columns % 2 == 0)).astype(np.uint8),
        "every mean a half": (rows % 2).astype(np.uint8),
        "ties in step with the checkerboard": ((rows // 2 + columns // 2) % 2 * (rows % 2)).astype(np.uint8),
        "a slow ramp": (columns // 300 + rows // 400).astype(np.uint8),
        "16-bit, nearly even": (30000 + generator.integers(0, 3, (700, 901))).astype(np.uint16),
    }


@pytest.mark.parametrize("name", hard_images())
def test_no_level_is_brighter_or_darker_than_its_image(name: str) -> None:
    image = hard_images()[name]
    for level, pixels in reduce_levels(image, ALL_LEVELS):
        require_close_without_bias(exact_mean(image, level), pixels)


def test_each_pixel_is_the_integer_below_or_above_its_mean_without_stripes() -> None:
    image = hard_images()["every mean a quarter"]
    [(_, pixels)] = reduce_levels(image, [1])
    assert set(np.unique(pixels)) == {0, 1}
    assert pixels.mean() == pytest.approx(0.25, abs=1e-5)
    # Without stripes, each row and column has about a quarter of ones.
    assert pixels.mean(axis=0).max() < 0.4
    assert pixels.mean(axis=1).max() < 0.4


def test_a_real_tile_keeps_its_mean_grey() -> None:
    file = DATA / "fafb_tile_col0066_row0102_cam3.png"
    if not file.exists():
        pytest.skip(f"{file} does not exist")
    with Image.open(file) as opened:
        image = np.asarray(opened)
    assert image.shape == (2330, 2760)
    for level, pixels in reduce_levels(image, ALL_LEVELS):
        exact = exact_mean(image, level)
        require_close_without_bias(exact, pixels)
        assert abs(float((pixels - exact).mean())) < 0.02


class TestMin:
    def test_a_pixel_is_opaque_only_if_its_whole_block_is(self) -> None:
        mask = [
            [255, 255, 255, 255, 0],
            [255, 255, 255, 0, 255],
            [0, 0, 255, 255, 255],
            [0, 0, 255, 255, 255],
            [0, 0, 0, 0, 0],
        ]
        assert reduced(mask, np.uint8, reduction=MASK) == [[255, 0], [0, 255]]
        assert reduced(mask, np.uint8, reduction=MASK, level=2) == [[0]]

    def test_a_mask_has_the_sizes_of_its_image_and_no_new_values(self) -> None:
        mask = np.where(np.random.default_rng(3).random((233, 276)) < 0.02, 0, 255).astype(np.uint8)
        for level, pixels in reduce_levels(mask, range(1, 6), MASK):
            assert pixels.shape[::-1] == level_size(276, 233, level)
            assert set(np.unique(pixels)) <= {0, 255}

    @given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, min_side=4, max_side=20)))
    def test_a_pixel_is_the_smallest_value_of_its_block(self, image: Any) -> None:
        for level, pixels in reduce_levels(image, [1, 2], MASK):
            np.testing.assert_array_equal(pixels, blocks_of(image, level).min(axis=(1, 3)))

    def test_16_bits_are_converted_after_the_minimum(self) -> None:
        image = [[257, 300, 65535, 65535], [600, 600, 65535, 65535]]
        assert reduced(image, np.uint16, reduction=MASK, to_8bit=FULL_RANGE) == [[1, 255]]
        assert reduced(image, np.uint16, reduction=MASK) == [[257, 65535]]


@pytest.mark.parametrize("depth", DEPTHS)
class TestOtherFunctions:
    IMAGE: ClassVar = [
        [9, 1, 7, 7, 0],
        [4, 2, 7, 3, 0],
        [5, 6, 8, 8, 0],
        [5, 6, 2, 2, 0],
        [0, 0, 0, 0, 0],
    ]

    def test_max_is_the_largest_of_the_block(self, depth: Any) -> None:
        assert reduced(self.IMAGE, depth, reduction=Reduction(function="max")) == [[9, 7], [6, 8]]

    def test_the_median_is_the_mean_of_the_two_middle_values_rounded_to_even(self, depth: Any) -> None:
        # Medians 3, 7, 5.5 and 5.
        assert reduced(self.IMAGE, depth, reduction=Reduction(function="median")) == [[3, 7], [6, 5]]
        assert reduced([[4, 4], [5, 5]], depth, reduction=Reduction(function="median")) == [[4]]

    def test_the_median_of_a_level_is_that_of_level_0_and_not_of_medians(self, depth: Any) -> None:
        image = [[0, 0, 0, 0], [0, 9, 0, 9], [0, 0, 9, 9], [0, 9, 9, 9]]
        # Medians of level 1: 0, 0, 0, 9. Median of all pixels: nine of sixteen are 0.
        assert reduced(image, depth, level=2, reduction=Reduction(function="median")) == [[0]]
        image = [[0, 9, 0, 9], [9, 9, 9, 9], [0, 0, 0, 9], [0, 0, 0, 9]]
        # Medians of level 1: 9, 9, 0, 4, with the median 6. Median of all pixels: 4.5, rounded to the even 4.
        assert reduced(image, depth, level=2, reduction=Reduction(function="median")) == [[4]]

    def test_the_mode_is_the_smallest_of_the_most_frequent_values(self, depth: Any) -> None:
        assert reduced(self.IMAGE, depth, reduction=Reduction(function="mode")) == [[1, 7], [5, 2]]

    def test_the_mode_of_a_level_is_that_of_level_0_and_not_of_modes(self, depth: Any) -> None:
        image = [[1, 1, 2, 5], [1, 1, 2, 6], [2, 7, 2, 3], [2, 8, 2, 3]]
        # Modes of level 1: 1, 2, 2, 2.
        assert reduced(image, depth, level=2, reduction=Reduction(function="mode")) == [[2]]
        image = [[1, 1, 2, 2], [1, 3, 2, 4], [1, 1, 2, 2], [1, 5, 2, 6]]
        assert reduced(image, depth, level=2, reduction=Reduction(function="mode")) == [[1]]

    def test_the_mode_of_labels_is_a_label(self, depth: Any) -> None:
        labels = np.random.default_rng(2).choice(np.array([0, 17, 90, 254], depth), (67, 131))
        for _, pixels in reduce_levels(labels, ALL_LEVELS, Reduction(function="mode")):
            assert set(np.unique(pixels)) <= {0, 17, 90, 254}

    @pytest.mark.parametrize("function", ["min", "max", "median", "mode"])
    def test_a_level_does_not_depend_on_the_size_of_a_band(
        self, depth: Any, function: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = np.random.default_rng(1).integers(0, 9, (133, 87), depth)
        whole = dict(reduce_levels(image, ALL_LEVELS, Reduction(function=function)))
        monkeypatch.setattr(block_functions, "BAND", 600)
        for level, pixels in reduce_levels(image, ALL_LEVELS, Reduction(function=function)):
            np.testing.assert_array_equal(pixels, whole[level])


@pytest.mark.parametrize("function", ["min", "max", "median", "mode"])
def test_equal_values_stay_equal_when_16_bits_become_8(function: str) -> None:
    # 30000 / 257 is 116.7. Rounding without bias would give 116 in some pixels and 117 in others.
    image = np.full((64, 64), 30000, np.uint16)
    for _, pixels in reduce_levels(image, ALL_LEVELS, Reduction(function=function), FULL_RANGE):
        assert set(np.unique(pixels)) == {117}


@pytest.mark.parametrize("name", FILTERS)
class TestFilters:
    def test_an_odd_last_row_and_column_do_not_change_the_scale(self, name: str) -> None:
        image = np.zeros((65, 129), np.uint8)
        image[:64, :128] = np.random.default_rng(4).integers(0, 256, (64, 128))
        even = dict(reduce_levels(image[:64, :128], ALL_LEVELS, Reduction("PIL", name)))
        for level, pixels in reduce_levels(image, ALL_LEVELS, Reduction("PIL", name)):
            assert pixels.shape == (64 >> level, 128 >> level)
            # Filters that are wider than a block see the dropped pixels in the last three rows and columns.
            kept = np.s_[:-3, :-3]
            np.testing.assert_array_equal(pixels[kept], even[level][kept])

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_edges_between_black_and_white_do_not_wrap_around(self, name: str, depth: Any) -> None:
        white = np.iinfo(depth).max
        image = np.zeros((64, 64), depth)
        image[:, 29:] = white
        for _, pixels in reduce_levels(image, [1, 2], Reduction("PIL", name)):
            assert (np.diff(pixels.astype(np.int64), axis=1) >= -0.1 * white).all()
            assert (pixels[:, 0] == 0).all()
            assert (pixels[:, -1] == white).all()

    @pytest.mark.parametrize("depth", DEPTHS)
    def test_a_level_is_made_from_level_0_with_or_without_other_levels(self, name: str, depth: Any) -> None:
        image = np.random.default_rng(1).integers(0, np.iinfo(depth).max, (97, 83), depth, endpoint=True)
        [(_, alone)] = reduce_levels(image, [3], Reduction("PIL", name))
        np.testing.assert_array_equal(dict(reduce_levels(image, [1, 3], Reduction("PIL", name)))[3], alone)

    def test_16_bits_are_converted_after_the_filter(self, name: str) -> None:
        image = np.full((8, 8), 25700, np.uint16)
        [(_, pixels)] = reduce_levels(image, [1], Reduction("PIL", name), FULL_RANGE)
        assert (pixels.dtype, set(np.unique(pixels))) == (np.uint8, {100})


def test_nearest_takes_the_pixel_at_the_centre_of_each_block_of_level_0() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(16, 16)
    levels = dict(reduce_levels(image, [1, 2, 3], Reduction("PIL", "NEAREST")))
    for level, pixels in levels.items():
        np.testing.assert_array_equal(pixels, image[2 ** (level - 1) :: 2**level, 2 ** (level - 1) :: 2**level])


class TestReduction:
    @pytest.mark.parametrize(
        ("method", "function", "key"),
        [
            ("nope", "mean", "mipmaps.method"),
            ("pil", "BOX", "mipmaps.method"),
            ("block_reduce", "FOO", "mipmaps.function"),
            ("block_reduce", "BOX", "mipmaps.function"),
            ("PIL", "mean", "mipmaps.filter"),
            ("PIL", "FOO", "mipmaps.filter"),
            ("render", "min", "mipmaps.function"),
        ],
    )
    def test_an_unknown_method_function_or_filter_is_refused(self, method: str, function: str, key: str) -> None:
        with pytest.raises(SettingsFault) as refusal:
            Reduction(method, function)
        assert refusal.value.subject == key

    def test_the_default_is_the_area_mean(self) -> None:
        assert Reduction() == MEAN
        image = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
        for (_, one), (_, other) in zip(reduce_levels(image, [2]), reduce_levels(image, [2], MEAN), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("reduction", EVERY, ids=str)
def test_without_levels_nothing_is_reduced(reduction: Reduction) -> None:
    assert list(reduce_levels(np.zeros((4, 4), np.uint8), [], reduction)) == []


class TestTypeOfSums:
    """Sums must not overflow: those of 16-bit pixels need 32 bits up to level 8, and 64 bits from level 9 on."""

    @pytest.mark.parametrize(
        ("largest", "expected"),
        [
            (255 * 4**4 + 4**4 // 2, np.uint16),
            (255 * 4**5 + 4**5 // 2, np.uint32),
            (255 * 4**12 + 4**12 // 2, np.uint32),
            (255 * 4**13 + 4**13 // 2, np.uint64),
            (65535 * 4**8 + 4**8 // 2, np.uint32),
            (65535 * 4**9 + 4**9 // 2, np.uint64),
        ],
    )
    def test_the_smallest_type_that_holds_a_sum_is_used(self, largest: int, expected: Any) -> None:
        assert smallest_type(largest) == expected

    @pytest.mark.parametrize("level", range(1, 17))
    @pytest.mark.parametrize("to_8bit", [None, FULL_RANGE, (1, 65535)])
    def test_the_largest_sum_of_any_level_is_rounded_correctly(self, level: int, to_8bit: Any) -> None:
        largest = 65535 * 4**level
        sums = np.full((2, 2), largest, smallest_type(largest + 4**level // 2))
        found = np.empty((2, 2), np.uint8 if to_8bit else np.uint16)
        rule = Rounding.of(4**level, to_8bit)
        assert not rule.is_biased(rule.to_nearest(sums, found), found.size)
        assert (found == (255 if to_8bit else 65535)).all()
