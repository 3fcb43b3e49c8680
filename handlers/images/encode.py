"""File formats of levels: their options, and encoding of pixels to bytes. No input or output.

Most modules that import this one only name a format, so numpy and Pillow are imported in the functions that need them.
"""

import io
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from handlers.errors import SettingsFault
from handlers.parcel import Parcel
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
"""Compressions that render-ws reads (through ImageJ) -> Pillow's names. An uncompressed file has one strip."""
PNG_DESCRIPTION = "Description"
"""Keyword of the text in a PNG file. Source: PNG specification, section 11.3.4.2."""
PNG_COMPRESSIONS = tuple(str(level) for level in range(10))
_WINDOW_BITS = 9
"""Repetitions are searched in 512 bytes."""

_PILLOW_NAMES = {"tif": "TIFF", "png": "PNG", "jpg": "JPEG"}
FORMATS = tuple(_PILLOW_NAMES)
"""Extensions of the formats."""

_DESCRIPTION_AT = 134
_DESCRIPTION_BYTES = 186
"""Bytes of the description and its final NUL: then the offset of the pixels is a multiple of any vector length."""
_PLAIN_START = f"<2sHIH120sI{_DESCRIPTION_BYTES}s"
"""Byte order, version, offset of the directory; ten tags of twelve bytes; no further directory; the text."""
PLAIN_START_BYTES = struct.calcsize(_PLAIN_START)
"""Bytes of an uncompressed TIFF before its pixels."""


@dataclass(frozen=True, slots=True)
class Page:
    """A level's file in memory, and its pixels."""

    content: bytes | bytearray
    pixels: "Grey"
    """(H, W); a view of the content if `plain_page` made the file."""

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels: L, or I;16."""
        return "L" if self.pixels.itemsize == 1 else "I;16"


@dataclass(frozen=True, slots=True)
class Encoding(Parcel):
    """Format and options of a level's file.

    Parameters
    ----------
    format : tif, tiff, png, jpg or jpeg.
    quality : quality of jpg, 1 to 100; None: 95.
    compression : tif: none, lzw, deflate (or zip) or packbits; None: none. png: 0 (none) to 9 (smallest); None: a fast
        compression, whose files are hardly larger. All are lossless.

    Raises
    ------
    SettingsFault
        If the format is unknown, or does not have this quality or compression.

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
                raise SettingsFault(
                    "mipmaps.quality",
                    f"{extension} has none",
                    "only jpg has a quality",
                )
            if isinstance(self.quality, bool) or not 1 <= self.quality <= 100:
                raise SettingsFault("mipmaps.quality", f"{self.quality} is not 1 to 100")
        known = {"tif": tuple(TIFF_COMPRESSIONS), "png": PNG_COMPRESSIONS, "jpg": ()}[extension]
        if self.compression is not None and str(self.compression) not in known:
            problem = f"{self.compression!r} is not one of {', '.join(known)}" if known else "jpg has none"
            raise SettingsFault("mipmaps.compression", problem, "" if known else "set mipmaps.quality")

    @property
    def extension(self) -> str:
        """Extension of the files: tif, png or jpg."""
        return canonical_extension(self.format)

    @property
    def lossless(self) -> bool:
        """Whether decoding gives the same pixels."""
        return self.extension != "jpg"

    @property
    def is_plain(self) -> bool:
        """Whether the files are uncompressed TIFFs, which `plain_page` makes."""
        return self.extension == "tif" and self.compression in (None, "none") and sys.byteorder == "little"

    @property
    def depths(self) -> frozenset[int]:
        """Possible bits per pixel."""
        return frozenset({8, 16}) if self.lossless else frozenset({8})

    def page(self, pixels: "Grey", description: str = "") -> Page:
        """Return the file of these pixels, (H, W), uint8 or uint16, with a description in ASCII."""
        if not self.is_plain:
            return Page(self.encoded(pixels, description), pixels)
        height, width = pixels.shape
        page = plain_page(width, height, pixels.itemsize * 8)
        page.pixels[...] = pixels
        set_description(page, description)
        return page

    def encoded(self, pixels: "Grey", description: str = "") -> bytes:
        """Return the content of the file of these pixels.

        It is made in memory, since Pillow does not notice if a disk stores only a part of a file.
        """
        if self.extension == "png" and self.compression is None:
            return _quick_png(pixels, description)
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, _PILLOW_NAMES[self.extension], **self._options(description))
        return buffer.getvalue()

    @property
    def jpeg_quality(self) -> int | None:
        """Quality of a jpg file, 1 to 100; None for other formats."""
        return (self.quality or DEFAULT_QUALITY) if self.extension == "jpg" else None

    def _options(self, description: str) -> dict[str, Any]:
        """Return Pillow's options for saving."""
        if self.extension == "jpg":
            return {"quality": self.jpeg_quality, "comment": description}
        if self.extension == "png":
            from PIL import PngImagePlugin

            text = PngImagePlugin.PngInfo()
            text.add_text(PNG_DESCRIPTION, description)
            return {"compress_level": int(self.compression or 0), "pnginfo": text}
        return {"compression": TIFF_COMPRESSIONS[str(self.compression or "none")], "description": description}


PLAIN_TIFF = Encoding("tif")
"""Uncompressed TIFF, which every reader of TIFF supports, including ImageJ."""


def plain_page(width: int, height: int, bits: int) -> Page:
    """Return an uncompressed TIFF of one strip. The caller sets its pixels, a view of the content, and its description.

    The content equals byte for byte the file that Pillow would write.
    """
    pixel_bytes = width * height * bits // 8
    size = ((256, 4, width), (257, 4, height), (258, 3, bits))
    grey = ((259, 3, 1), (262, 3, 1))  # not compressed, black is zero
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
    """Set the description of a page that `plain_page` made."""
    assert isinstance(page.content, bytearray)
    page.content[_DESCRIPTION_AT : _DESCRIPTION_AT + _DESCRIPTION_BYTES] = _plain_description(description)


def _plain_description(text: str) -> bytes:
    """Return the description padded with spaces, so that pixels start at the same offset in every file."""
    if len(text) >= _DESCRIPTION_BYTES:
        raise ValueError(f"{text!r} is longer than {_DESCRIPTION_BYTES - 1} characters")
    return text.ljust(_DESCRIPTION_BYTES - 1).encode("ascii") + b"\0"


def _quick_png(pixels: "Grey", description: str) -> bytes:
    """Return a PNG file of differences between neighbours, compressed with a search for near repetitions only.

    The noise of a microscope has hardly any repetitions: those further away cost more bits than they save.
    """
    import numpy as np
    from isal import isal_zlib

    height, width = pixels.shape
    pixel_bytes = pixels.itemsize
    rows = pixels.astype(">u2" if pixel_bytes == 2 else np.uint8, copy=False).view(np.uint8)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 1  # filter type Sub: the difference to the pixel on the left
    filtered[:, 1 : 1 + pixel_bytes] = rows[:, :pixel_bytes]
    np.subtract(rows[:, pixel_bytes:], rows[:, :-pixel_bytes], out=filtered[:, 1 + pixel_bytes :])
    packer = isal_zlib.compressobj(1, wbits=_WINDOW_BITS)
    packed = packer.compress(filtered.data) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8 * pixel_bytes, 0, 0, 0, 0)
    text = f"{PNG_DESCRIPTION}\0{description}".encode("ascii")
    chunks = (b"IHDR", header), (b"tEXt", text), (b"IDAT", packed), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk. Source: PNG specification, section 5.3."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
