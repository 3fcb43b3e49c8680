"""Names of TIFF compressions, and which of them are supported."""

import functools
import io
from collections.abc import Mapping
from typing import Final

NONE: Final = 1
JPEG: Final = 7

NAMES: Final[Mapping[int, str]] = {
    1: "no compression",
    2: "CCITT modified Huffman",
    3: "CCITT Group 3",
    4: "CCITT Group 4",
    5: "LZW",
    6: "old-style JPEG",
    7: "JPEG",
    8: "Deflate",
    9: "JBIG (T.85)",
    10: "JBIG (T.43)",
    99: "JPEG (99)",
    262: "Kodak 262",
    22610: "JPEG XR (NDPI)",
    32766: "NeXT",
    32767: "Sony ARW",
    32769: "packed raw",
    32770: "Samsung SRW",
    32771: "CCITT modified Huffman, word-aligned",
    32772: "Samsung SRW 2",
    32773: "PackBits",
    32809: "ThunderScan",
    32895: "IT8 CT",
    32896: "IT8 linework",
    32897: "IT8 monochrome picture",
    32898: "IT8 binary line art",
    32908: "Pixar film",
    32909: "Pixar log",
    32946: "Deflate",
    32947: "Kodak DCS",
    33003: "JPEG 2000 (Aperio, YCbCr)",
    33004: "JPEG 2000 (lossy)",
    33005: "JPEG 2000 (Aperio, RGB)",
    33007: "JPEG (alternative)",
    34661: "JBIG",
    34676: "SGI log",
    34677: "SGI log, 24 bits",
    34692: "LuraDocument",
    34712: "JPEG 2000",
    34713: "Nikon NEF",
    34715: "JBIG2",
    34718: "Microsoft Document Imaging, binary",
    34719: "Microsoft Document Imaging, progressive",
    34720: "Microsoft Document Imaging, vector",
    34887: "LERC",
    34892: "lossy JPEG (DNG)",
    34925: "LZMA",
    34926: "Zstandard (former number)",
    34927: "WebP (former number)",
    34933: "PNG",
    34934: "JPEG XR",
    48124: "Jetraw",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    50013: "PIXTIFF",
    52546: "JPEG XL (DNG)",
    65000: "electron event representation",
    65001: "electron event representation",
    65002: "electron event representation",
}
"""Sources: TIFF 6.0 and its supplements, tiff.h of libtiff, TIFF tag registries of DNG, Aperio, NDPI and EER."""

_LIBTIFF: Final[Mapping[int, str]] = {
    5: "tiff_lzw",
    8: "tiff_adobe_deflate",
    32773: "packbits",
    32946: "tiff_deflate",
    34925: "lzma",
    50000: "zstd",
}
"""Compressions of grey images that libtiff decodes, with an error for truncated data: number -> Pillow's name.

The CCITT compressions, for masks of one bit, are not among them: libtiff decodes broken data without an error."""

WITH_PREDICTOR: Final = frozenset({5, 8, 32946, 34925, 50000})


def name_of(compression: int) -> str:
    """Return the name of a compression, with its number.

    >>> name_of(34887), name_of(12345)
    ('LERC (34887)', 'an unknown compression (12345)')
    """
    return f"{NAMES.get(compression, 'an unknown compression')} ({compression})"


def is_supported(compression: int) -> bool:
    """Whether images with this compression are supported."""
    return compression in (NONE, JPEG) or (compression in _LIBTIFF and _is_built_in(_LIBTIFF[compression]))


@functools.cache
def _is_built_in(name: str) -> bool:
    """Whether Pillow's libtiff has a codec. Pillow does not list codecs, so a small image is written as a test."""
    from PIL import Image  # headers of uncompressed images are read without Pillow

    try:
        Image.new("L", (8, 8)).save(io.BytesIO(), "TIFF", compression=name)
    except (OSError, ValueError):
        return False
    return True
