"""The area mean in compiled code (area_mean.c), if it was built. numpy in `area_mean` computes the same more slowly.

The code is a plain library that is called through ctypes, not an extension module: one build serves every version of
Python, and other threads can run meanwhile.
"""

import ctypes
import functools
import mmap
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from handlers.images.opened import Opened
from handlers.images.pixels import FULL_RANGE, Grey, IntensityRange, Rounding
from handlers.mipmaps.reductions.strips import CUT_SHORT, Runs, Seen, Strip

LIBRARY = Path(__file__).with_name("libarea_mean.so")
HIGHEST_LEVEL = 8
"""Highest level of the compiled code: sums of 4^8 16-bit pixels fit 32 bits, larger sums do not."""
BYTES_AT_ONCE = 192 * 1024
"""Bytes of level 0 in a strip: few enough to stay in the second-level cache, enough to make calls cheap."""
_Seen = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
"""seen_t of area_mean.c."""

SHIFT, MULTIPLY, MULTIPLY_WIDE, DIVIDE = range(4)


class _Level(ctypes.Structure):
    """level_t of area_mean.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "height", "rows")),
        ("remainder", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("out", "sums")),
        *((name, ctypes.c_uint64) for name in ("low", "high", "factor", "half", "divisor", "multiplier")),
        *((name, ctypes.c_int32) for name in ("before", "after", "sum_bytes", "out_bytes", "method", "whole_range")),
    )


WHITE: Mapping[int, int] = {8: 255, 16: 0xFFF0}
"""Bits per pixel -> smallest value that counts as full scale. 12-bit cameras shift values by 4: white is 0xfff0."""


class GreyRange(ctypes.Structure):
    """range_t of area_mean.c: extremes of an image so far, and the numbers of pixels that are 0 or at full scale."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("pixels", "black", "white")),
        *((name, ctypes.c_uint32) for name in ("darkest", "brightest", "bright")),
    )
    pixels: int
    black: int
    white: int
    darkest: int
    brightest: int

    @classmethod
    def of_bits(cls, bits: int) -> "GreyRange":
        """Return the range of an image without pixels, of 8 or 16 bits."""
        return cls(darkest=(1 << bits) - 1, bright=WHITE[bits])

    def add(self, image: Grey) -> None:
        """Add the pixels of an image."""
        if (code := compiled_code()) is None:
            self.add_by_numpy(image)
            return
        whole = image if image.flags.c_contiguous else image.copy()
        code.temwatch_add_range(ctypes.byref(self), whole.ctypes.data, whole.size, whole.itemsize)

    def add_by_numpy(self, image: Grey) -> None:
        """Add the pixels of an image without compiled code."""
        if not image.size:
            return
        self.pixels += image.size
        self.black += int(np.count_nonzero(image == 0))
        self.white += int(np.count_nonzero(image >= WHITE[image.itemsize * 8]))
        self.darkest = min(self.darkest, int(image.min()))
        self.brightest = max(self.brightest, int(image.max()))


@functools.cache
def compiled_code() -> ctypes.CDLL | None:
    """Return the compiled code; None if it was not built, or was built for another machine or version."""
    size, short, place = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
    try:
        loaded = ctypes.CDLL(str(LIBRARY))
        loaded.temwatch_add_rows.argtypes = (place, size, place, size, size, short)
        loaded.temwatch_add_rows.restype = None
        loaded.temwatch_take_file.argtypes = (
            *(place, size, short, place, size, size, short, place, size, _Seen, place),
        )
        loaded.temwatch_take_file.restype = short
        loaded.temwatch_add_range.argtypes = (place, place, size, short)
        loaded.temwatch_add_range.restype = None
        loaded.temwatch_add_laplacian.argtypes = (place, size, size, short, place, place)
        loaded.temwatch_add_laplacian.restype = None
        of_this_version = loaded.temwatch_level_bytes() == ctypes.sizeof(_Level)
    except (OSError, AttributeError):
        return None
    return loaded if of_this_version else None


