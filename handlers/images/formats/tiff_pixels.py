"""Reading the pixels of a TIFF with a known layout.

Uncompressed pixels are read from the file. Compressed pixels are decoded by libtiff and libjpeg through Pillow, from a
simple TIFF that is made by the layout, so that only `tiff_header` interprets the original header.
"""

import io
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import TiffImagePlugin

from handlers.errors import InvalidImage
from handlers.images.formats import tiff_compression
from handlers.images.formats.pillow_pixels import array_of, jpeg_pixels
from handlers.images.formats.tiff_header import TiffLayout
from handlers.images.opened import Opened, pread
from handlers.images.pixels import Grey

Bytes = npt.NDArray[np.uint8]

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Byte -> byte with reversed bits."""
_SHORT, _LONG = 3, 4
CUT_SHORT = "the file became shorter while it was read"


def tiff_pixels(image: Opened, layout: TiffLayout) -> Grey:
    """Return the image, (H, W), uint8 or uint16. One bit per pixel becomes 0 or 255.

    Raises
    ------
    InvalidImage
        If compressed data are broken, or end before the last row.
    EOFError
        If the file became shorter while it was read.
    OSError
        If it cannot be read.
    """
    if layout.compression == tiff_compression.NONE:
        return _as_values(_plain_bytes(image, layout), layout)
    if layout.compression == tiff_compression.JPEG:
        return _of_jpeg(image, layout)
    return _by_libtiff(image, layout)


def _piece(image: Opened, layout: TiffLayout, index: int) -> bytes:
    """Return the bytes of a strip or tile, with the highest bit of each byte first."""
    content = pread(image, layout.lengths[index], layout.offsets[index])
    while len(content) < layout.lengths[index]:
        more = pread(image, layout.lengths[index] - len(content), layout.offsets[index] + len(content))
        if not more:
            raise EOFError(CUT_SHORT)
        content += more
    # Like libtiff, do not reverse the bits of JPEG data.
    is_reversed = layout.has_reversed_bits and layout.compression != tiff_compression.JPEG
    return content.translate(_REVERSED) if is_reversed else content


def _places(layout: TiffLayout) -> Iterator[tuple[int, int, int]]:
    """Yield index, top row and left column of each piece."""
    across = -(-layout.width // layout.piece_width)
    for index in range(len(layout.offsets)):
        row, column = divmod(index, across)
        yield index, row * layout.piece_height, column * layout.piece_width


def _plain_bytes(image: Opened, layout: TiffLayout) -> Bytes:
    """Return the rows of the image as stored, (H, bytes)."""
    rows = np.empty((layout.height, (layout.width * layout.bits + 7) // 8), np.uint8)
    for index, top, left in _places(layout):
        piece = np.frombuffer(_piece(image, layout, index), np.uint8).reshape(-1, layout.row_bytes)
        place = rows[top : top + layout.piece_height, left * layout.bits // 8 :][:, : layout.row_bytes]
        place[...] = piece[: place.shape[0], : place.shape[1]]
    return rows


def _as_values(rows: Bytes, layout: TiffLayout) -> Grey:
    if layout.bits == 1:
        bits = np.unpackbits(rows, axis=1, count=layout.width)
        return np.where(bits == layout.is_white_zero, np.uint8(0), np.uint8(255))
    if layout.bits == 8:
        return rows
    return rows.view(f"{layout.order}u2").astype(np.uint16, copy=False)


def _of_jpeg(image: Opened, layout: TiffLayout) -> Grey:
    pixels = np.empty((layout.height, layout.width), np.uint8)
    for index, top, left in _places(layout):
        content = _piece(image, layout, index)
        if layout.jpeg_tables:  # they are a separate stream without pixels
            content = layout.jpeg_tables[: layout.jpeg_tables.rindex(b"\xff\xd9")] + content[2:]
        piece = jpeg_pixels(content)
        if piece.shape == pixels.shape:
            return piece
        place = pixels[top : top + layout.piece_height, left : left + layout.piece_width]
        place[...] = piece[: place.shape[0], : place.shape[1]]
    return pixels


def _by_libtiff(image: Opened, layout: TiffLayout) -> Grey:
    plain = TiffImagePlugin.TiffImageFile(_plain_tiff(image, layout))
    try:
        return array_of(plain)
    except OSError as error:
        name = tiff_compression.name_of(layout.compression)
        raise InvalidImage(f"cannot be decoded: its {name} data are broken or end too early") from error


def _plain_tiff(image: Opened, layout: TiffLayout) -> io.BytesIO:
    """Return a TIFF with the same encoded pixels and a minimal header."""
    offsets, content = [], io.BytesIO(bytes(8))
    content.seek(8)
    for index in range(len(layout.offsets)):
        offsets.append(content.tell())
        content.write(_piece(image, layout, index))
    content.write(bytes(content.tell() % 2))
    shape = (322, 323) if layout.is_tiled else (256, 278)
    tags: dict[int, tuple[int, tuple[int, ...]]] = {
        shape[0]: (_LONG, (layout.piece_width,)),
        shape[1]: (_LONG, (layout.piece_height,)),
        256: (_LONG, (layout.width,)),
        257: (_LONG, (layout.height,)),
        258: (_SHORT, (layout.bits,)),
        259: (_SHORT, (layout.compression,)),
        262: (_SHORT, (0 if layout.is_white_zero else 1,)),
        277: (_SHORT, (1,)),
        317: (_SHORT, (layout.predictor,)),
        324 if layout.is_tiled else 273: (_LONG, tuple(offsets)),
        325 if layout.is_tiled else 279: (_LONG, layout.lengths),
    }
    mark = b"II*\0" if layout.order == "<" else b"MM\0*"
    directory_at = content.tell()
    content.write(_directory(tags, directory_at, layout.order))
    content.seek(0)
    content.write(mark + struct.pack(f"{layout.order}I", directory_at))
    content.seek(0)
    return content


def _directory(tags: dict[int, tuple[int, tuple[int, ...]]], at: int, order: str) -> bytes:
    """Return a TIFF directory for an offset, followed by the values that do not fit into its entries."""
    behind = at + 2 + 12 * len(tags) + 4
    entries, values = struct.pack(f"{order}H", len(tags)), b""
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == _SHORT else 'I'}", *numbers)
        entries += struct.pack(f"{order}HHI", tag, kind, len(numbers))
        if len(packed) <= 4:
            entries += packed.ljust(4, b"\0")
        else:
            entries += struct.pack(f"{order}I", behind + len(values))
            values += packed
    return entries + bytes(4) + values
