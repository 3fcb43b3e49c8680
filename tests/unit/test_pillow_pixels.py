"""Pillow decodes into the array of the pixels; a version that decodes into memory of its own gives the same pixels."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from handlers.images.formats.pillow_pixels import array_of, jpeg_pixels
from handlers.images.pixels import Grey

BITS, BYTES, WORDS = "1", "L", "I;16"


def encoded(mode: str, kind: str) -> tuple[bytes, Grey]:
    """An image of 7 x 5 pixels, and its pixels."""
    draw = np.random.default_rng(5)
    values = draw.integers(0, {BITS: 2, BYTES: 256, WORDS: 65536}[mode], (5, 7))
    pixels = (values * 255 if mode == BITS else values).astype(np.uint16 if mode == WORDS else np.uint8)
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert("1") if mode == BITS else image).save(file, kind)
    return file.getvalue(), pixels


def copies_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "frombuffer", lambda mode, size, data, *rest: Image.frombytes(mode, size, bytes(data)))


def replaces_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(self: Any) -> None:
        self.im = Image.core.new(self.mode, self.size)

    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", prepare)


def is_as_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


VERSIONS = [is_as_locked, copies_at_the_start, replaces_the_memory]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("mode", "kind"), [(BITS, "png"), (BYTES, "png"), (WORDS, "png"), (BYTES, "tiff")])
def test_every_version_of_pillow_gives_the_pixels(
    monkeypatch: pytest.MonkeyPatch, version: Callable[[pytest.MonkeyPatch], None], mode: str, kind: str
) -> None:
    content, pixels = encoded(mode, kind)
    version(monkeypatch)
    assert np.array_equal(array_of(Image.open(io.BytesIO(content))), pixels)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_of_pillow_gives_the_pixels_of_a_jpeg(
    monkeypatch: pytest.MonkeyPatch, version: Callable[[pytest.MonkeyPatch], None]
) -> None:
    content, _ = encoded(BYTES, "jpeg")
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    version(monkeypatch)
    assert np.array_equal(jpeg_pixels(content), pixels)
