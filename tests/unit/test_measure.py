"""Numbers of an image that are measured while its levels are made."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from handlers.images.encode import Encoding
from handlers.images.pixels import Grey
from handlers.images.reduction import Reduction
from handlers.mipmaps import buffers, measure
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps
from handlers.mipmaps.measure import Measured, digest_of_levels, range_of, sharpness_of
from handlers.mipmaps.reductions import mean_kernel
from handlers.mipmaps.reductions.mean_kernel import GreyRange
from tests.reduction import reduce_levels


def texture(depth: Any = np.uint8, width: int = 200, height: int = 120, seed: int = 1) -> Grey:
    return np.random.default_rng(seed).integers(1, np.iinfo(depth).max // 2, (height, width), depth)


def job_of(tmp_path: Path, image: Grey, **changes: Any) -> MipmapJob:
    file = tmp_path / "tile.tif"
    Image.fromarray(image).save(file, **changes.pop("save", {}))
    height, width = image.shape
    outputs = tuple((level, tmp_path / f"{level}.tif") for level in range(1, 5))
    return MipmapJob("tile", file, outputs, width, height, measure=True, **changes)


def measured(job: MipmapJob) -> Measured:
    report = make_mipmaps(job)
    assert report.fault is None
    assert report.measured is not None
    return report.measured


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def _implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with the compiled code and with numpy."""
    if request.param == "numpy":
        for module in (measure, mean_kernel):
            monkeypatch.setattr(module, "compiled_code", lambda: None)
        monkeypatch.setattr(buffers, "_idle", [])  # idle buffers may have the compiled code
    elif mean_kernel.compiled_code() is None:
        pytest.skip("the kernel was not built: no C compiler")


# --- numbers calculated by hand


def test_the_range_and_the_shares_equal_those_counted_by_hand(tmp_path: Path) -> None:
    image = np.full((100, 200), 90, np.uint8)
    image[0, :50] = 0
    image[99, :10] = 255
    found = measured(job_of(tmp_path, image))
    assert (found.bits, found.darkest, found.brightest) == (8, 0, 255)
    assert (found.dark_share, found.saturated_share) == (50 / 20_000, 10 / 20_000)


def test_grey_values_of_16_bits_are_saturated_from_the_white_of_12_bits(tmp_path: Path) -> None:
    image = np.full((100, 200), 4096, np.uint16)
    image[3, :4] = 65520  # 4095 shifted by 4
    image[4, :3] = 65535
    image[5, :2] = 65519
    image[6, 0] = 0
    found = measured(job_of(tmp_path, image))
    assert (found.bits, found.darkest, found.brightest) == (16, 0, 65535)
    assert (found.dark_share, found.saturated_share) == (1 / 20_000, 7 / 20_000)


def test_a_blank_image_has_one_grey_value_and_no_sharpness(tmp_path: Path) -> None:
    found = measured(job_of(tmp_path, np.full((100, 200), 37, np.uint8)))
    assert (found.darkest, found.brightest, found.sharpness) == (37, 37, 0)


def test_the_sharpness_is_the_variance_of_the_laplacian() -> None:
    # By hand: 0 + 0 + 0 + 9 - 4*5 = -11, and 5 + 0 + 1 + 2 - 4*9 = -28.
    image = np.array([[7, 0, 1, 7], [0, 5, 9, 0], [7, 0, 2, 7]], np.uint8)
    assert sharpness_of(image) == pytest.approx(np.var([-11, -28]))
    assert sharpness_of(image.astype(np.uint16) * 257) == pytest.approx(np.var([-11, -28]))
    assert sharpness_of(image[:2]) == 0


def test_the_sharpest_possible_image_does_not_overflow() -> None:
    for depth in (np.uint8, np.uint16):
        image = np.zeros((6, 5000), depth)
        image[::2, ::2] = image[1::2, 1::2] = np.iinfo(depth).max
        # The Laplacian is 4 * 255 in black pixels and -4 * 255 in white ones.
        assert sharpness_of(image) == pytest.approx((4 * 255) ** 2, rel=1e-3)


