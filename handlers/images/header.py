"""Headers of image files: format, size, depth, and whether the file is complete.

The daemon inspects every image with this module, so it uses no decoder: it reads a bounded number of bytes in a bounded
number of reads, whatever the file contains. It refuses truncated files and kinds of images that are not decoded. Every
pixel of an accepted image can be decoded.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from handlers.container import Container, real_path
from handlers.errors import ImageFault, InvalidImage
from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.formats import jpeg_stream
from handlers.images.formats.bmp_header import MAGIC, read_bmp_header
from handlers.images.formats.png_header import END as PNG_END
from handlers.images.formats.png_header import PngHeader, read_png_header
from handlers.images.formats.tiff_header import HEAD_BYTES, TiffHeader, TiffLayout, require_grey
from handlers.images.opened import Opened, Run, opened, pread, size_of
from handlers.place import ObjectPlace, Place
from handlers.regular_file import NotContained, NotRegular, open_regular

MAX_BYTES_PER_PIXEL_BYTE = 4
MAX_EXTRA_BYTES = 1 << 24
"""Bytes that a file may have beside four for each byte of pixels: further pages, metadata, incompressible data."""
TAIL_BYTES = 4096
"""Last bytes of a PNG file in which its end is searched: some writers append to the file."""

_BEGINNINGS: tuple[tuple[tuple[bytes, ...], str], ...] = (
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "tif"),
    ((b"\x89PNG",), "png"),
    ((b"\xff\xd8\xff",), "jpg"),
    ((MAGIC,), "bmp"),
)
"""First bytes of files -> format."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Header of an image file."""

    width: int
    height: int
    bits: int
    """Bits per pixel: 8 or 16; 1 in a mask."""
    format: str
    """tif, png, jpg, bmp or mrc, by the content of the file."""
    file_bytes: int
    has_more_pages: bool = False
    """Whether a TIFF has further images; the first is used."""
    runs: tuple[Run, ...] = field(default=(), repr=False)
    """Runs of rows that can be read without decoding; empty if there are none, or they were not requested."""
    layout: TiffLayout | None = field(default=None, repr=False, compare=False)
    """Layout of a TIFF, if requested."""
    png: PngHeader | None = field(default=None, repr=False, compare=False)
    """Header of a PNG."""

    @property
    def mode(self) -> str:
        """Pillow's name for the pixels: L, I;16, or 1."""
        return {1: "1", 8: "L", 16: "I;16"}[self.bits]


@contextmanager
def open_image(path: Place, root: Container | None = None) -> Iterator[BinaryIO]:
    """Open a regular file, or an object, for reading with a position.

    Parameters and errors are those of `open_descriptor`.
    """
    if isinstance(path, ObjectPlace):
        from handlers.objects.files import open_object  # imported only if images are in an object store

        with open_object(path) as file:
            yield file
        return
    with open_descriptor(path, root) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
        yield file


@contextmanager
def open_content(path: Place, root: Container | None = None) -> Iterator[Opened]:
    """Open a regular file, or an object, for reading at offsets.

    Parameters and errors are those of `open_descriptor`.
    """
    if isinstance(path, ObjectPlace):
        with open_image(path) as file:
            yield opened(file)
        return
    with open_descriptor(path, root) as descriptor:
        yield descriptor


@contextmanager
def open_descriptor(path: Path, root: Container | None = None) -> Iterator[int]:
    """Open a regular file for reading.

    Yields a descriptor, since making a file object requests the status of the file again.

    Parameters
    ----------
    root : directory that must contain the file after all links are followed; None: any.

    Raises
    ------
    ImageFault
        If it is not a regular file, or lies outside root.
    OSError, StoreFault
        If it cannot be opened.
    """
    try:
        descriptor, _ = open_regular(path, root=root)
    except NotRegular as error:
        raise _not_a_file(path) from error
    except NotContained as error:
        raise _outside(path, error.root) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def inspect_image(path: Place, root: Container | None = None, *, mask: bool = False) -> ImageInfo:
    """Return the header of an image whose file is complete. Decodes nothing.

    Parameters
    ----------
    root : directory that must contain the file after all links are followed; None: any.
    mask : whether one bit per pixel is also allowed.

    Raises
    ------
    ImageFault
        If it is not an image, is truncated, is not grey with 8 or 16 bits, or lies outside root.
    OSError, StoreFault
        If it cannot be read.
    """
    with open_content(path, root) as image:
        return read_header(image, path, mask=mask)


