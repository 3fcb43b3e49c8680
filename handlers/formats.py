"""Image file formats that levels are written in: what each can hold, and how it packs the pixels. Does no input or
output.

Most who name a format write no file: numpy is imported where pixels are packed.
"""

import io
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from PIL import Image

from handlers.errors import SettingsFault
from handlers.uris import canonical_extension

if TYPE_CHECKING:
    from handlers.greyvalues import Grey

DEFAULT_QUALITY = 95

TIFF_COMPRESSIONS: Mapping[str, str | None] = MappingProxyType(
    {
        "none": None,
        "lzw": "tiff_lzw",
        "deflate": "tiff_adobe_deflate",
        "zip": "tiff_adobe_deflate",
        "packbits": "packbits",
    }
)
"""Those that ImageJ reads, through which render-ws does, and Pillow's names for them. Uncompressed is one strip."""
PNG_COMPRESSIONS = tuple(str(level) for level in range(10))

_PILLOW_NAMES = {"tif": "TIFF", "png": "PNG", "jpg": "JPEG"}
FORMATS = tuple(_PILLOW_NAMES)
"""By extension."""

_PLAIN_START = "<2sHIH108sI"
"""Byte order, version and place of the only directory; it, of nine tags of twelve bytes; no other follows."""
PLAIN_START_BYTES = struct.calcsize(_PLAIN_START)
"""Of an uncompressed TIFF, before its pixels."""


@dataclass(frozen=True, slots=True)
class Page:
    """A file in memory, and its pixels."""

    content: bytes | bytearray
    pixels: "Grey"

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels: L, or I;16."""
        return "L" if self.pixels.itemsize == 1 else "I;16"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a level becomes a file.

    Parameters
    ----------
    format : tif, tiff, png, jpg or jpeg.
    quality : of jpg, 1 to 100; None is 95.
    compression : of tif none, lzw, deflate (or zip) or packbits; of png 0 (none) to 9 (smallest); None is none for tif,
        and a quick one for png, whose files are hardly larger. All of them give the pixels back as they were.

    Raises
    ------
    SettingsFault
        If there is no such format, or it has no such quality or compression.

    >>> Encoding("tiff", compression="lzw").extension
    'tif'
    """

    format: str = "tif"
    quality: int | None = None
    compression: str | int | None = None

    def __post_init__(self) -> None:
        extension = canonical_extension(self.format)
        if self.quality is not None:
            if extension != "jpg":
                raise SettingsFault("mipmaps.quality", f"{extension} has none", "it goes with format jpg")
            if isinstance(self.quality, bool) or not 1 <= self.quality <= 100:
                raise SettingsFault("mipmaps.quality", f"{self.quality} is not 1 to 100")
        known = {"tif": tuple(TIFF_COMPRESSIONS), "png": PNG_COMPRESSIONS, "jpg": ()}[extension]
        if self.compression is not None and str(self.compression) not in known:
            problem = f"{self.compression!r} is not one of {', '.join(known)}" if known else "jpg has none"
            raise SettingsFault("mipmaps.compression", problem, "" if known else "it has a quality")

    @property
    def extension(self) -> str:
        """Extension of the files: tif, png or jpg."""
        return canonical_extension(self.format)

    @property
    def lossless(self) -> bool:
        """Whether the pixels come back as they were."""
        return self.extension != "jpg"

    @property
    def is_plain(self) -> bool:
        """Whether the files are those that `plain_page` makes."""
        return self.extension == "tif" and self.compression in (None, "none") and sys.byteorder == "little"

    @property
    def depths(self) -> frozenset[int]:
        """Bits per pixel that it can hold."""
        return frozenset({8, 16}) if self.lossless else frozenset({8})

    def page(self, pixels: "Grey") -> Page:
        """The file of these pixels."""
        if not self.is_plain:
            return Page(self.encoded(pixels), pixels)
        height, width = pixels.shape
        page = plain_page(width, height, pixels.itemsize * 8)
        page.pixels[...] = pixels
        return page

    def encoded(self, pixels: "Grey") -> bytes:
        """The file's content. Made in memory: Pillow, writing to a file itself, would not notice that a disk took only
        a part."""
        if self.extension == "png" and self.compression is None:
            return _quick_png(pixels)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, _PILLOW_NAMES[self.extension], **self._options())
        return buffer.getvalue()

    def _options(self) -> dict[str, Any]:
        """What Pillow is asked for beside the format."""
        if self.extension == "jpg":
            return {"quality": self.quality or DEFAULT_QUALITY}
        if self.compression is None:
            return {}
        if self.extension == "png":
            return {"compress_level": int(self.compression)}
        return {"compression": TIFF_COMPRESSIONS[str(self.compression)]}


PLAIN_TIFF = Encoding("tif")
"""What every reader of TIFF reads, ImageJ's among them."""


def plain_page(width: int, height: int, bits: int) -> Page:
    """An uncompressed TIFF of one strip, whose pixels are to be set where they are: in the file.

    Byte for byte the file that Pillow would write of the same pixels.
    """
    pixel_bytes = width * height * bits // 8
    size = ((256, 4, width), (257, 4, height), (258, 3, bits))
    grey = ((259, 3, 1), (262, 3, 1))  # not packed, black is zero
    start = PLAIN_START_BYTES
    one_strip = ((273, 4, start), (278, 4, height), (279, 4, pixel_bytes), (284, 3, 1))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in (*size, *grey, *one_strip))
    content = bytearray(start + pixel_bytes)
    content[:start] = struct.pack(_PLAIN_START, b"II", 42, 8, 9, entries, 0)
    import numpy as np

    pixels = np.ndarray((height, width), np.uint8 if bits == 8 else np.uint16, content, start)
    return Page(content, pixels)


def _quick_png(pixels: "Grey") -> bytes:
    """A PNG file of differences between neighbours, packed without a search for repetitions.

    There are hardly any in the noise of a microscope: the search takes four fifths of an encoder's time, and saves 2 %.
    """
    import numpy as np

    height, width = pixels.shape
    pixel_bytes = pixels.itemsize
    rows = pixels.astype(">u2" if pixel_bytes == 2 else np.uint8, copy=False).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # filter type Sub: the difference to the pixel on the left
    filtered[:, 1 : 1 + pixel_bytes] = rows[:, :pixel_bytes]
    np.subtract(rows[:, pixel_bytes:], rows[:, :-pixel_bytes], out=filtered[:, 1 + pixel_bytes :])
    packer = zlib.compressobj(6, memLevel=9, strategy=zlib.Z_RLE)
    packed = packer.compress(filtered.data) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * pixel_bytes, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Source: PNG specification, section 5.3."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