@given(st.integers(1, 9), st.integers(1, 700), st.integers(0, 2**32 - 1), st.sampled_from([8, 16]))
def test_compiled_and_numpy_measure_the_same(height: int, width: int, seed: int, bits: int) -> None:
    depth = np.uint8 if bits == 8 else np.uint16
    chosen = np.array([0, 1, 100, np.iinfo(depth).max - 16, np.iinfo(depth).max], depth)
    image = np.random.default_rng(seed).choice(chosen, (height, width))
    found = GreyRange.of_bits(bits)
    for row in image:
        found.add(row)
    white = (image >= (255 if bits == 8 else 0xFFF0)).mean()
    expected = Measured(bits, int(image.min()), int(image.max()), float((image == 0).mean()), float(white))
    assert str(range_of(found, bits)) == str(expected)
    if mean_kernel.compiled_code() is not None and min(image.shape) >= 3:
        assert measure._laplacians(image) == measure._laplacians_by_numpy(image)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_sharpness_falls_as_blur_increases(depth: Any) -> None:
    image = Image.fromarray(texture(np.uint8, 1024, 768))
    found = []
    for radius in (0, 2, 4, 8, 16):
        blurred: Grey = np.asarray(image.filter(ImageFilter.GaussianBlur(radius))).astype(depth)
        whole = blurred if depth == np.uint8 else (blurred * depth(257)).astype(depth)
        found.append(sharpness_of(dict(reduce_levels(whole, [3]))[3]))
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 5


# --- every way from an image to its levels


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("save", [{}, {"compression": "tiff_lzw"}])
def test_streamed_and_decoded_images_have_the_same_numbers(tmp_path: Path, depth: Any, save: dict[str, Any]) -> None:
    image = texture(depth, 600, 700)
    image[9, 9], image[600, 5] = 0, np.iinfo(depth).max
    job = job_of(tmp_path, image, save=save, convert_to_8bit=False)
    found = measured(job)
    assert (found.darkest, found.brightest) == (0, np.iinfo(depth).max)
    assert (found.dark_share, found.saturated_share) == ((image == 0).mean(), 1 / image.size)
    level3 = np.asarray(Image.open(tmp_path / "3.tif"))
    assert found.sharpness == sharpness_of(level3)


@pytest.mark.parametrize(
    "changes",
    [
        {"reduction": Reduction("block_reduce", "median")},
        {"reduction": Reduction("PIL", "BOX")},
        {"encoding": Encoding("png")},
        {"encoding": Encoding("jpg")},
    ],
    ids=["median", "box", "png", "jpg"],
)
def test_images_are_measured_with_every_reduction_and_format(tmp_path: Path, changes: dict[str, Any]) -> None:
    image = texture()
    found = measured(job_of(tmp_path, image, **changes))
    assert (found.darkest, found.brightest) == (image.min(), image.max())
    assert found.sharpness > 0
    digests = {level: xxhash.xxh3_128((tmp_path / f"{level}.tif").read_bytes()).digest() for level in range(1, 5)}
    assert found.levels_digest == digest_of_levels(digests)


def test_kept_levels_give_the_same_numbers_as_new_ones(tmp_path: Path) -> None:
    job = job_of(tmp_path, texture(), force=False)
    first = measured(job)
    kept = make_mipmaps(job)
    assert (len(kept.made), len(kept.kept)) == (0, 4)
    assert kept.measured == first
    (tmp_path / "2.tif").unlink()
    partly = make_mipmaps(job)
    assert (len(partly.made), len(partly.kept)) == (1, 3)
    assert partly.measured == first


def test_without_a_level_3_only_the_sharpness_is_unknown(tmp_path: Path) -> None:
    job = job_of(tmp_path, texture())
    found = measured(MipmapJob("tile", job.level0, job.outputs[:2], job.width, job.height, measure=True))
    assert np.isnan(found.sharpness)
    assert found.brightest > 0
    assert found.levels_digest


def test_a_job_measures_only_on_request(tmp_path: Path) -> None:
    job = job_of(tmp_path, texture())
    report = make_mipmaps(MipmapJob("tile", job.level0, job.outputs, job.width, job.height))
    assert report.measured is None
    assert {level.digest for level in report.made} == {None}


def test_numbers_are_the_same_after_conversion_to_bytes_and_back() -> None:
    known = Measured(16, 3, 65535, 0.25, 1 / 3, 123.456, 6, bytes(range(16)))
    assert Measured.from_bytes(known.to_bytes()) == known
    unknown = Measured.from_bytes(Measured().to_bytes())
    assert str(unknown) == str(Measured())  # NaN == NaN is false
    with pytest.raises(struct.error):
        Measured.from_bytes(b"short")


def test_the_digest_of_levels_depends_on_each_level_and_its_number() -> None:
    one, two = xxhash.xxh3_128(b"one").digest(), xxhash.xxh3_128(b"two").digest()
    assert digest_of_levels({1: one, 2: two}) == digest_of_levels({2: two, 1: one})
    assert len({digest_of_levels(each) for each in ({1: one, 2: two}, {1: two, 2: one}, {1: one}, {2: one}, {})}) == 5