def read_header(
    image: Opened,
    path: Place,
    *,
    mask: bool = False,
    with_layout: bool = False,
    file_bytes: int | None = None,
    known: "KnownHeader | None" = None,
) -> ImageInfo:
    """Return the header of an image in an open file, as `inspect_image`.

    Parameters
    ----------
    with_layout : whether to return runs and layout, which takes time for thousands of strips.
    file_bytes : length of the file; None: it is looked up.
    known : the header that was read before, which is reused if it is equal.
    """
    try:
        length = size_of(image) if file_bytes is None else file_bytes
        head = pread(image, HEAD_BYTES, 0)
        return (known or KnownHeader()).info(image, length, head, mask=mask, with_layout=with_layout)
    except InvalidImage as error:
        raise error.fault(path) from error


class KnownHeader:
    """The last TIFF header that was read. Files of one camera have equal headers.

    If the length and all bytes that determined the header equal those of the preceding file, its result is reused.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[int, bool, bool], bytes, ImageInfo] | None = None
        """Length and arguments, bytes that determined the header, and header of the last TIFF file."""

    def info(
        self, image: Opened, file_bytes: int, head: bytes, *, mask: bool = False, with_layout: bool = False
    ) -> ImageInfo:
        """Return the header of an open file, whose first bytes are `head`. Raises InvalidImage."""
        asked = file_bytes, mask, with_layout
        if self._last is not None:
            asked_before, beginning, info = self._last
            if asked == asked_before and head.startswith(beginning):
                return info
        info, extent = _info_and_extent(image, file_bytes, head, mask=mask, with_layout=with_layout)
        if extent is not None:
            self._last = asked, head[:extent], info
        return info


class ImageDirectory:
    """A directory whose images are inspected one after another, most by one short read. A context manager.

    The directory is opened once, and files are opened by name below its descriptor. A link is followed only to a file
    inside the directory. A header that equals the preceding one is not parsed again.

    Parameters
    ----------
    root : directory that must contain this one after all links are followed; None: any.

    Raises
    ------
    ImageFault
        On entering, if it lies outside root.
    """

    def __init__(self, path: Path, root: Container | None = None) -> None:
        self._path = path
        self._root = root
        self._descriptor: int | None = None
        self._known = KnownHeader()

    def __enter__(self) -> Self:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            self._descriptor = self._root.open_beneath(self._path, flags) if self._root else os.open(self._path, flags)
        except OSError as error:  # other errors are reported when an image is inspected
            if error.errno == errno.EXDEV and self._root:
                raise _outside(self._path, self._root.real) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def inspect(self, name: str) -> tuple[ImageInfo, FileIdentity]:
        """Return the header of a file in or below the directory, and its identity from before it was read.

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

    def path_of(self, name: str) -> tuple[Path, Container | None]:
        """Return the path of a file in or below the directory, and the directory that must contain it."""
        root = self._root
        if self._descriptor is not None:  # a metafile may only name files of its own directory, links or not
            root = Container(self._path, Path(real_path(self._descriptor)))
        return self._path / name, root

    def _info(self, descriptor: int, file_bytes: int) -> ImageInfo:
        return self._known.info(descriptor, file_bytes, os.pread(descriptor, HEAD_BYTES, 0))

    def _inspect_by_path(self, name: str) -> tuple[ImageInfo, FileIdentity]:
        path, root = self.path_of(name)
        with open_descriptor(path, root) as descriptor:
            found = status_of(descriptor)
            return read_header(descriptor, path), FileIdentity.of(found)


