"""Headers of TIFF files: size, depth and coding of the pixels, and their offsets in the file."""

import functools
import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from handlers.errors import InvalidImage
from handlers.images.formats import jpeg_stream, tiff_compression
from handlers.images.opened import Opened, Run, pread

HEAD_BYTES = 4096
"""Bytes of the first read of a file: one page, since disks and file servers do not read less."""
MAX_TAGS = 4096
MAX_PIECES = 1 << 20
"""Largest number of strips or tiles; a larger one means a broken header."""
MAX_JPEG_PIECES = 4096
MAX_JPEG_SEGMENTS = 64
"""Limit of the segments in the header of one strip or tile. Each segment costs a read."""
MAX_TILE_PIXELS = 1 << 22
"""Limit of a tile: the larger of this and four times the pixels of the image. Larger tiles would only need memory."""

NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"

_INTEGERS = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 6: (1, "b"), 8: (2, "h"), 9: (4, "i"), 16: (8, "Q")}
"""Integer types of TIFF: number -> (size, letter of struct)."""
_BYTES = {1: (1, "B"), 7: (1, "B")}
"""Types of uninterpreted bytes: BYTE and UNDEFINED, which is no number to other readers either."""
_NUMBERS = {2: "signed integers", 3: "floating point numbers", 5: "complex integers", 6: "complex numbers"}
"""SampleFormat -> name, except for unsigned integers."""
_NAMES = {
    256: "ImageWidth",
    257: "ImageLength",
    262: "PhotometricInterpretation",
    273: "StripOffsets",
    279: "StripByteCounts",
    322: "TileWidth",
    323: "TileLength",
    325: "TileByteCounts",
}
"""Required tags."""
_HINT = "save it uncompressed, or with LZW, Deflate or PackBits"


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Size, depth and coding of the pixels of a TIFF, and their offsets in the file."""

    width: int
    height: int
    bits: int
    """Bits per pixel: 8 or 16; 1 in a mask."""
    is_white_zero: bool
    order: str
    """Byte order of numbers: < or >, as in struct."""
    has_reversed_bits: bool
    """Whether the first bit of a byte is the lowest."""
    compression: int
    predictor: int
    """1: none; 2: pixels are stored as differences from the pixel on the left."""
    is_tiled: bool
    piece_width: int
    """Width of a strip or tile; strips are as wide as the image."""
    piece_height: int
    """The last strip may have fewer rows; tiles are padded."""
    offsets: tuple[int, ...]
    """Offsets of the strips or tiles, row by row; `lengths` has the same order."""
    lengths: tuple[int, ...]
    """Bytes of each piece that are used; uncompressed pieces may be longer in the file."""
    jpeg_tables: bytes = b""
    """JPEG tables shared by all pieces."""

    @property
    def row_bytes(self) -> int:
        """Bytes per row of an uncompressed piece."""
        return (self.piece_width * self.bits + 7) // 8

    def rows_of(self, index: int) -> int:
        """Return the number of rows of a piece; the last strip may have fewer than the others."""
        return self.piece_height if self.is_tiled else min(self.piece_height, self.height - index * self.piece_height)

    def runs(self) -> tuple[Run, ...]:
        """Return the rows as runs if the file stores them uncompressed in native byte order; else ()."""
        is_plain = self.compression == tiff_compression.NONE and not self.is_tiled and not self.has_reversed_bits
        if not is_plain or self.bits == 1 or (self.bits == 16 and self.order != NATIVE_ORDER):
            return ()
        runs: list[Run] = []
        for index, offset in enumerate(self.offsets):
            rows = self.rows_of(index)
            if runs and runs[-1].offset + runs[-1].rows * self.row_bytes == offset:
                runs[-1] = Run(runs[-1].offset, runs[-1].rows + rows)
            else:
                runs.append(Run(offset, rows))
        return tuple(runs)


def require_grey(bits: int, *, mask: bool) -> None:
    """Raise InvalidImage if an image, or a mask, with this number of bits per pixel is not supported."""
    if bits not in (8, 16) and not (mask and bits == 1):
        kind = "one bit" if bits == 1 else f"{bits} bits"
        raise InvalidImage(
            f"has {kind} per pixel",
            "save a grey image with 8 or 16, a mask with 8 or 1" if mask else "save it with 8 or 16",
        )
    if mask and bits == 16:
        raise InvalidImage("is a mask with 16 bits per pixel", "save it with 8: 0 where clear, 255 where opaque")


class TiffHeader:
    """The first directory of a TIFF or BigTIFF file.

    Source: TIFF 6.0, sections 2 to 15. BigTIFF, and values that TIFF does not define, are read as libtiff does.
    """

    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 256, 257, 258, 259, 262, 277, 339
    ORIENTATION, FILL_ORDER, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 274, 266, 278, 322, 323
    PREDICTOR, JPEG_TABLES = 317, 347
    STRIPS, TILES = (273, 279), (324, 325)
    """Tags of offsets and of byte counts."""

    def __init__(self, image: Opened, file_bytes: int, head: bytes) -> None:
        self._image = image
        self._file_bytes = file_bytes
        self._order = "<" if head[0:1] == b"I" else ">"
        self._big = b"+" in head[2:4]
        self._word = "Q" if self._big else "I"
        self._word_bytes = 8 if self._big else 4
        self._window = head
        self._window_start = 0
        self.head_extent: int | None = 4
        """Length of the part of `head` that determined all results so far; None once other bytes were read."""
        where = 8 if self._big else 4
        (self._directory,) = self._unpack(self._word, self._read(where, self._word_bytes))
        self._entries, self.has_more_pages = self._read_entries()

    def layout(self, *, mask: bool) -> TiffLayout:
        """Return the layout of the first image.

        Raises InvalidImage if it is not a supported grey image, or the file does not contain all of its pixels.
        """
        width, height = self._one(self.WIDTH), self._one(self.HEIGHT)
        bits = self._bits(mask=mask)
        if not (0 < width <= 65536 and 0 < height <= 65536):
            raise InvalidImage(f"has an invalid size of {width}x{height} pixels")
        if 2 <= self._one(self.ORIENTATION, 1) <= 8:  # readers treat any other value as 1
            raise InvalidImage("is stored rotated or mirrored (TIFF tag Orientation)", "save it upright")
        compression, predictor = self._compression(bits)
        is_tiled = self.TILES[0] in self._entries
        piece_width, piece_height = self._piece_size(width, height, bits, is_tiled=is_tiled)
        count = -(-width // piece_width) * -(-height // piece_height)
        offsets = self._offsets(count, is_tiled=is_tiled)
        layout = TiffLayout(
            width,
            height,
            bits,
            self._one(self.PHOTOMETRIC) == 0,
            self._order,
            self._one(self.FILL_ORDER, 1) == 2,  # readers treat any other value as 1
            compression,
            predictor,
            is_tiled,
            piece_width,
            piece_height,
            offsets,
            (),
            bytes(self._values(self.JPEG_TABLES, _BYTES)) if self.JPEG_TABLES in self._entries else b"",
        )
        layout = replace(layout, lengths=self._lengths(layout))
        if compression == tiff_compression.JPEG:
            self._require_jpeg(layout)
        return layout

    def _bits(self, *, mask: bool) -> int:
        samples, photometric = self._one(self.SAMPLES, 1), self._one(self.PHOTOMETRIC)
        if photometric == 3:
            raise InvalidImage("holds a colour palette, not grey values", "save it as grey")
        if samples != 1:
            raise InvalidImage(f"holds colours ({samples} samples per pixel), not grey values", "save it as grey")
        if photometric not in (0, 1):
            raise InvalidImage(
                f"holds colours (PhotometricInterpretation {photometric}), not grey values", "save it as grey"
            )
        sample_format = self._one(self.SAMPLE_FORMAT, 1)
        if sample_format not in (0, 1, 4):  # TIFF 6.0 treats 4 ("undefined") as unsigned; 0 is undefined
            found = _NUMBERS.get(sample_format, "numbers of an unknown kind")
            raise InvalidImage(f"holds {found}, not unsigned grey values", "save it with 8 or 16 bits, unsigned")
        bits = self._one(self.BITS, 1)
        require_grey(bits, mask=mask)
        if photometric == 0 and bits > 1:
            raise InvalidImage("has grey values inverted (WhiteIsZero)", "save it as BlackIsZero")
        return bits

    def _compression(self, bits: int) -> tuple[int, int]:
        """Return the compression and its predictor."""
        compression, predictor = self._one(self.COMPRESSION, 1), self._one(self.PREDICTOR, 1)
        name = tiff_compression.name_of(compression)
        if not tiff_compression.is_supported(compression):
            raise InvalidImage(f"is compressed with {name}, which is not supported", _HINT)
        if compression == tiff_compression.JPEG and bits != 8:
            raise InvalidImage(f"has {bits} bits per pixel, compressed with {name}", _HINT)
        # With other compressions, some readers undo the differences and others do not.
        is_undone = predictor == 1 or (predictor == 2 and compression in tiff_compression.WITH_PREDICTOR and bits > 1)
        if not is_undone:
            raise InvalidImage(
                f"has the TIFF tag Predictor {predictor} with {bits} bits and {name}, which is not supported", _HINT
            )
        return compression, predictor

    def _offsets(self, count: int, *, is_tiled: bool) -> tuple[int, ...]:
        """Return the offsets of `count` pieces."""
        offsets = self._values((self.TILES if is_tiled else self.STRIPS)[0])
        if len(offsets) < count:  # a decoder would leave the other pixels uninitialized
            raise InvalidImage(f"has {len(offsets)} pieces of pixels, but its size needs {count}")
        if len(offsets) > count and not is_tiled and self.ROWS_PER_STRIP not in self._entries:
            raise InvalidImage(f"has {len(offsets)} strips, and no TIFF tag {self.ROWS_PER_STRIP} (RowsPerStrip)")
        return offsets[:count]

    def _lengths(self, layout: TiffLayout) -> tuple[int, ...]:
        """Return the lengths of the pieces. Those of uncompressed pixels follow from the size, even without a tag."""
        offsets_tag, counts_tag = self.TILES if layout.is_tiled else self.STRIPS
        is_plain, count = layout.compression == tiff_compression.NONE, len(layout.offsets)
        needed = (layout.row_bytes * layout.piece_height,) * (count - 1) + (
            layout.row_bytes * layout.rows_of(count - 1),
        )
        if is_plain and counts_tag not in self._entries:
            self._require_inside(layout.offsets, needed)
            return needed
        counts, offset_count = self._values(counts_tag), self._entries[offsets_tag][1]
        if len(counts) != offset_count:
            raise InvalidImage(f"has {offset_count} pieces of pixels, but {len(counts)} lengths of them")
        self._require_inside(layout.offsets, counts[:count])
        if is_plain and any(map(int.__lt__, counts, needed)):
            raise InvalidImage(f"holds {sum(counts)} bytes of pixels, but its size needs {sum(needed)}")
        return needed if is_plain else counts[:count]

    def _piece_size(self, width: int, height: int, bits: int, *, is_tiled: bool) -> tuple[int, int]:
        """Return width and height of a strip or tile."""
        if not is_tiled:
            rows = min(self._one(self.ROWS_PER_STRIP, height), height)
            if rows == 0:
                raise InvalidImage("has pieces of pixels without a size")
            return width, rows
        across, down = self._one(self.TILE_WIDTH), self._one(self.TILE_LENGTH)
        if across == 0 or down == 0:
            raise InvalidImage("has pieces of pixels without a size")
        if across * down > max(4 * width * height, MAX_TILE_PIXELS) or (bits == 1 and across % 8):
            raise InvalidImage(f"has tiles of {across}x{down} pixels, which are not supported")
        return across, down

    def _require_inside(self, offsets: tuple[int, ...], lengths: tuple[int, ...]) -> None:
        end = max(map(int.__add__, offsets, lengths))
        if end > self._file_bytes:
            raise InvalidImage(f"is truncated: it has {self._file_bytes} of {end} bytes")
        if min(offsets) < 8 or min(lengths) == 0:
            raise InvalidImage("lacks the offsets of some pixels: it was not written to its end")
        if sum(lengths) > self._file_bytes:
            raise InvalidImage("has pieces of pixels that overlap each other")

    def _require_jpeg(self, layout: TiffLayout) -> None:
        """Require that each piece is a complete JPEG stream that can be decoded."""
        if len(layout.offsets) > MAX_JPEG_PIECES:
            raise InvalidImage(f"should have at most {MAX_JPEG_PIECES} JPEG strips or tiles, has {len(layout.offsets)}")
        for index, (offset, length) in enumerate(zip(layout.offsets, layout.lengths, strict=True)):
            frame = jpeg_stream.frame_of(functools.partial(self._part, offset, length), MAX_JPEG_SEGMENTS)
            width, rows = layout.piece_width, layout.rows_of(index)
            if frame.width != width or frame.height < rows:
                raise InvalidImage(f"has JPEG data of {frame.width}x{frame.height} pixels for {width}x{rows}")
            jpeg_stream.require_end(self._part(offset, length, max(0, length - 16), 16))

    def _part(self, offset: int, length: int, at: int, size: int) -> bytes:
        """Return at most `size` bytes of a piece of pixels from `at` on."""
        return self._read(offset + at, min(size, length - at)) if at < length else b""

    def _read_entries(self) -> tuple[dict[int, tuple[int, int, bytes]], bool]:
        """Return tag -> (type, count, value or offset), and whether another directory follows."""
        count_letter, count_bytes, entry_bytes = ("Q", 8, 20) if self._big else ("H", 2, 12)
        (count,) = self._unpack(count_letter, self._read(self._directory, count_bytes))
        if not 0 < count <= MAX_TAGS:
            raise InvalidImage(f"has a TIFF directory of {count} entries")
        raw = self._read(self._directory + count_bytes, count * entry_bytes + self._word_bytes)
        entries = struct.iter_unpack(f"{self._order}HH{self._word}{self._word_bytes}s", raw[: count * entry_bytes])
        (following,) = self._unpack(self._word, raw[count * entry_bytes :])
        by_tag: dict[int, tuple[int, int, bytes]] = {}
        for tag, kind, number, value in entries:
            by_tag.setdefault(tag, (kind, number, value))  # readers use the first of duplicates
        return by_tag, following != 0

    def _one(self, tag: int, default: int | None = None) -> int:
        """Return the first value of a tag."""
        if tag not in self._entries and default is not None:
            return default
        return self._values(tag)[0]

    def _values(self, tag: int, types: Mapping[int, tuple[int, str]] = _INTEGERS) -> tuple[int, ...]:
        if tag not in self._entries:
            raise InvalidImage(f"lacks the TIFF tag {tag} ({_NAMES.get(tag, 'no name')})")
        kind, count, value = self._entries[tag]
        if kind not in types or not 0 < count <= MAX_PIECES:
            raise InvalidImage(f"has a TIFF tag {tag} of type {kind} with {count} values")
        size, letter = types[kind]
        if size * count > self._word_bytes:
            (offset,) = self._unpack(self._word, value)
            value = self._read(offset, size * count)
        values = self._unpack(f"{count}{letter}", value[: size * count])
        if letter.islower() and min(values) < 0:
            raise InvalidImage(f"has a TIFF tag {tag} with a value below zero")
        return values

    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file. A small piece is taken from the last larger read, if that contains it."""
        inside = offset - self._window_start
        if not 0 <= inside <= len(self._window) - length:
            if offset + length > self._file_bytes:
                raise InvalidImage(
                    f"is truncated: it has {self._file_bytes} bytes, and its header needs {offset + length}"
                )
            self._window = pread(self._image, max(length, HEAD_BYTES), offset)
            self._window_start, inside = offset, 0
            self.head_extent = None
            if len(self._window) < length:
                raise InvalidImage("became shorter while it was read")
        elif self.head_extent is not None:
            self.head_extent = max(self.head_extent, inside + length)
        return self._window[inside : inside + length]

    def _unpack(self, letters: str, raw: bytes) -> tuple[int, ...]:
        return struct.unpack(self._order + letters, raw)
