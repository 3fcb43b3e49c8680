"""Decoding by Pillow into an array. Incomplete JPEG data are refused."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from handlers.errors import InvalidImage
from handlers.images.jpeg_stream import with_fillers
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
    # If the memory is allocated here, Pillow does not refuse the frames of large cameras.
    image.im = Image.new(image.mode, image.size, None).im
    image.load()
    grey = image.convert("L") if image.mode == "1" else image
    pixels = np.empty((grey.height, grey.width), np.uint8 if grey.mode == "L" else np.uint16)
    for top in range(0, grey.height, ROWS_AT_ONCE):
        rows = grey.crop((0, top, grey.width, min(top + ROWS_AT_ONCE, grey.height)))
        pixels[top : top + ROWS_AT_ONCE] = np.asarray(rows)
    return pixels


def jpeg_pixels(content: bytes) -> Grey:
    """Return the pixels of a grey JPEG, (H, W), uint8.

    Raises
    ------
    InvalidImage
        If the data end before the last row: libjpeg would decode the rest to grey without an error.
    """
    pixels, others = (array_of(JpegImagePlugin.JpegImageFile(io.BytesIO(stream))) for stream in with_fillers(content))
    if not np.array_equal(pixels, others):
        raise InvalidImage("is truncated: its JPEG data end before its last row")
    return pixels
