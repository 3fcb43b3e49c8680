"""The pixels of an image file, whose size is known before: it is held against the header before anything is decoded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import PngImagePlugin

from handlers.errors import Fault, ImageFault, ImagesMissing, InvalidImage, storage_fault
from handlers.images.digest import snapshot
from handlers.images.header import UNREADABLE, ImageInfo, open_image, read_header
from handlers.images.pillow_pixels import array_of, jpeg_pixels
from handlers.images.pixels import Grey
from handlers.images.tiff_pixels import tiff_pixels

MOST_EXTRA_BYTES = 1 << 24
"""Of a JPEG beside its pixels: more than that is not read."""


def read_image(
    path: Path, width: int, height: int, *, root: Path | None = None, mask: bool = False
) -> tuple[Grey, ImageInfo]:
    """Pixels and header of an image of a given size; the header is compared with it before anything is decoded."""
    with translate_errors(path), open_image(path, root) as file:
        return _read(file, path, width, height, mask=mask)


def read_hashed(
    path: Path, width: int, height: int, *, root: Path | None = None, mask: bool = False
) -> tuple[Grey, bytes]:
    """Pixels of an image of a given size, and the digest of the very bytes that they were decoded from."""
    with translate_errors(path), open_image(path, root) as file, snapshot(file) as (copy, digest):
        return _read(copy, path, width, height, mask=mask)[0], digest


def _read(file: BinaryIO, path: Path, width: int, height: int, *, mask: bool) -> tuple[Grey, ImageInfo]:
    info = read_header(file, path, mask=mask, with_layout=True)
    require_size(info, path, width, height)
    with warnings.catch_warnings():  # of oddities in metadata, nobody reads them
        warnings.simplefilter("ignore")
        return _decoded(file, info), info


def require_size(info: ImageInfo, path: Path, width: int, height: int) -> None:
    if (info.width, info.height) != (width, height):
        raise ImageFault(
            str(path), f"is {info.width}x{info.height} pixels, not {width}x{height}", "see which of the two is right"
        )


@contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """Makes a Fault of what reading an image may raise."""
    try:
        yield
    except InvalidImage as unfit:
        raise unfit.of(path) from unfit
    except UNREADABLE as error:
        raise _broken(path, error) from error
    except FileNotFoundError as error:
        raise _absent(path, error) from error
    except OSError as error:
        if error.errno is None:  # Pillow's way of saying that the content is wrong
            raise _broken(path, error) from error
        raise storage_fault(str(path), "read the image", error) from error


def _decoded(file: BinaryIO, info: ImageInfo) -> Grey:
    if info.layout is not None:
        return tiff_pixels(file.fileno(), info.layout)
    file.seek(0)
    if info.format == "jpg":
        return jpeg_pixels(file.read(4 * info.width * info.height + MOST_EXTRA_BYTES))
    return array_of(PngImagePlugin.PngImageFile(file))


def _broken(path: Path, error: Exception) -> ImageFault:
    return ImageFault(str(path), f"cannot be decoded: {error}", "copy or acquire the image again")


def _absent(path: Path, error: OSError) -> Fault:
    """One file gone is an image missing; with its directory gone, or empty, it is the mount."""
    try:
        if any(path.parent.iterdir()):
            return ImagesMissing(str(path), "is not there", "copy it there again")
    except OSError as worse:
        return storage_fault(str(path.parent), "look into the directory of the image", worse)
    return storage_fault(str(path.parent), "find any file in the directory of the image", error)


def verify_level(path: Path, width: int, height: int, mode: str) -> Grey:
    """The pixels of a level's file, which decodes and is of the size and mode wanted.

    Raises
    ------
    ImageFault
        If it is not.
    ImagesMissing
        If it is not there.
    StorageFault
        If it cannot be read.
    """
    pixels, info = read_image(path, width, height)
    if info.mode != mode:
        raise ImageFault(str(path), f"has mode {info.mode}, not {mode}", "have the mipmaps made again")
    return pixels
