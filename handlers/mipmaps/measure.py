"""Measuring an image while its pixels are in memory for making its levels."""

import ctypes
import math
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import xxhash

from handlers.images.digest import DIGEST_BYTES
from handlers.images.pixels import Grey
from handlers.mipmaps.overlap import LEVEL, Neighbour, Overlap, Side, compare_with
from handlers.mipmaps.reductions.mean_kernel import GreyRange, compiled_code
from handlers.parcel import Parcel

_ROW: Final = struct.Struct(f"<6dB{DIGEST_BYTES}s")
_OVERLAP: Final = struct.Struct("<Bddd")
UNKNOWN: Final = float("nan")


@dataclass(frozen=True, slots=True)
class Measured(Parcel):
    """Numbers of one image. Unknown numbers are NaN."""

    bits: float = UNKNOWN
    """Bits per pixel of level 0."""
    darkest: float = UNKNOWN
    """Smallest pixel value of level 0 in grey values of the file; `brightest`: the largest."""
    brightest: float = UNKNOWN
    dark_share: float = UNKNOWN
    """Fraction of the pixels that are 0."""
    saturated_share: float = UNKNOWN
    """Fraction of the pixels at full scale."""
    sharpness: float = UNKNOWN
    """Variance of the Laplacian of level 3 on the scale 0 to 255."""
    levels: int = 0
    """The highest level in `levels_digest`."""
    levels_digest: bytes = b""
    """Digest of all level files together, by `digest_of_levels`; empty if not known."""
    overlaps: tuple[Overlap, ...] = ()
    """Overlaps with the neighbours whose level 3 existed and had enough contrast."""

    def to_bytes(self) -> bytes:
        """Return the numbers in the form that the journal stores."""
        numbers = self.bits, self.darkest, self.brightest, self.dark_share, self.saturated_share, self.sharpness
        overlaps = (_OVERLAP.pack(each.side, each.x, each.y, each.error) for each in self.overlaps)
        return _ROW.pack(*numbers, self.levels, self.levels_digest) + b"".join(overlaps)

    @classmethod
    def from_bytes(cls, row: bytes) -> Self:
        """Return the numbers in the bytes of `to_bytes`."""
        bits, darkest, brightest, dark, saturated, sharpness, levels, digest = _ROW.unpack_from(row)
        overlaps = tuple(Overlap(Side(side), *rest) for side, *rest in _OVERLAP.iter_unpack(row[_ROW.size :]))
        known = digest if any(digest) else b""
        return cls(bits, darkest, brightest, dark, saturated, sharpness, levels, known, overlaps)


def digest_of_levels(digests: Mapping[int, bytes]) -> bytes:
    """Return one digest for the files of all levels.

    Parameters
    ----------
    digests : level -> digest of its file.
    """
    whole = xxhash.xxh3_128()
    for level, digest in sorted(digests.items()):
        whole.update(bytes([level]) + digest)
    return whole.digest()


class Measurement:
    """Numbers of an image, collected while its levels are made.

    Parameters
    ----------
    bits : bits per pixel of level 0.
    neighbours : tiles whose overlap with this tile is compared.
    """

    def __init__(self, bits: int, neighbours: Sequence[Neighbour] = ()) -> None:
        self.level0 = GreyRange.of_bits(bits)
        """The caller adds the pixels of level 0 to it."""
        self._bits = bits
        self._sharpness = UNKNOWN
        self._files: dict[int, bytes] = {}
        self._neighbours = neighbours
        self._overlaps: tuple[Overlap, ...] = ()

    def see_level(self, level: int, pixels: Grey) -> None:
        """Measure the pixels of a level. Its file must be in place, so that neighbours that are made later find it."""
        if level == LEVEL:
            self._sharpness = sharpness_of(pixels)
            found = (compare_with(neighbour, pixels) for neighbour in self._neighbours)
            self._overlaps = tuple(overlap for overlap in found if overlap is not None)

    def see_file(self, level: int, digest: bytes) -> None:
        """Add the digest of a level's file."""
        self._files[level] = digest

    @property
    def has_sharpness(self) -> bool:
        """Whether level 3 was measured."""
        return not math.isnan(self._sharpness)

    def result(self, levels: Collection[int]) -> Measured:
        """Return the numbers of an image that has these levels."""
        of = range_of(self.level0, self._bits)
        numbers = of.bits, of.darkest, of.brightest, of.dark_share, of.saturated_share, self._sharpness
        if self._files.keys() != set(levels):
            return Measured(*numbers, overlaps=self._overlaps)
        return Measured(*numbers, max(levels, default=0), digest_of_levels(self._files), self._overlaps)


def range_of(found: GreyRange, bits: int) -> Measured:
    """Return the numbers in a range; all are unknown if it has no pixels."""
    if not found.pixels:
        return Measured()
    return Measured(bits, found.darkest, found.brightest, found.black / found.pixels, found.white / found.pixels)


def sharpness_of(level3: Grey) -> float:
    """Return the variance of the Laplacian over the inner pixels, on the scale 0 to 255.

    The Laplacian is the sum of the four neighbours minus four times the pixel. 0 if there is no inner pixel.

    >>> sharpness_of(np.array([[0, 0, 0, 0], [0, 8, 0, 0], [0, 0, 0, 0]], np.uint8))
    400.0
    """
    height, width = level3.shape
    if min(height, width) < 3:
        return 0.0
    pixels: int = (height - 2) * (width - 2)
    added, squared = _laplacians(level3 if level3.flags.c_contiguous else level3.copy())
    mean, scale = added / pixels, 1.0 if level3.itemsize == 1 else 257.0
    return (squared / pixels - mean * mean) / (scale * scale)


def _laplacians(image: Grey) -> tuple[int, int]:
    """Return the sums of the Laplacians of the inner pixels, and of their squares."""
    if (code := compiled_code()) is None:
        return _laplacians_by_numpy(image)
    height, width = image.shape
    added, squared = ctypes.c_int64(0), ctypes.c_uint64(0)
    of_image = image.ctypes.data, width, height, image.itemsize
    code.temwatch_add_laplacian(*of_image, ctypes.byref(added), ctypes.byref(squared))
    return added.value, squared.value


def _laplacians_by_numpy(image: Grey) -> tuple[int, int]:
    wide = image.astype(np.int64)
    inner = wide[1:-1, 1:-1]
    curves = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:] - 4 * inner
    return int(curves.sum()), int(np.square(curves).sum())
