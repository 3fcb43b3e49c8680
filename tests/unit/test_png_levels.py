"""The encoding of levels as PNG without a `compression`."""

import io
import zlib
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from handlers.images.encode import Encoding
from tests.unit.levels.files import DEPTHS
from tests.unit.noise import noise


@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(DEPTHS), st.booleans())
def test_a_png_decodes_to_the_encoded_pixels(width: int, height: int, depth: Any, is_even: bool) -> None:
    pixels = np.full((height, width), 200, depth) if is_even else noise(depth, height, width)
    with Image.open(io.BytesIO(Encoding("png").encoded(pixels))) as decoded:
        decoded.load()
        assert decoded.format == "PNG"
        assert decoded.mode == ("L" if depth is np.uint8 else "I;16")
        assert np.array_equal(np.asarray(decoded), pixels)


def test_a_png_of_noise_is_decompressed_with_512_bytes_of_former_rows_and_is_as_small_as_by_pillow() -> None:
    pixels = (128 + 8 * np.random.default_rng(1).standard_normal((500, 500))).astype(np.uint8)
    content, by_pillow = Encoding("png").encoded(pixels), io.BytesIO()
    packed = content[content.index(b"IDAT") + 4 : content.index(b"IEND")]
    assert len(zlib.decompressobj(wbits=9).decompress(packed)) == 500 * 501
    Image.fromarray(pixels).save(by_pillow, "PNG")
    assert len(content) < 1.05 * len(by_pillow.getvalue())


def test_a_png_with_one_grey_value_is_small() -> None:
    assert len(Encoding("png").encoded(np.full((1000, 1000), 200, np.uint8))) < 20_000
