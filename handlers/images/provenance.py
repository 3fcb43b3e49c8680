"""Provenance of a level: a line of text in the description of its file, with the digest of level 0 and the settings.

A level is kept only if it was made from the present bytes of level 0 with the present settings. Neither times nor
pixels prove that. The text is reproducible, and readers of images ignore it.
"""

import re
from typing import TYPE_CHECKING, BinaryIO

import xxhash
from PIL import JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from handlers.images.encode import PNG_DESCRIPTION
from handlers.images.formats.pillow_pixels import UNREADABLE
from handlers.images.header import open_image
from handlers.images.reduction import IntensityRange, Reduction
from handlers.place import Place

if TYPE_CHECKING:
    from handlers.images.pixels import Grey

DESCRIPTION_TAG = 270
"""TIFF tag ImageDescription."""
_VERSION = "temwatch 1"
"""Version of the rules of reduction. If it changes, every level is made again."""
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
    """Return the settings with which a level is made, as text.

    Parameters
    ----------
    bits : bits per pixel of the level.
    scaled_from : the 16-bit values that became 0 and 255, if level 0 has 16 bits and the level 8.
    quality : quality of a JPEG; None for other formats.

    >>> recipe_of(2, Reduction("block_reduce", "mean"), 8, scaled_from=(0, 65535))
    'level=2 method=block_reduce function=mean bits=8 range=0:65535'
    """
    words = [f"level={level}", f"method={reduction.method}", f"function={reduction.function}", f"bits={bits}"]
    words += [f"range={scaled_from[0]}:{scaled_from[1]}"] if scaled_from else []
    words += [f"quality={quality}"] if quality else []
    words += ["mask"] if is_mask else []
    return " ".join(words)


def provenance(digest: bytes, recipe: str) -> str:
    """Return the text for a level's file.

    Parameters
    ----------
    digest : digest of the bytes of level 0.
    recipe : settings, by `recipe_of`.
    """
    return f"{_VERSION} xxh128={digest.hex()} {recipe}"


def with_pixels(text: str, pixels: "Grey") -> str:
    """Return the text with the digest of the level's own pixels, so that the file can be verified without level 0.

    Parameters
    ----------
    text : provenance; an empty text stays empty.
    pixels : (H, W), uint8 or uint16; the format must be lossless.
    """
    return f"{text} pixels={pixels_digest(pixels).hex()}" if text else ""


def without_pixels(text: str) -> str:
    """Return the text without the digest of the level's own pixels.

    >>> without_pixels("temwatch 1 ... bits=8 pixels=" + "0" * 32)
    'temwatch 1 ... bits=8'
    """
    return _PIXELS.sub("", text)


def pixels_match(text: str | None, pixels: "Grey") -> bool:
    """Whether pixels have the digest that the text of their file contains; True if it contains none."""
    found = _PIXELS.search(text or "")
    return found is None or bytes.fromhex(found[1]) == pixels_digest(pixels)


def pixels_digest(pixels: "Grey") -> bytes:
    """Return the XXH3-128 of pixels, row by row, 16-bit values in little-endian order."""
    ordered = pixels.astype(pixels.dtype.newbyteorder("<"), order="C", copy=False)
    return xxhash.xxh3_128_digest(ordered.data.cast("B"))


def level0_digest(text: str | None) -> bytes | None:
    """Return the digest of level 0 in the text of a level; None if the text contains none.

    >>> level0_digest(provenance(bytes(16), "level=1"))
    b'\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00'
    """
    found = _DIGEST.match(text or "")
    return bytes.fromhex(found[1]) if found else None


def read_provenance(path: Place) -> str | None:
    """Return the text in the file of a level; None if the file has no text or is not an image. Blocking.

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
            return None  # Pillow raises these for invalid content
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
