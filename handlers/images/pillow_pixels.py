"""Pixels that Pillow decodes, as an array; and those of a JPEG, which have to be all there."""

import io

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from handlers.errors import InvalidImage
from handlers.images.jpeg_stream import with_baits
from handlers.images.pixels import Grey

ROWS_AT_ONCE = 256
"""Handed over by Pillow: of a whole image there would be two more copies for a moment."""


def array_of(image: ImageFile.ImageFile) -> Grey:
    """The pixels of an image whose size was compared with the one expected, (H, W); one bit becomes 0 and 255.

    Raises OSError, or what Pillow raises, if they cannot be decoded.
    """
    # Given its memory, Pillow does not hold the size against a large camera.
    image.im = Image.new(image.mode, image.size, None).im
    image.load()
    grey = image.convert("L") if image.mode == "1" else image
    pixels = np.empty((grey.height, grey.width), np.uint8 if grey.mode == "L" else np.uint16)
    for top in range(0, grey.height, ROWS_AT_ONCE):
        rows = grey.crop((0, top, grey.width, min(top + ROWS_AT_ONCE, grey.height)))
        pixels[top : top + ROWS_AT_ONCE] = np.asarray(rows)
    return pixels


def jpeg_pixels(content: bytes) -> Grey:
    """The pixels of a grey JPEG, (H, W).

    Raises
    ------
    InvalidImage
        If its data end before its last row, which libjpeg would decode to grey.
    """
    pixels, others = (array_of(JpegImagePlugin.JpegImageFile(io.BytesIO(one))) for one in with_baits(content))
    if not np.array_equal(pixels, others):
        raise InvalidImage("is cut short: its JPEG data end before its last row")
    return pixels
