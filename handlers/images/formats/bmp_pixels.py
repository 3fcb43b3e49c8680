"""Pixels of grey BMP files."""

import numpy as np

from handlers.errors import InvalidImage
from handlers.images.formats.bmp_header import read_bmp_header
from handlers.images.opened import Opened, pread
from handlers.images.pixels import Grey


def bmp_pixels(image: Opened, file_bytes: int) -> Grey:
    """Return the pixels of a grey BMP, (H, W), axis 0 from the top. Raises InvalidImage as `read_bmp_header`."""
    header = read_bmp_header(image, file_bytes)
    length = header.row_bytes * header.height
    content = pread(image, length, header.offset)
    while len(content) < length:
        piece = pread(image, length - len(content), header.offset + len(content))
        if not piece:
            raise InvalidImage("is truncated: its BMP rows end before the last one")
        content += piece
    rows = np.frombuffer(content, np.uint8).reshape(header.height, header.row_bytes)[:, : header.width]
    return np.ascontiguousarray(rows[::-1] if header.is_bottom_up else rows)