def _format_of(magic: bytes) -> str:
    for beginnings, name in _BEGINNINGS:
        if magic.startswith(beginnings):
            return name
    text = magic.decode("latin-1")
    start = repr(text) if text.isascii() and text.isprintable() else magic.hex()
    problem = f"begins with {start}, no image" if magic else "is empty"
    raise InvalidImage(problem, "copy it again; TIFF, PNG, JPEG and BMP are supported")


def _not_a_file(path: Path) -> ImageFault:
    return ImageFault(str(path), "is not a regular file", "replace it by the image itself")


def _outside(path: Path, root: Path) -> ImageFault:
    problem = f"lies outside {root}, at {os.path.realpath(path)}, when links are followed"
    return ImageFault(
        str(path), problem, "put the file itself there; restart temwatch if the watched directory was moved"
    )


def _info_and_extent(
    image: Opened, file_bytes: int, head: bytes, *, mask: bool = False, with_layout: bool = False
) -> tuple[ImageInfo, int | None]:
    """Return the header, and the number of first bytes that determined it; None if other bytes did, too."""
    name, extent = _format_of(head[:4]), None
    if name == "tif":
        header = TiffHeader(image, file_bytes, head)
        info, extent = _tiff_info(header, file_bytes, mask=mask, with_layout=with_layout), header.head_extent
    elif name == "jpg":
        info = _jpeg_info(image, file_bytes)
    elif name == "bmp":
        bmp = read_bmp_header(image, file_bytes)
        runs = bmp.runs() if with_layout else ()
        info = ImageInfo(bmp.width, bmp.height, 8, "bmp", file_bytes, runs=runs)
    else:
        info = _png_info(image, file_bytes, mask=mask)
    _require_length(info)
    return info, extent


def _tiff_info(header: TiffHeader, file_bytes: int, *, mask: bool, with_layout: bool) -> ImageInfo:
    layout = header.layout(mask=mask)
    found = layout.width, layout.height, layout.bits, "tif", file_bytes, header.has_more_pages
    return ImageInfo(*found, layout.runs(), layout) if with_layout else ImageInfo(*found)


def _jpeg_info(image: Opened, file_bytes: int) -> ImageInfo:
    frame = jpeg_stream.frame_of(lambda offset, length: pread(image, length, offset))
    tail_at = max(frame.data_at, file_bytes - jpeg_stream.TAIL_BYTES)
    jpeg_stream.require_end(pread(image, jpeg_stream.TAIL_BYTES, tail_at))
    return ImageInfo(frame.width, frame.height, 8, "jpg", file_bytes)


def _png_info(image: Opened, file_bytes: int, *, mask: bool) -> ImageInfo:
    header = read_png_header(lambda offset, length: pread(image, length, offset))
    require_grey(header.bits, mask=mask)
    if PNG_END not in pread(image, TAIL_BYTES, max(0, file_bytes - TAIL_BYTES)):
        raise InvalidImage("is truncated: the end of a PNG file is missing")
    return ImageInfo(header.width, header.height, header.bits, "png", file_bytes, png=header)


def _require_length(info: ImageInfo) -> None:
    """Raise InvalidImage if the file is much longer than its pixels need.

    Decoders read whole files, and a sparse file of any length takes no space on the disk.
    """
    pixel_bytes = -(-info.width * info.bits // 8) * info.height
    most = MAX_BYTES_PER_PIXEL_BYTE * pixel_bytes + MAX_EXTRA_BYTES
    if info.file_bytes > most:
        size = f"{info.width}x{info.height} pixels of {info.bits} bits"
        problem = f"should have at most {most} bytes for {size}, has {info.file_bytes}"
        raise InvalidImage(problem, "save it without further pages and large metadata")
