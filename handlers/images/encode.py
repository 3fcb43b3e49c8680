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

from PIL import Image, PngImagePlugin

from handlers.errors import SettingsFault
from handlers.uris import canonical_extension

if TYPE_CHECKING:
    from handlers.images.pixels import Grey

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
PNG_DESCRIPTION = "Description"
"""The key that the PNG specification has for a text about the image, section 11.3.4.2."""
PNG_COMPRESSIONS = tuple(str(level) for level in range(10))

_PILLOW_NAMES = {"tif": "TIFF", "png": "PNG", "jpg": "JPEG"}
FORMATS = tuple(_PILLOW_NAMES)
"""By extension."""

_DESCRIPTION_AT = 134
_DESCRIPTION_BYTES = 186
"""With the NUL at its end. Pixels then begin at a multiple of any vector's length."""
_PLAIN_START = f"<2sHIH120sI{_DESCRIPTION_BYTES}s"
"""Byte order, version and place of the only directory; it, of ten tags of twelve bytes; no other follows; its text."""
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

    def page(self, pixels: "Grey", description: str = "") -> Page:
        """The file of these pixels, with a text in it of ASCII characters."""
        if not self.is_plain:
            return Page(self.encoded(pixels, description), pixels)
        height, width = pixels.shape
        page = plain_page(width, height, pixels.itemsize * 8)
        page.pixels[...] = pixels
        set_description(page, description)
        return page

    def encoded(self, pixels: "Grey", description: str = "") -> bytes:
        """The file's content. Made in memory: Pillow, writing to a file itself, would not notice that a disk took only
        a part."""
        if self.extension == "png" and self.compression is None:
            return _quick_png(pixels, description)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, _PILLOW_NAMES[self.extension], **self._options(description))
        return buffer.getvalue()

    @property
    def jpeg_quality(self) -> int | None:
        """1 to 100; None where the format has none."""
        return (self.quality or DEFAULT_QUALITY) if self.extension == "jpg" else None

    def _options(self, description: str) -> dict[str, Any]:
        """What Pillow is asked for beside the format."""
        if self.extension == "jpg":
            return {"quality": self.jpeg_quality, "comment": description}
        if self.extension == "png":
            text = PngImagePlugin.PngInfo()
            text.add_text(PNG_DESCRIPTION, description)
            return {"compress_level": int(self.compression or 0), "pnginfo": text}
        return {"compression": TIFF_COMPRESSIONS[str(self.compression or "none")], "description": description}


PLAIN_TIFF = Encoding("tif")
"""What every reader of TIFF reads, ImageJ's among them."""


def plain_page(width: int, height: int, bits: int) -> Page:
    """An uncompressed TIFF of one strip, whose pixels are to be set where they are: in the file; so is its text.

    Byte for byte the file that Pillow would write of the same pixels and text.
    """
    pixel_bytes = width * height * bits // 8
    size = ((256, 4, width), (257, 4, height), (258, 3, bits))
    grey = ((259, 3, 1), (262, 3, 1))  # not packed, black is zero
    start = PLAIN_START_BYTES
    one_strip = ((273, 4, start), (278, 4, height), (279, 4, pixel_bytes), (284, 3, 1))
    before, after = (
        b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
        for tags in ((*size, *grey), one_strip)
    )
    entries = before + struct.pack("<HHII", 270, 2, _DESCRIPTION_BYTES, _DESCRIPTION_AT) + after
    content = bytearray(start + pixel_bytes)
    content[:start] = struct.pack(_PLAIN_START, b"II", 42, 8, 10, entries, 0, _plain_description(""))
    import numpy as np

    pixels = np.ndarray((height, width), np.uint8 if bits == 8 else np.uint16, content, start)
    return Page(content, pixels)


def set_description(page: Page, description: str) -> None:
    """Set the text of a page that `plain_page` made."""
    assert isinstance(page.content, bytearray)
    page.content[_DESCRIPTION_AT : _DESCRIPTION_AT + _DESCRIPTION_BYTES] = _plain_description(description)


def _plain_description(text: str) -> bytes:
    """The text, filled up with spaces: pixels then begin at the same place in every file."""
    if len(text) >= _DESCRIPTION_BYTES:
        raise ValueError(f"{text!r} is longer than {_DESCRIPTION_BYTES - 1} characters")
    return text.ljust(_DESCRIPTION_BYTES - 1).encode("ascii") + b"\0"


def _quick_png(pixels: "Grey", description: str) -> bytes:
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
    text = f"{PNG_DESCRIPTION}\0{description}".encode("ascii")
    chunks = (b"IHDR", header), (b"tEXt", text), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Source: PNG specification, section 5.3."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
