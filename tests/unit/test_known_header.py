"""A header that equals the preceding one is not parsed again; a header with any difference is."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handlers.errors import ImageFault
from handlers.images import header
from handlers.images.header import ImageInfo, KnownHeader, open_descriptor, read_header

SIZE = (40, 30)


@pytest.fixture
def known() -> KnownHeader:
    return KnownHeader()


def tiff(path: Path, *, mode: str = "L") -> Path:
    Image.new(mode, SIZE, 1).save(path)
    return path


def info_of(path: Path, known: KnownHeader, *, mask: bool = False) -> ImageInfo:
    with open_descriptor(path) as descriptor:
        length = os.fstat(descriptor).st_size
        return read_header(descriptor, path, mask=mask, with_layout=True, file_bytes=length, known=known)


def count_parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which each header is added that is parsed from now on."""
    parsed: list[bytes] = []
    original = header._info_and_extent

    def counted(image: int, file_bytes: int, head: bytes, **options: bool) -> object:
        parsed.append(head)
        return original(image, file_bytes, head, **options)

    monkeypatch.setattr(header, "_info_and_extent", counted)
    return parsed


def test_images_with_equal_headers_and_other_pixels_are_parsed_once(tmp_path, known, monkeypatch):
    first, second = tmp_path / "a.tif", tmp_path / "b.tif"
    for path, seed in ((first, 1), (second, 2)):
        pixels = np.random.default_rng(seed).integers(0, 256, SIZE[::-1], np.uint8)
        Image.fromarray(pixels).save(path)
    parsed = count_parsed(monkeypatch)
    assert info_of(first, known) == info_of(second, known)
    assert len(parsed) == 1
    assert info_of(second, known) == info_of(second, KnownHeader())


def test_a_changed_byte_of_the_header_is_noticed(tmp_path, known):
    good = tiff(tmp_path / "good.tif")
    info_of(good, known)
    content = bytearray(good.read_bytes())
    at = content.index(bytes([6, 1, 3, 0, 1, 0, 0, 0, 1, 0])) + 8  # PhotometricInterpretation: BlackIsZero
    content[at] = 0
    (inverted := tmp_path / "inverted.tif").write_bytes(content)
    with pytest.raises(ImageFault, match="inverted"):
        info_of(inverted, known)


def test_a_shorter_file_with_the_same_first_bytes_is_truncated(tmp_path, known):
    good = tiff(tmp_path / "good.tif")
    info_of(good, known)
    (short := tmp_path / "short.tif").write_bytes(good.read_bytes()[:-1])
    with pytest.raises(ImageFault, match="truncated"):
        info_of(short, known)


def test_the_known_header_of_a_mask_is_not_used_for_an_image(tmp_path, known):
    path = tiff(tmp_path / "mask.tif", mode="1")
    assert info_of(path, known, mask=True).bits == 1
    with pytest.raises(ImageFault, match="one bit"):
        info_of(path, known)
