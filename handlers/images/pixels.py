"""Grey values: types, scaling of 16 bits to 8, and unbiased rounding of means. Pure."""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.images.reduction import FULL_RANGE as FULL_RANGE
from handlers.images.reduction import IntensityRange as IntensityRange

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""A grey image, (H, W), axis 0 is y."""
Sums = npt.NDArray[np.unsignedinteger]
"""Sums of the level-0 pixels under each pixel of a level, (H, W)."""
BIAS_LIMIT = 0.09
"""Mean error of a level, in grey values, above which rounding errors are spread over the image. 0.1 is promised."""
PIECE = 1 << 18
"""Pixels over which rounding errors are spread."""
CARRIED_AT_ONCE = 1 << 16
"""Pixels of a piece that are processed in one step: more would only need more memory."""


def scaled(image: Grey, to_8bit: IntensityRange | None) -> Grey:
    """Return 16-bit pixels scaled to 8 bits, rounded half up; without a range, the image itself.

    Equal values stay equal, unlike with `Rounding`, so it is used for values of level 0 and for labels.

    >>> scaled(np.array([[0, 128, 129, 65535]], np.uint16), FULL_RANGE).tolist()
    [[0, 0, 1, 255]]
    """
    return image if to_8bit is None else _greys_of(to_8bit)[image]


@functools.lru_cache(maxsize=8)
def _greys_of(to_8bit: IntensityRange) -> npt.NDArray[np.uint8]:
    """Return the table of 8-bit values by 16-bit value."""
    low, high = to_8bit
    span = high - low
    above = np.clip(np.arange(1 << 16), low, high) - low
    return ((above * 510 + span) // (2 * span)).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Rounding:
    """Conversion of block sums to grey values: (clip(sum, low, high) - low) * factor / divisor, rounded.

    `to_nearest` rounds means to the nearest integer. Ties alternate up and down like the fields of a checkerboard:
    rounding all of them up would brighten level 1 by 0.125. If this still shifts the mean of the image (a uniform
    100.25 would become 100), `carried` carries the error from pixel to pixel instead; each pixel is then the integer
    below or above its mean.
    """

    divisor: int
    """An even number, so that its half is an integer."""
    factor: int = 1
    low: int = 0
    high: int | None = None
    """None: sums are not clipped, and low is 0."""

    @classmethod
    def of(cls, pixels: int, to_8bit: IntensityRange | None) -> "Rounding":
        """Return the rule for sums of an even number of level-0 pixels."""
        if to_8bit is None:
            return cls(pixels)
        low, high = to_8bit
        shared = math.gcd(255, high - low)
        factor, divisor = 255 // shared, (high - low) // shared * pixels
        doubled = 1 if divisor % 2 == 0 else 2
        return cls(divisor * doubled, factor * doubled, low * pixels, high * pixels)

    @property
    def largest(self) -> int:
        """The largest value of `_shares`, if sums are clipped."""
        return ((self.high or 0) - self.low) * self.factor

    def to_nearest(self, sums: Sums, result: Grey, first_row: int = 0) -> int:
        """Round to the nearest integer; ties go up where row + column is even, and down where it is odd.

        Parameters
        ----------
        result : output, in the shape of sums.
        first_row : number of the first row of sums in the image.

        Returns
        -------
        Sum of the rounding errors, times divisor; above 0 if the result is too bright.
        """
        shares = self._shares(sums)
        nearest = shares + shares.dtype.type(self.divisor // 2)
        even = first_row % 2
        nearest[even::2, 1::2] -= 1
        nearest[1 - even :: 2, 0::2] -= 1
        if self.divisor & (self.divisor - 1) == 0:
            nearest >>= self.divisor.bit_length() - 1
        else:
            nearest //= self.divisor
        result[...] = nearest
        return int(nearest.sum(dtype=np.uint64)) * self.divisor - int(shares.sum(dtype=np.uint64))

    def is_biased(self, excess: int, pixels: int) -> bool:
        """Whether the mean error of an image, excess / divisor / pixels, exceeds the limit."""
        return abs(excess) > BIAS_LIMIT * self.divisor * pixels

    def carried(self, sums: Sums, depth: np.dtype[Any]) -> Grey:
        """Return the integers below or above the means, chosen so that the sum of the image is right.

        The rounding error of each pixel is carried to the next pixel, in an order that is shuffled with a fixed seed to
        avoid stripes. The image is processed in pieces, which bounds the memory.
        """
        flat, result = sums.ravel(), np.empty(sums.size, depth)
        order = np.random.default_rng(0).permutation(np.arange(min(sums.size, PIECE), dtype=np.int32))
        for start in range(0, sums.size, PIECE):
            turns = order if sums.size - start >= PIECE else order[order < sums.size - start]
            self._carry(flat[start : start + PIECE], turns, result[start : start + PIECE])
        grey: Grey = result.reshape(sums.shape)
        return grey

    def _carry(self, sums: Sums, turns: npt.NDArray[np.int32], result: Grey) -> None:
        shared, given = self.divisor // 2, 0
        for start in range(0, turns.size, CARRIED_AT_ONCE):
            places = turns[start : start + CARRIED_AT_ONCE]
            running = np.cumsum(self._shares(sums[places]), dtype=np.uint64) + np.uint64(shared)
            whole = running // np.uint64(self.divisor)
            result[places] = np.diff(whole, prepend=np.uint64(given))
            shared, given = int(running[-1]), int(whole[-1])

    def _shares(self, sums: Sums) -> Sums:
        """Return (clip(sum, low, high) - low) * factor."""
        if self.high is None:
            return sums
        wide = smallest_type(self.largest + self.divisor)
        above: Sums = np.clip(sums, self.low, self.high) - sums.dtype.type(self.low)
        shares: Sums = above.astype(wide, copy=False) * wide.type(self.factor)
        return shares


def smallest_type(largest: int) -> np.dtype[np.unsignedinteger]:
    """Return the smallest unsigned integer type of at least 16 bits that holds a value."""
    if largest > np.iinfo(np.uint32).max:
        return np.dtype(np.uint64)
    return np.dtype(np.uint32) if largest > np.iinfo(np.uint16).max else np.dtype(np.uint16)
