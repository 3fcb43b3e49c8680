"""Grey BMP files: header, rows from the bottom up or from the top down, and headers that are refused."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.errors import ImageFault
from handlers.images.decode import read_hashed, read_image
from handlers.images.header import inspect_image, open_descriptor
from tests.unit.levels.files import assert_levels, job_for_pixels
from tests.unit.noise import noise

GREY = np.random.default_rng(0).integers(0, 256, (7, 5), np.uint8)
"""5 pixels in a row: each row ends with 3 bytes of padding."""


def bmp(path: Path, pixels: np.ndarray = GREY) -> Path:
    Image.fromarray(pixels).save(path, "BMP")
    return path


def corrupted(path: Path, offset: int, form: str, *values: int) -> Path:
    content = bytearray(bmp(path).read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)
    return path


def test_pixels_and_header_are_read_as_saved(tmp_path: Path) -> None:
    path = bmp(tmp_path / "a.bmp")
    pixels, info = read_image(path, 5, 7)
    assert np.array_equal(pixels, GREY)
    assert (info.width, info.height, info.bits, info.format) == (5, 7, 8, "bmp")
    with open_descriptor(path) as descriptor:
        assert np.array_equal(read_hashed(descriptor, path, 5, 7)[0], GREY)


def test_a_negative_height_means_rows_from_the_top_down(tmp_path: Path) -> None:
    path = corrupted(tmp_path / "a.bmp", 22, "<i", -7)
    assert np.array_equal(read_image(path, 5, 7)[0], GREY[::-1])


@pytest.mark.parametrize("size", [(1, 1), (4, 3), (64, 64), (65, 2)])
def test_every_width_is_read_without_its_padding(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size[::-1], np.uint8)
    assert np.array_equal(read_image(bmp(tmp_path / "a.bmp", pixels), *size)[0], pixels)


@pytest.mark.parametrize("size", [(64, 48), (61, 47)], ids=["without padding", "with padding"])
@pytest.mark.parametrize("is_top_down", [False, True], ids=["bottom up", "top down"])
def test_levels_are_made_from_the_rows_in_their_order(tmp_path: Path, size: tuple[int, int], is_top_down: bool) -> None:
    pixels = noise(np.uint8, size[1], size[0])
    path = bmp(tmp_path / "a.bmp", pixels[::-1] if is_top_down else pixels)
    if is_top_down:
        content = bytearray(path.read_bytes())
        struct.pack_into("<i", content, 22, -size[1])
        path.write_bytes(content)
    assert_levels(job_for_pixels(path, tmp_path / "mipmaps", pixels), pixels)


@pytest.mark.parametrize(
    ("offset", "form", "values", "problem"),
    [
        (30, "<I", (1,), "is a compressed BMP file"),
        (26, "<H", (2,), "has a broken BMP header"),
        (14, "<I", (12,), "has a broken BMP header"),
        (10, "<I", (54,), "has a broken BMP header"),
        (18, "<i", (0,), "has an invalid size"),
        (18, "<i", (-5,), "has an invalid size"),
        (22, "<i", (70_000,), "has an invalid size"),
        (22, "<i", (60_000,), "is truncated"),
        (54 + 4 * 7, "<B", (9,), "holds a colour palette"),
        (46, "<I", (300,), "has a broken BMP header"),
    ],
)
def test_an_unsupported_or_invalid_header_is_refused_with_the_reason(
    tmp_path: Path, offset: int, form: str, values: tuple[int, ...], problem: str
) -> None:
    path = corrupted(tmp_path / "a.bmp", offset, form, *values)
    with pytest.raises(ImageFault, match=problem):
        inspect_image(path)


def test_a_file_truncated_at_any_byte_is_refused(tmp_path: Path) -> None:
    whole = bmp(tmp_path / "a.bmp").read_bytes()
    for length in range(2, len(whole)):
        (tmp_path / "a.bmp").write_bytes(whole[:length])
        with pytest.raises(ImageFault):
            inspect_image(tmp_path / "a.bmp")


def test_colours_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.bmp")
    with pytest.raises(ImageFault, match="has 24 bits per pixel"):
        inspect_image(tmp_path / "a.bmp")
