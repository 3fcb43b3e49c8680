"""Decoding by Pillow into an array. Incomplete JPEG data are refused."""

import struct
import zlib
from collections.abc import Mapping
from typing import Final

import numpy as np
import xxhash
from PIL import Image, ImageFile, JpegImagePlugin

from handlers.errors import InvalidImage
from handlers.images.formats.jpeg_stream import with_fillers
from handlers.images.pixels import Grey

UNREADABLE = (
    *(SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)
"""Errors of Pillow for invalid content; it also raises OSError without an errno."""
_TYPES: Final[Mapping[str, str]] = {"1": "u1", "L": "u1", "I;16": "<u2", "I;16B": ">u2"}
"""Pillow's name for pixels -> type of an array with the same bytes. Of one bit, each byte is 0 or 255."""


def array_of(image: ImageFile.ImageFile) -> Grey:
    """Return the pixels of an image, (H, W), uint8 or uint16. One bit becomes 0 or 255. The caller checks the size.

    Raises OSError, or another error of Pillow, if the pixels cannot be decoded.
    """
    pixels = np.empty((image.height, image.width), _TYPES[image.mode])
    _decode_into(pixels, image)
    return pixels if pixels.dtype.isnative else pixels.byteswap(inplace=True).view(np.uint16)


def _decode_into(pixels: Grey, image: ImageFile.ImageFile) -> None:
    """Have Pillow decode into an array, without a copy. If it allocated the memory, it would refuse large frames."""
    mode = "L" if image.mode == "1" else image.mode
    memory = Image.frombuffer(mode, image.size, pixels, "raw", mode, 0, 1)
    image.im = memory.im
    is_shared = _is_shared(pixels, memory)
    image.load()
    if not is_shared or image.im is not memory.im:  # another version of Pillow, which decodes into memory of its own
        pixels[...] = np.asarray(image.convert("L") if image.mode == "1" else image)


def _is_shared(pixels: Grey, memory: Image.Image) -> bool:
    """Whether an image has the memory of an array. Changes the first pixel."""
    before = memory.getpixel((0, 0))
    pixels[0, 0] ^= 1
    return memory.getpixel((0, 0)) != before


def jpeg_pixels(content: bytes) -> Grey:
    """Return the pixels of a grey JPEG, (H, W), uint8.

    Raises
    ------
    InvalidImage
        If the data end before the last row: libjpeg would decode the rest to grey without an error.
    """
    first, second = map(JpegImagePlugin.JpegImageFile, with_fillers(content))
    pixels = array_of(first)
    digest = xxhash.xxh3_128_digest(pixels.data)
    _decode_into(pixels, second)  # the same memory: the digest shows whether a pixel differs
    if xxhash.xxh3_128_digest(pixels.data) != digest:
        raise InvalidImage("is truncated: its JPEG data end before its last row")
    return pixels
