"""Decoding image files of a known size, which the header must have before anything is decoded."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from handlers.container import Container
from handlers.errors import Fault, ImageFault, ImagesMissing, InvalidImage, reading_fault
from handlers.images.digest import HashedFile
from handlers.images.formats.bmp_pixels import bmp_pixels
from handlers.images.formats.pillow_pixels import UNREADABLE, jpeg_pixels
from handlers.images.formats.png_pixels import png_pixels
from handlers.images.formats.tiff_pixels import tiff_pixels
from handlers.images.header import ImageInfo, open_image, read_header
from handlers.images.opened import Opened, opened
from handlers.images.pixels import Grey
from handlers.place import ObjectPlace, Place
from handlers.ranged_file import RangedFile


def read_image(
    path: Place, width: int, height: int, *, root: Container | None = None, mask: bool = False
) -> tuple[Grey, ImageInfo]:
    """Return the pixels, (H, W), and the header of an image of a given size. Raises a Fault as `translate_errors`."""
    with translate_errors(path), open_image(path, root) as file:
        return _read(file, path, width, height, mask=mask)


def read_hashed(image: Opened, path: Place, width: int, height: int, *, mask: bool = False) -> tuple[Grey, bytes]:
    """Return the pixels, (H, W), of an open image of a given size, and the digest of the bytes that were read."""
    with translate_errors(path):
        info = _header(image, path, width, height, mask=mask)
        content = HashedFile(image) if isinstance(image, int) else image
        with RangedFile(content) as file:
            return _pixels(cast("BinaryIO", file), info), content.digest()


def _read(file: BinaryIO, path: Place, width: int, height: int, *, mask: bool) -> tuple[Grey, ImageInfo]:
    info = _header(opened(file), path, width, height, mask=mask)
    return _pixels(file, info), info


def _header(image: Opened, path: Place, width: int, height: int, *, mask: bool) -> ImageInfo:
    info = read_header(image, path, mask=mask, with_layout=True)
    require_size(info, path, width, height)
    return info


def _pixels(file: BinaryIO, info: ImageInfo) -> Grey:
    with warnings.catch_warnings():  # Pillow warns about metadata, which is not used
        warnings.simplefilter("ignore")
        pixels = _decode(file, info)
    if pixels.shape != (info.height, info.width):
        raise InvalidImage("changed its size while it was read")
    return pixels


def require_size(info: ImageInfo, path: Place, width: int, height: int) -> None:
    """Raise ImageFault unless the image has this size."""
    if (info.width, info.height) != (width, height):
        problem = f"should have {width}x{height} pixels, has {info.width}x{info.height}"
        raise ImageFault(str(path), problem, "correct the image or its tile spec")


@contextmanager
def translate_errors(path: Place) -> Iterator[None]:
    """Turn every error of reading an image into a Fault: ImageFault, ImagesMissing or StorageFault."""
    try:
        yield
    except InvalidImage as error:
        raise error.fault(path) from error
    except UNREADABLE as error:
        raise _broken(path, error) from error
    except FileNotFoundError as error:
        raise _absent(path, error) from error
    except OSError as error:
        if error.errno is None:  # Pillow raises these for invalid content
            raise _broken(path, error) from error
        raise reading_fault(str(path), "read the image", error) from error


def _decode(file: BinaryIO, info: ImageInfo) -> Grey:
    if info.layout is not None:
        return tiff_pixels(opened(file), info.layout)
    if info.format == "bmp":
        return bmp_pixels(opened(file), info.file_bytes)
    file.seek(0)
    if info.format == "jpg":
        return jpeg_pixels(file.read(info.file_bytes))
    assert info.png is not None
    return png_pixels(file, info.png, info.file_bytes)


def _broken(path: Place, error: Exception) -> ImageFault:
    return ImageFault(str(path), f"cannot be decoded: {error}", "copy or acquire the image again")


def _absent(path: Place, error: OSError) -> Fault:
    """Return ImagesMissing if the directory has other files; else StorageFault, since its mount may be missing."""
    if isinstance(path, ObjectPlace):
        return ImagesMissing(str(path), "is missing", "copy it there again")
    try:
        if any(path.parent.iterdir()):
            return ImagesMissing(str(path), "is missing", "copy it there again")
    except OSError as worse:
        return reading_fault(str(path.parent), "list the directory of the image", worse)
    return reading_fault(str(path.parent), "find any file in the directory of the image", error)


def verify_level(path: Place, width: int, height: int, mode: str) -> Grey:
    """Return the pixels of a level's file, (H, W), which must have the given size and mode.

    Raises
    ------
    ImageFault
        If it cannot be decoded, or has another size or mode.
    ImagesMissing
        If there is no such file.
    StorageFault
        If it cannot be read.
    """
    pixels, info = read_image(path, width, height)
    if info.mode != mode:
        raise ImageFault(str(path), f"should have mode {mode}, has {info.mode}", "make the mipmaps again")
    return pixels