class CompiledMeans:
    """The filler of levels by mean in compiled code, which makes the same pixels as `area_mean.MeansByNumpy`.

    Raises
    ------
    OSError
        If there is no compiled code; `can_do` reports that beforehand.
    """

    def __init__(
        self, width: int, height: int, depth: int, outputs: Mapping[int, Grey], to_8bit: IntensityRange | None
    ) -> None:
        loaded = compiled_code()
        if loaded is None:
            raise OSError(f"{LIBRARY} was not built for this version")
        self._add_rows, self._take_file = loaded.temwatch_add_rows, loaded.temwatch_take_file
        self._width, self._row_bytes, self._pixel_bytes = width, width * depth // 8, depth // 8
        self._strip_rows = max(2, BYTES_AT_ONCE // self._row_bytes // 2 * 2)
        self._strip = np.empty(self._strip_rows * self._row_bytes + 2 * mmap.PAGESIZE, np.uint8)
        self._outputs = dict(outputs)
        self._rules = {level: Rounding.of(4**level, to_8bit) for level in outputs}
        highest = max(outputs, default=0)
        self._levels = (_Level * highest)()
        self._sums = [_sums_of_two_rows(width >> level, depth, level) for level in range(1, highest + 1)]
        for level, entry in enumerate(self._levels, 1):
            sums = self._sums[level - 1]
            entry.width, entry.height = width >> level, height >> level
            entry.sums, entry.sum_bytes = sums.ctypes.data, sums.itemsize
            if level in outputs:
                _set_output(entry, outputs[level], self._rules[level])
                entry.whole_range = to_8bit == FULL_RANGE and self._rules[level].factor == 1

    @staticmethod
    def can_do(levels: frozenset[int]) -> bool:
        """Whether there is compiled code, and the sums of these levels fit its integers."""
        return max(levels, default=0) <= HIGHEST_LEVEL and compiled_code() is not None

    def _begin(self) -> None:
        for entry in self._levels:
            entry.rows = entry.remainder = 0

    def add_image(self, image: Grey) -> None:
        """Fill the levels from level 0, (H, W), contiguous."""
        self._begin()
        rows, row_bytes, pixel_bytes = image.shape[0], self._row_bytes, self._pixel_bytes
        self._add_rows(self._levels, len(self._levels), image.ctypes.data, row_bytes, rows, pixel_bytes)

    def add_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> None:
        """Fill the levels from the rows of an open file. Raises EOFError if the file is too short, and OSError."""
        self._begin()
        if not isinstance(image, int):
            self._add_strips(image, runs, seen, grey_range)
            return
        numbers = chain.from_iterable(runs)
        memory, begins = self._strip.data, self._strip.ctypes.data

        def hand_over(piece: int, length: int, offset: int) -> None:
            seen(offset, memory[piece - begins : piece - begins + length])

        failed = self._take_file(
            *(self._levels, len(self._levels)),
            *(image, (ctypes.c_int64 * (2 * len(runs)))(*numbers), len(runs)),
            *(self._row_bytes, self._pixel_bytes, self._strip.ctypes.data, self._strip_rows),
            _Seen(hand_over),
            ctypes.byref(grey_range) if grey_range is not None else None,
        )
        if failed > 0:
            raise EOFError(CUT_SHORT)
        if failed < 0:
            raise OSError(-failed, os.strerror(-failed))

    def _add_strips(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None) -> None:
        """Add the rows of an object, which compiled code cannot read by itself."""
        for _, rows in Strip(self._width, self._pixel_bytes * 8, self._strip_rows).read(image, runs, seen):
            if grey_range is not None:
                grey_range.add(rows)
            add, count = self._add_rows, len(self._levels)
            add(self._levels, count, rows.ctypes.data, self._row_bytes, len(rows), self._pixel_bytes)

    def biased(self) -> list[int]:
        """Return the levels of the last image whose mean error exceeds the limit."""
        return [
            level
            for level, rule in self._rules.items()
            if rule.is_biased(self._excess(level, rule), self._outputs[level].size)
        ]

    def _excess(self, level: int, rule: Rounding) -> int:
        """Return the sum of the rounding errors, times divisor: the added halves minus the remainders."""
        pixels = self._outputs[level].size
        return rule.divisor // 2 * pixels - pixels // 2 - int(self._levels[level - 1].remainder)


def _sums_of_two_rows(width: int, depth: int, level: int) -> npt.NDArray[np.unsignedinteger]:
    narrow = depth == 8 and level <= 4  # sums of 4^4 8-bit pixels, and half a block, fit 16 bits
    return np.empty((2, width), np.uint16 if narrow else np.uint32)


def _set_output(entry: _Level, output: Grey, rule: Rounding) -> None:
    assert output.flags.c_contiguous
    assert output.flags.writeable
    entry.out, entry.out_bytes = output.ctypes.data, output.itemsize
    if rule.high is None:
        entry.method, entry.after = SHIFT, rule.divisor.bit_length() - 1
        return
    largest = rule.largest + rule.divisor // 2
    entry.method, entry.before, entry.multiplier, entry.after = division(rule.divisor, largest)
    entry.low, entry.high, entry.factor = rule.low, rule.high, rule.factor
    entry.divisor, entry.half = rule.divisor, rule.divisor // 2


def division(divisor: int, largest: int) -> tuple[int, int, int, int]:
    """Return (method, shift before, multiplier, shift after) with which every number up to the largest is divided.

    ((n >> before) * multiplier) >> after equals n // divisor for each number n, if the multiplier exceeds 2^after / odd
    by less than 2^after / n. It always exceeds it by less than 1.

    Source: Granlund and Montgomery, Division by Invariant Integers using Multiplication (1994), theorem 4.2.

    >>> division(257 * 4, 65535 * 4 + 257 * 2)
    (1, 2, 65281, 24)
    """
    before = (divisor & -divisor).bit_length() - 1
    odd, most = divisor >> before, largest >> before
    if largest >= 1 << 32 or divisor >= 1 << 32:
        return DIVIDE, 0, 0, 0
    for after in range(64):
        multiplier = -(-(1 << after) // odd)
        if most * (multiplier * odd - (1 << after)) < 1 << after:
            # The remainders of 256 pixels are added in an integer as wide as the product.
            if most * multiplier < 1 << 32 and divisor < 1 << 24:
                return MULTIPLY, before, multiplier, after
            if multiplier < 1 << 32:
                return MULTIPLY_WIDE, before, multiplier, after
    return DIVIDE, 0, 0, 0
