"""What an image file says of itself before it is decoded: format, size, depth, and whether it is whole.

TIFF headers are read here rather than by Pillow: settling asks this of every image, and a file cut short while it was
copied must show without decoding it.
"""

import os
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from handlers.errors import ImageFault
from handlers.identity import FileIdentity
from handlers.regularfile import NotRegular, open_regular

MAX_TAGS = 4096
MAX_PIECES = 1 << 20
"""Strips or tiles of one TIFF; more are a broken header."""

PNG_END = b"IEND\xaeB`\x82"

UNREADABLE = (
    *(SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)
"""What Pillow raises on files that are not what they seem; an OSError without an errno is another such."""

_DECODERS: tuple[tuple[tuple[bytes, ...], str, type[ImageFile.ImageFile]], ...] = (
    ((b"II*\0", b"MM\0*", b"II+\0"), "tif", TiffImagePlugin.TiffImageFile),
    ((b"\x89PNG",), "png", PngImagePlugin.PngImageFile),
    ((b"\xff\xd8\xff",), "jpg", JpegImagePlugin.JpegImageFile),
)
"""How files begin, the format, and Pillow's class for it; big-endian BigTIFF Pillow does not read. Its `open` is passed
by: it refuses, or warns of, images above 89 megapixels, which a camera may well have. Here the size is compared with
the one expected before decoding."""

_MODE_BITS = {"1": 1, "L": 8, "I;16": 16, "I;16B": 16, "I;16L": 16}
_WHY_NOT = {"P": "a colour palette", "I": "32-bit or signed integers", "F": "floating point numbers"}

_TYPES = {1: (1, "B"), 3: (2, "H"), 4: (4, "I"), 16: (8, "Q")}
"""TIFF's unsigned integer types: number -> (bytes, struct's letter)."""


class Run(NamedTuple):
    """Whole rows of pixels, one behind the other in a file."""

    offset: int
    """Of the first byte."""
    rows: int


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header of an image file says."""

    width: int
    height: int
    bits: int
    """Per pixel: 8 or 16; 1 in a mask."""
    format: str
    """tif, png or jpg, whatever the file is called."""
    file_bytes: int
    has_more_pages: bool = False
    """Whether a TIFF holds further images; the first one counts."""
    runs: tuple[Run, ...] = field(default=(), repr=False)
    """Where its rows lie as they would in memory, first to last; empty if they have to be decoded, or nobody asked."""

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels: L, I;16, or 1."""
        return {1: "1", 8: "L", 16: "I;16"}[self.bits]


_HEAD_BYTES = 4096
"""What is read of a file at first: a page, since no disk and no file server reads less."""


@contextmanager
def opened(path: Path, root: Path | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Parameters
    ----------
    root : where given, the file must lie below it after all links are followed.

    Raises
    ------
    ImageFault
        If it is a directory, pipe or device, or lies outside root.
    OSError
        As it comes; what a missing file means the caller knows.
    """
    try:
        descriptor, _ = open_regular(path)
    except NotRegular as error:
        raise _not_a_file(path) from error
    try:
        if root is not None:
            _require_below(descriptor, path, root)
    except BaseException:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def inspect_image(path: Path, root: Path | None = None, *, mask: bool = False) -> ImageInfo:
    """What the header of an image says, the file being long enough for it. Decodes nothing.

    Parameters
    ----------
    root : where given, the file must lie below it after all links are followed.
    mask : whether one bit per pixel is fine, too.

    Raises
    ------
    ImageFault
        If it is not an image, is cut short, is not grey with 8 or 16 bits, or lies outside root.
    OSError
        As it comes; what a missing file means the caller knows.
    """
    with opened(path, root) as file:
        return read_header(file, path, mask=mask)


def read_header(file: BinaryIO, path: Path, *, mask: bool = False, with_runs: bool = False) -> ImageInfo:
    """`inspect_image` of a file that is open.

    Parameters
    ----------
    with_runs : whether to find out where its rows lie; a file of thousands of strips takes its time.
    """
    descriptor = file.fileno()
    try:
        file_bytes = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        return _info_and_extent(descriptor, file_bytes, head, mask=mask, with_runs=with_runs)[0]
    except _Unfit as unfit:
        raise ImageFault(str(path), str(unfit), unfit.hint) from unfit


class ImageDirectory:
    """A directory whose images are looked at one after the other, each by one short read; a context manager.

    The kernel is shown the way to the directory once. A file that is opened by its name in there, no link being
    followed, lies there: only of links has to be asked where they lead. And files of one camera begin alike: where all
    bytes that a header was made out from, and the length of the file, are those of the file before, so is what it says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._before: tuple[int, bytes, ImageInfo] | None = None
        """Of the TIFF file before: its length, its beginning as far as it was looked at, and what that said."""

    def __enter__(self) -> Self:
        # One that cannot be opened shows when its images are looked at.
        with suppress(OSError):
            self._descriptor = os.open(self._path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def inspect(self, name: str) -> tuple[ImageInfo, FileIdentity]:
        """`inspect_image` of a file in the directory or below it, and which file it was, from before it was read.

        Raises
        ------
        ImageFault, OSError
            As `inspect_image`.
        """
        if self._descriptor is None or "/" in name:
            return self._inspect_by_path(name)
        try:
            descriptor, found = open_regular(name, follow_links=False, directory=self._descriptor)
        except NotRegular as error:
            if error.is_link:
                return self._inspect_by_path(name)
            raise _not_a_file(self._path / name) from error
        try:
            return self._info(descriptor, found.st_size), FileIdentity.of(found)
        except _Unfit as unfit:
            raise ImageFault(str(self._path / name), str(unfit), unfit.hint) from unfit
        finally:
            os.close(descriptor)

    def _info(self, descriptor: int, file_bytes: int) -> ImageInfo:
        head = os.pread(descriptor, _HEAD_BYTES, 0)
        if self._before is not None:
            bytes_before, beginning, info = self._before
            if file_bytes == bytes_before and head.startswith(beginning):
                return info
        info, looked_at = _info_and_extent(descriptor, file_bytes, head)
        if looked_at is not None:
            self._before = file_bytes, head[:looked_at], info
        return info

    def _inspect_by_path(self, name: str) -> tuple[ImageInfo, FileIdentity]:
        path = self._path / name
        with opened(path, self._path) as file:
            found = os.fstat(file.fileno())
            return read_header(file, path), FileIdentity.of(found)


def decoder(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image of a file whose header was read here: its header read by Pillow, too, its pixels not yet.

    Raises
    ------
    OSError or one of UNREADABLE
        If Pillow cannot make sense of it.
    """
    _, plugin = _decoder_for(os.pread(file.fileno(), 4, 0))
    file.seek(0)
    return plugin(file)


class _Unfit(Exception):  # noqa: N818  becomes an ImageFault as soon as the path is known
    """Why a file cannot be used, as what follows its name."""

    def __init__(self, problem: str, hint: str = "copy or acquire the image again") -> None:
        super().__init__(problem)
        self.hint = hint


def _decoder_for(magic: bytes) -> tuple[str, type[ImageFile.ImageFile]]:
    for beginnings, name, plugin in _DECODERS:
        if magic.startswith(beginnings):
            return name, plugin
    shown = f"is not an image: it begins with {magic!r}" if magic else "is empty"
    raise _Unfit(shown, "TIFF, PNG and JPEG are read")


def _not_a_file(path: Path) -> ImageFault:
    return ImageFault(str(path), "is not a regular file", "see what put it there")


def _require_below(descriptor: int, path: Path, root: Path) -> None:
    """Asks the kernel where the open file lies, which leaves no time to exchange a link in between."""
    real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  text is compared: this is asked of every image
    if not real.startswith(f"{root}/") and not Path(real).is_relative_to(root.resolve()):
        raise ImageFault(
            str(path), f"lies outside {root}, at {real}, when links are followed", "put the file itself there"
        )


def _require_grey(bits: int, *, mask: bool) -> None:
    if bits not in (8, 16) and not (mask and bits == 1):
        kind = "one bit" if bits == 1 else f"{bits} bits"
        raise _Unfit(f"has {kind} per pixel", "grey images have 8 or 16; masks 8 or 1" if mask else "8 or 16 are read")
    if mask and bits == 16:
        raise _Unfit("is a mask with 16 bits per pixel", "save it with 8: 0 where clear, 255 where opaque")


def _info_and_extent(
    descriptor: int, file_bytes: int, head: bytes, *, mask: bool = False, with_runs: bool = False
) -> tuple[ImageInfo, int | None]:
    """What the header says, and from how many bytes of the file's beginning; None if others were needed, too."""
    name, _ = _decoder_for(head[:4])
    if name == "tif":
        header = _TiffHeader(descriptor, file_bytes, head)
        return header.info(mask=mask, with_runs=with_runs), header.looked_at
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return _info_by_pillow(file, name, file_bytes, mask=mask), None


def _info_by_pillow(file: BinaryIO, name: str, file_bytes: int, *, mask: bool) -> ImageInfo:
    try:
        image = decoder(file)
    except UNREADABLE as error:
        raise _Unfit(f"has a header that cannot be read: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _Unfit(f"has a header that cannot be read: {error}") from error
    if image.mode not in _MODE_BITS:
        raise _Unfit(f"holds {_WHY_NOT.get(image.mode, f'colours ({image.mode})')}, not grey values", "save it as grey")
    _require_grey(_MODE_BITS[image.mode], mask=mask)
    if name == "png" and PNG_END not in os.pread(file.fileno(), 4096, max(0, file_bytes - 4096)):
        raise _Unfit("is cut short: the end of a PNG file is missing")
    return ImageInfo(*image.size, _MODE_BITS[image.mode], name, file_bytes)


class _TiffHeader:
    """The first directory of a TIFF or BigTIFF file.

    Source: TIFF 6.0, sections 2 and 3 to 10; BigTIFF as in libtiff.
    """

    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SAMPLE_FORMAT = 256, 257, 258, 259, 262, 277, 339
    ORIENTATION, FILL_ORDER, ROWS_PER_STRIP, TILE_WIDTH, TILE_LENGTH = 274, 266, 278, 322, 323
    STRIPS, TILES = (273, 279), (324, 325)
    """Tags of offsets and of byte counts."""

    def __init__(self, descriptor: int, file_bytes: int, head: bytes) -> None:
        self._descriptor = descriptor
        self._file_bytes = file_bytes
        self._order = "<" if head[0:1] == b"I" else ">"
        self._big = head[2:3] == b"+"
        self._word = "Q" if self._big else "I"
        self._word_bytes = 8 if self._big else 4
        self._near = head
        self._near_at = 0
        self.looked_at: int | None = 4
        """Bytes of the head, from its first, that all was made out from so far; None once others were read."""
        where = 8 if self._big else 4
        (self._directory,) = self._unpack(self._word, self._read(where, self._word_bytes))
        self._entries, self._has_more = self._read_entries()

    def info(self, *, mask: bool, with_runs: bool) -> ImageInfo:
        """The image, all of its pixels being inside the file."""
        width, height = self._one(self.WIDTH), self._one(self.HEIGHT)
        bits = self._bits(mask=mask)
        if not (0 < width <= 65536 and 0 < height <= 65536):
            raise _Unfit(f"has an impossible size of {width}x{height} pixels")
        if self._one(self.ORIENTATION, 1) != 1:
            raise _Unfit("is stored turned or mirrored (TIFF tag Orientation)", "save it the way it is to be seen")
        self._require_whole(width, height, bits)
        runs = self._runs(width, height, bits) if with_runs else ()
        return ImageInfo(width, height, bits, "tif", self._file_bytes, self._has_more, runs)

    def _bits(self, *, mask: bool) -> int:
        samples, photometric = self._one(self.SAMPLES, 1), self._one(self.PHOTOMETRIC)
        if photometric == 3:
            raise _Unfit(f"holds {_WHY_NOT['P']}, not grey values", "save it as grey")
        if samples != 1 or photometric not in (0, 1):
            raise _Unfit(f"holds colours ({samples} samples per pixel), not grey values", "save it as grey")
        if self._one(self.SAMPLE_FORMAT, 1) != 1:
            kind = {2: "signed integers", 3: _WHY_NOT["F"]}.get(
                self._one(self.SAMPLE_FORMAT), "numbers of no known kind"
            )
            raise _Unfit(f"holds {kind}, not unsigned grey values", "save it with 8 or 16 bits, unsigned")
        bits = self._one(self.BITS, 1)
        _require_grey(bits, mask=mask)
        if photometric == 0 and bits > 1:
            raise _Unfit("counts grey values from white to black (WhiteIsZero)", "save it as BlackIsZero")
        return bits

    def _require_whole(self, width: int, height: int, bits: int) -> None:
        offsets_tag, counts_tag = self.TILES if self.TILES[0] in self._entries else self.STRIPS
        offsets = self._values(offsets_tag)
        needed = (width * bits + 7) // 8 * height
        uncompressed = self._one(self.COMPRESSION, 1) == 1
        if counts_tag not in self._entries and uncompressed and len(offsets) == 1:
            counts: tuple[int, ...] = (needed,)
        else:
            counts = self._values(counts_tag)
        if len(counts) != len(offsets):
            raise _Unfit(f"has {len(offsets)} pieces of pixels, but {len(counts)} lengths of them")
        pieces = self._pieces(width, height)
        if len(offsets) < pieces:  # a decoder would leave the rest as it found the memory
            raise _Unfit(f"has {len(offsets)} pieces of pixels, but its size needs {pieces}")
        end = max(map(int.__add__, offsets, counts))
        if end > self._file_bytes:
            raise _Unfit(f"is cut short: it has {self._file_bytes} of {end} bytes")
        if min(offsets) < 8 or min(counts) == 0:
            raise _Unfit("does not say where all of its pixels are: it was not written to its end")
        if uncompressed and sum(counts) < needed:
            raise _Unfit(f"holds {sum(counts)} bytes of pixels, but its size needs {needed}")

    def _pieces(self, width: int, height: int) -> int:
        """How many strips or tiles hold all pixels."""
        if self.TILES[0] in self._entries:
            piece = self._one(self.TILE_WIDTH), self._one(self.TILE_LENGTH)
        else:
            piece = width, self._one(self.ROWS_PER_STRIP, height)
        if 0 in piece:
            raise _Unfit("has pieces of pixels without a size")
        return -(-width // piece[0]) * -(-height // piece[1])

    def _runs(self, width: int, height: int, bits: int) -> tuple[Run, ...]:
        """The rows, if they lie in the file as they would in memory: not packed, in this machine's byte order."""
        if self._one(self.COMPRESSION, 1) != 1 or self.TILES[0] in self._entries or bits not in (8, 16):
            return ()
        foreign = bits == 16 and self._order != ("<" if sys.byteorder == "little" else ">")
        if foreign or self._one(self.FILL_ORDER, 1) != 1:
            return ()
        offsets = self._values(self.STRIPS[0])
        counts = self._values(self.STRIPS[1]) if self.STRIPS[1] in self._entries else None
        rows_each = min(self._one(self.ROWS_PER_STRIP, height), height)
        if len(offsets) != self._pieces(width, height):
            return ()
        row_bytes = width * bits // 8
        runs: list[Run] = []
        for index, offset in enumerate(offsets):
            rows = min(rows_each, height - index * rows_each)
            if counts and counts[index] < rows * row_bytes:
                return ()
            if runs and runs[-1].offset + runs[-1].rows * row_bytes == offset:
                runs[-1] = Run(runs[-1].offset, runs[-1].rows + rows)
            else:
                runs.append(Run(offset, rows))
        return tuple(runs)

    def _read_entries(self) -> tuple[dict[int, tuple[int, int, bytes]], bool]:
        """Tag -> (type, count, the value or its offset); and whether another directory follows."""
        count_letter, count_bytes, entry_bytes = ("Q", 8, 20) if self._big else ("H", 2, 12)
        (count,) = self._unpack(count_letter, self._read(self._directory, count_bytes))
        if not 0 < count <= MAX_TAGS:
            raise _Unfit(f"has a TIFF directory of {count} entries")
        raw = self._read(self._directory + count_bytes, count * entry_bytes + self._word_bytes)
        entries = struct.iter_unpack(f"{self._order}HH{self._word}{self._word_bytes}s", raw[: count * entry_bytes])
        (following,) = self._unpack(self._word, raw[count * entry_bytes :])
        return {tag: (kind, number, value) for tag, kind, number, value in entries}, following != 0

    def _one(self, tag: int, default: int | None = None) -> int:
        """The only, or first, value of a tag."""
        if tag not in self._entries and default is not None:
            return default
        return self._values(tag)[0]

    def _values(self, tag: int) -> tuple[int, ...]:
        if tag not in self._entries:
            raise _Unfit(f"lacks the TIFF tag {tag}")
        kind, count, value = self._entries[tag]
        if kind not in _TYPES or not 0 < count <= MAX_PIECES:
            raise _Unfit(f"has a TIFF tag {tag} of type {kind} with {count} values")
        size, letter = _TYPES[kind]
        if size * count > self._word_bytes:
            (offset,) = self._unpack(self._word, value)
            value = self._read(offset, size * count)
        return self._unpack(f"{count}{letter}", value[: size * count])

    def _read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; small pieces come out of one larger read."""
        inside = offset - self._near_at
        if not 0 <= inside <= len(self._near) - length:
            if offset + length > self._file_bytes:
                raise _Unfit(f"is cut short: it has {self._file_bytes} bytes, and its header needs {offset + length}")
            self._near = os.pread(self._descriptor, max(length, _HEAD_BYTES), offset)
            self._near_at, inside = offset, 0
            self.looked_at = None
            if len(self._near) < length:
                raise _Unfit("became shorter while it was read")
        elif self.looked_at is not None:
            self.looked_at = max(self.looked_at, inside + length)
        return self._near[inside : inside + length]

    def _unpack(self, letters: str, raw: bytes) -> tuple[int, ...]:
        return struct.unpack(self._order + letters, raw)
