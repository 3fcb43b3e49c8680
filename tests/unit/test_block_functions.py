"""Minimum, maximum, median and mode of blocks: the same values as scikit-image's `block_reduce`, for any image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from skimage.measure import block_reduce

from handlers.images.reduction import Reduction
from handlers.mipmaps.reductions.block_functions import in_order
from tests.reduction import reduce_levels

DEPTHS = [np.uint8, np.uint16]


def rounded_median(blocks: npt.NDArray[Any], axis: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.asarray(np.rint(np.median(blocks, axis=axis)))


def smallest_mode(blocks: npt.NDArray[Any], axis: tuple[int, ...]) -> npt.NDArray[Any]:
    flat = blocks.reshape(*blocks.shape[: min(axis)], -1)
    return np.apply_along_axis(lambda block: np.bincount(block).argmax(), -1, flat)


REFERENCES: dict[str, Callable[..., Any]] = {
    "min": np.min,
    "max": np.max,
    "median": rounded_median,
    "mode": smallest_mode,
}


def images(depth: Any, values: int) -> st.SearchStrategy[npt.NDArray[Any]]:
    """Images of even and odd sizes, with values from 0 to `values`."""
    elements = st.integers(0, values)
    shapes = arrays.array_shapes(min_dims=2, max_dims=2, min_side=8, max_side=37)
    return arrays.arrays(depth, shapes, elements=elements)


ANY_IMAGE = st.one_of(*(images(depth, values) for depth in DEPTHS for values in (2, int(np.iinfo(depth).max))))


@pytest.mark.parametrize("function", REFERENCES)
@given(image=ANY_IMAGE)
def test_every_level_has_the_values_of_block_reduce(function: str, image: npt.NDArray[Any]) -> None:
    for level, pixels in reduce_levels(image, [1, 2, 3], Reduction(function=function)):
        height, width = (size >> level << level for size in image.shape)
        expected = block_reduce(image[:height, :width], (2**level, 2**level), REFERENCES[function])
        assert pixels.dtype == image.dtype
        np.testing.assert_array_equal(pixels, expected)


@given(st.integers(0, 7), st.integers(0, 99), st.sampled_from(DEPTHS))
def test_blocks_of_any_length_are_sorted(power: int, seed: int, depth: Any) -> None:
    blocks = np.random.default_rng(seed).integers(0, np.iinfo(depth).max, (2**power, 3, 5), depth, endpoint=True)
    np.testing.assert_array_equal(in_order(blocks), np.sort(blocks, axis=0))


def test_the_sorting_network_sorts_all_combinations_of_zeros_and_ones() -> None:
    """Then it sorts any values: the zero-one principle (Knuth, The Art of Computer Programming, 5.3.4)."""
    combinations = (np.arange(1 << 16)[np.newaxis, :] >> np.arange(16)[:, np.newaxis] & 1).astype(np.uint8)
    np.testing.assert_array_equal(in_order(combinations), np.sort(combinations, axis=0))


def test_reducing_an_image_does_not_change_it() -> None:
    image = np.random.default_rng(3).integers(0, 256, (64, 64), np.uint8)
    before = image.copy()
    for function in REFERENCES:
        list(reduce_levels(image, [1, 2], Reduction(function=function)))
    np.testing.assert_array_equal(image, before)
