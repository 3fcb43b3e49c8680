"""What a level's file says of how it was made: one line of text, kept where its format keeps a description.

A level is worth keeping only if it was made of the very bytes that its image holds now, in the way that is wanted now.
Neither a time nor the pixels tell that. The text is the same in every run, and readers of images pass over it.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import xxhash
from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from handlers.images.encode import PNG_DESCRIPTION
from handlers.images.header import UNREADABLE, open_image
from handlers.images.reduction import IntensityRange, Reduction

if TYPE_CHECKING:
    from handlers.images.pixels import Grey

DESCRIPTION_TAG = 270
"""TIFF's ImageDescription."""
_VERSION = "temwatch 1"
"""Another one makes every level anew: the rules of reduction have changed."""
_DIGEST = re.compile(rf"{_VERSION} xxh128=([0-9a-f]{{32}}) ")
_PIXELS = re.compile(r" pixels=([0-9a-f]{32})$")


def recipe_of(
    level: int,
    reduction: Reduction,
    bits: int,
    *,
    scaled_from: IntensityRange | None = None,
    quality: int | None = None,
    is_mask: bool = False,
) -> str:
    """Return how a level is made, but for what it is made of.

    Parameters
    ----------
    bits : of its pixels.
    scaled_from : the 16-bit values that became 0 and 255, where level 0 has 16 bits and the level 8.
    quality : of a JPEG.

    >>> recipe_of(2, Reduction("block_reduce", "mean"), 8, scaled_from=(0, 65535))
    'level=2 method=block_reduce function=mean bits=8 range=0:65535'
    """
    words = [f"level={level}", f"method={reduction.method}", f"function={reduction.function}", f"bits={bits}"]
    words += [f"range={scaled_from[0]}:{scaled_from[1]}"] if scaled_from else []
    words += [f"quality={quality}"] if quality else []
    words += ["mask"] if is_mask else []
    return " ".join(words)


def provenance(digest: bytes, how: str) -> str:
    """Return the text that a level's file carries.

    Parameters
    ----------
    digest : of the bytes of level 0.
    """
    return f"{_VERSION} xxh128={digest.hex()} {how}"


def with_pixels(text: str, pixels: "Grey") -> str:
    """Return the text with the digest of the level's own pixels behind it: the file then proves itself.

    Parameters
    ----------
    text : as of `provenance`; an empty one stays empty.
    pixels : (H, W), uint8 or uint16; of a format that keeps them as they are.
    """
    return f"{text} pixels={pixels_digest(pixels).hex()}" if text else ""


def without_pixels(text: str) -> str:
    """Return what a text says of how the level was made.

    >>> without_pixels("temwatch 1 ... bits=8 pixels=" + "0" * 32)
    'temwatch 1 ... bits=8'
    """
    return _PIXELS.sub("", text)


def pixels_match(text: str | None, pixels: "Grey") -> bool:
    """Return whether the pixels are those that the text of their file names; True where it names none."""
    found = _PIXELS.search(text or "")
    return found is None or bytes.fromhex(found[1]) == pixels_digest(pixels)


def pixels_digest(pixels: "Grey") -> bytes:
    """Return the XXH3-128 of pixels, row by row, 16-bit values in little-endian order."""
    ordered = pixels.astype(pixels.dtype.newbyteorder("<"), order="C", copy=False)
    return xxhash.xxh3_128_digest(ordered.data.cast("B"))


def level0_digest(text: str | None) -> bytes | None:
    """Return the digest of the level 0 that a level was made of; None if the text does not say.

    >>> level0_digest(provenance(bytes(16), "level=1"))
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    found = _DIGEST.match(text or "")
    return bytes.fromhex(found[1]) if found else None


def read_provenance(path: Path) -> str | None:
    """Return the text that the file of a level carries; None if it carries none, or is no image. Blocking.

    Raises
    ------
    ImageFault, OSError
        If it cannot be opened.
    """
    with open_image(path) as file:
        try:
            text = _description(file)
        except UNREADABLE:
            return None
        except OSError as error:
            if error.errno is not None:
                raise
            return None  # Pillow's way of saying that the content is wrong
    return text.rstrip(" \0") if isinstance(text, str) else None


def _description(file: BinaryIO) -> object:
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(b"\x89PNG"):
        return PngImagePlugin.PngImageFile(file).info.get(PNG_DESCRIPTION)
    if magic.startswith(b"\xff\xd8"):
        comment = JpegImagePlugin.JpegImageFile(file).info.get("comment")
        return comment.decode("ascii", "replace") if isinstance(comment, bytes) else None
    return TiffImagePlugin.TiffImageFile(file).tag_v2.get(DESCRIPTION_TAG)
