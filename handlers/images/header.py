"""What an image file says of itself before it is decoded: format, size, depth, and whether it is whole.

Headers of TIFF and JPEG are read by our own code rather than by Pillow's: settling asks this of every image, and a file
that was cut short, or that cannot be decoded, must show here. Whatever is accepted here is decoded pixel for pixel.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from PIL import Image, PngImagePlugin

from handlers.errors import ImageFault, InvalidImage
from handlers.identity import FileIdentity
from handlers.images import jpeg_stream
from handlers.images.tiff_header import HEAD_BYTES, Run, TiffHeader, TiffLayout, require_grey
from handlers.regular_file import NotRegular, open_regular

PNG_END = b"IEND\xaeB`\x82"

UNREADABLE = (
    *(SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AttributeError, AssertionError),
    *(RuntimeError, struct.error, zlib.error, Image.DecompressionBombError, Warning),
)
"""What Pillow raises on files that are not what they seem; an OSError without an errno is another such."""

_BEGINNINGS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tif"),
    ((b"\x89PNG",), "png"),
    ((b"\xff\xd8\xff",), "jpg"),
)
"""How files begin, and their format."""

_MODE_BITS = {"1": 1, "L": 8, "I;16": 16, "I;16B": 16, "I;16L": 16}
_WHY_NOT = {"P": "a colour palette", "I": "32-bit or signed integers"}


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
    layout: TiffLayout | None = field(default=None, repr=False, compare=False)
    """Of a TIFF, where somebody asked."""

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels: L, I;16, or 1."""
        return {1: "1", 8: "L", 16: "I;16"}[self.bits]


@contextmanager
def open_image(path: Path, root: Path | None = None) -> Iterator[BinaryIO]:
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
    with open_image(path, root) as file:
        return read_header(file, path, mask=mask)


def read_header(file: BinaryIO, path: Path, *, mask: bool = False, with_layout: bool = False) -> ImageInfo:
    """`inspect_image` of a file that is open.

    Parameters
    ----------
    with_layout : whether to say where its pixels lie; a file of thousands of strips takes its time.
    """
    descriptor = file.fileno()
    try:
        file_bytes = os.fstat(descriptor).st_size
        head = os.pread(descriptor, HEAD_BYTES, 0)
        return _info_and_extent(descriptor, file_bytes, head, mask=mask, with_layout=with_layout)[0]
    except InvalidImage as error:
        raise error.fault(path) from error


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
        except InvalidImage as error:
            raise error.fault(self._path / name) from error
        finally:
            os.close(descriptor)

    def _info(self, descriptor: int, file_bytes: int) -> ImageInfo:
        head = os.pread(descriptor, HEAD_BYTES, 0)
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
        with open_image(path, self._path) as file:
            found = os.fstat(file.fileno())
            return read_header(file, path), FileIdentity.of(found)


def _format_of(magic: bytes) -> str:
    for beginnings, name in _BEGINNINGS:
        if magic.startswith(beginnings):
            return name
    shown = f"is not an image: it begins with {magic!r}" if magic else "is empty"
    raise InvalidImage(shown, "TIFF, PNG and JPEG are read")


def _not_a_file(path: Path) -> ImageFault:
    return ImageFault(str(path), "is not a regular file", "see what put it there")


def _require_below(descriptor: int, path: Path, root: Path) -> None:
    """Asks the kernel where the open file lies, which leaves no time to exchange a link in between."""
    real = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  text is compared: this is asked of every image
    if not real.startswith(f"{root}/") and not Path(real).is_relative_to(root.resolve()):
        raise ImageFault(
            str(path), f"lies outside {root}, at {real}, when links are followed", "put the file itself there"
        )


def _info_and_extent(
    descriptor: int, file_bytes: int, head: bytes, *, mask: bool = False, with_layout: bool = False
) -> tuple[ImageInfo, int | None]:
    """What the header says, and from how many bytes of the file's beginning; None if others were needed, too."""
    name = _format_of(head[:4])
    if name == "tif":
        header = TiffHeader(descriptor, file_bytes, head)
        return _tiff_info(header, file_bytes, mask=mask, with_layout=with_layout), header.head_extent
    if name == "jpg":
        return _jpeg_info(descriptor, file_bytes), None
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return _png_info(file, file_bytes, mask=mask), None


def _tiff_info(header: TiffHeader, file_bytes: int, *, mask: bool, with_layout: bool) -> ImageInfo:
    layout = header.layout(mask=mask)
    info = ImageInfo(layout.width, layout.height, layout.bits, "tif", file_bytes, header.has_more_pages)
    return replace(info, runs=layout.runs(), layout=layout) if with_layout else info


def _jpeg_info(descriptor: int, file_bytes: int) -> ImageInfo:
    frame = jpeg_stream.frame_of(lambda offset, length: os.pread(descriptor, length, offset))
    tail_at = max(frame.data_at, file_bytes - jpeg_stream.TAIL_BYTES)
    jpeg_stream.require_end(os.pread(descriptor, jpeg_stream.TAIL_BYTES, tail_at))
    return ImageInfo(frame.width, frame.height, 8, "jpg", file_bytes)


def _png_info(file: BinaryIO, file_bytes: int, *, mask: bool) -> ImageInfo:
    file.seek(0)
    try:
        image = PngImagePlugin.PngImageFile(file)
    except UNREADABLE as error:
        raise InvalidImage(f"has a header that cannot be read: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise InvalidImage(f"has a header that cannot be read: {error}") from error
    if image.mode not in _MODE_BITS:
        raise InvalidImage(
            f"holds {_WHY_NOT.get(image.mode, f'colours ({image.mode})')}, not grey values", "save it as grey"
        )
    require_grey(_MODE_BITS[image.mode], mask=mask)
    if PNG_END not in os.pread(file.fileno(), 4096, max(0, file_bytes - 4096)):
        raise InvalidImage("is cut short: the end of a PNG file is missing")
    return ImageInfo(*image.size, _MODE_BITS[image.mode], "png", file_bytes)
