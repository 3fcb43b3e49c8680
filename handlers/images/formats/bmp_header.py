"""Headers of BMP files, of which uncompressed 8-bit grey values are supported.

Rows are padded to four bytes, and the lowest comes first unless the height is negative. Source: Microsoft,
BITMAPFILEHEADER and BITMAPINFOHEADER.
"""

import struct
from typing import Final, NamedTuple

from handlers.errors import InvalidImage
from handlers.images.opened import Opened, Run, pread

MAGIC: Final = b"BM"
_HEADERS_BYTES: Final = 54
_PALETTE: Final = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
_MAX_SIDE: Final = 65536
_MAX_INFO_BYTES: Final = 1024


class BmpHeader(NamedTuple):
    """Header of a grey BMP."""

    width: int
    height: int
    is_bottom_up: bool
    offset: int
    """Offset of the first row in the file."""

    @property
    def row_bytes(self) -> int:
        """Bytes of a row with its padding."""
        return -(-self.width // 4) * 4

    def runs(self) -> tuple[Run, ...]:
        """Return the runs of rows, from the top of the image."""
        if self.row_bytes == self.width and not self.is_bottom_up:
            return (Run(self.offset, self.height),)
        rows = range(self.height)
        return tuple(Run(self.offset + row * self.row_bytes, 1) for row in (rows[::-1] if self.is_bottom_up else rows))


def read_bmp_header(image: Opened, file_bytes: int) -> BmpHeader:
    """Return the header of a grey BMP file, which is long enough for all of its rows.

    Raises
    ------
    InvalidImage
        If the header is invalid, the image has colours or is compressed, or the file is truncated.
    """
    head = pread(image, _HEADERS_BYTES, 0)
    if len(head) < _HEADERS_BYTES:
        raise InvalidImage("is truncated: its BMP header does not end")
    offset, info_bytes, width, height, planes, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if head[:2] != MAGIC or planes != 1 or not 40 <= info_bytes <= _MAX_INFO_BYTES:
        raise InvalidImage("has a broken BMP header")
    if bits != 8:
        raise InvalidImage(f"has {bits} bits per pixel in a BMP file, which is not supported", "save it as 8-bit grey")
    if compression != 0:
        raise InvalidImage("is a compressed BMP file, which is not supported", "save it uncompressed")
    if not (0 < width <= _MAX_SIDE and 0 < abs(height) <= _MAX_SIDE):
        raise InvalidImage(f"has an invalid size of {width}x{abs(height)} pixels")
    colours_used = struct.unpack_from("<I", head, 46)[0] or 256
    _require_grey(image, 14 + info_bytes, colours_used)
    header = BmpHeader(width, abs(height), height > 0, offset)
    _require_length(header, 14 + info_bytes + 4 * colours_used, file_bytes)
    return header


def _require_grey(image: Opened, palette_at: int, colours: int) -> None:
    """Raise InvalidImage unless the palette maps every value to the grey of the same number."""
    if not 0 < colours <= 256:
        raise InvalidImage("has a broken BMP header")
    palette = pread(image, 4 * colours, palette_at)
    if len(palette) < 4 * colours:
        raise InvalidImage("is truncated: its BMP palette does not end")
    if any(palette[channel::4] != _PALETTE[channel : 4 * colours : 4] for channel in range(3)):
        raise InvalidImage("holds a colour palette, not grey values", "save it as grey")


def _require_length(header: BmpHeader, min_offset: int, file_bytes: int) -> None:
    if header.offset < min_offset:
        raise InvalidImage("has a broken BMP header")
    needed = header.offset + header.row_bytes * header.height
    if file_bytes < needed:
        raise InvalidImage(f"is truncated: should have {needed} bytes, has {file_bytes}")
