"""Decoding by Pillow into an array. Incomplete JPEG data are refused."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from handlers.errors import InvalidImage
from handlers.images.formats.jpeg_stream import with_fillers
from handlers.images.pixels import Grey

UNREADABLE = (
    *(SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)
"""Errors of Pillow for invalid content; it also raises OSError without an errno."""
ROWS_AT_ONCE = 256
"""Rows that are copied from Pillow in one call: copying a whole image would need memory for two more copies."""


def array_of(image: ImageFile.ImageFile) -> Grey:
    """Return the pixels of an image, (H, W), uint8 or uint16. One bit becomes 0 or 255. The caller checks the size.

    Raises OSError, or another error of Pillow, if the pixels cannot be decoded.
    """
    grey = _decoded(image)
    pixels = np.empty((grey.height, grey.width), np.uint8 if grey.mode == "L" else np.uint16)
    for top, rows in _bands(grey):
        pixels[top : top + len(rows)] = rows
    return pixels


def _decoded(image: ImageFile.ImageFile) -> Image.Image:
    # If the memory is allocated here, Pillow does not refuse the frames of large cameras.
    image.im = Image.new(image.mode, image.size, None).im
    image.load()
    return image.convert("L") if image.mode == "1" else image


def _bands(image: Image.Image) -> Iterator[tuple[int, Grey]]:
    """Yield some rows after the other, with the number of their first row."""
    for top in range(0, image.height, ROWS_AT_ONCE):
        yield top, np.asarray(image.crop((0, top, image.width, min(top + ROWS_AT_ONCE, image.height))))


def jpeg_pixels(content: bytes) -> Grey:
    """Return the pixels of a grey JPEG, (H, W), uint8.

    Raises
    ------
    InvalidImage
        If the data end before the last row: libjpeg would decode the rest to grey without an error.
    """
    images = (JpegImagePlugin.JpegImageFile(io.BytesIO(stream)) for stream in with_fillers(content))
    pixels = array_of(next(images))
    for top, rows in _bands(_decoded(next(images))):
        if not np.array_equal(pixels[top : top + len(rows)], rows):
            raise InvalidImage("is truncated: its JPEG data end before its last row")
    return pixels
