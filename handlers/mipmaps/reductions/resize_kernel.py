"""Levels by Pillow's filters in compiled code (resize.c), if it was built. `resize` computes the same with Pillow."""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from handlers.images.opened import Opened
from handlers.images.pixels import Grey, IntensityRange, scaled
from handlers.images.reduction import Reduction
from handlers.mipmaps.reductions import windows
from handlers.mipmaps.reductions.mean_kernel import GreyRange, compiled_code
from handlers.mipmaps.reductions.strips import Runs, Seen, Strip

BYTES_AT_ONCE = 384 * 1024
"""Bytes of level 0 in a strip: enough to make calls cheap, few enough to stay in the second-level cache."""
LANES, MARGIN = 16, 4
"""The values of resize.c."""


class _Level(ctypes.Structure):
    """level_t of resize.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("width", "height", "number", "first", "taps", "stride", "tail")),
        *((name, ctypes.c_void_p) for name in ("out", "phases", "filtered", "sums", "across", "edges", "down")),
    )


def resizing_code() -> ctypes.CDLL | None:
    """Return the compiled code; None if it was not built, or was built for another version."""
    if (code := compiled_code()) is None:
        return None
    size, short, place = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
    try:
        code.temwatch_resized_level_bytes.restype = size
        code.temwatch_resize_rows.argtypes = (place, size, place, size, size, size, size, short)
        code.temwatch_resize_rows.restype = None
        code.temwatch_pick_rows.argtypes = (place, size, place, size, size, size, short)
        code.temwatch_pick_rows.restype = None
        is_of_this_version = code.temwatch_resized_level_bytes() == ctypes.sizeof(_Level)
    except AttributeError:
        return None
    return code if is_of_this_version else None


class CompiledResize:
    """The filler of levels by Pillow's filters in compiled code, which makes the same pixels as `reduce.ByStrips`.

    Raises
    ------
    OSError
        If there is no compiled code; `can_do` reports that beforehand.
    """

    def __init__(
        self,
        width: int,
        height: int,
        bits: int,
        outputs: Mapping[int, Grey],
        to_8bit: IntensityRange | None,
        function: str,
    ) -> None:
        code = resizing_code()
        if code is None:
            raise OSError("the compiled code was not built for this version")
        self._outputs, self._to_8bit = dict(outputs), to_8bit
        self._strip = Strip(width, bits, min(height, max(1, BYTES_AT_ONCE // (width * bits // 8))))
        self._made = {n: np.empty(out.shape, np.uint16) if to_8bit else out for n, out in outputs.items()}
        self._levels = (_Level * max(outputs))()
        self._kept: list[npt.NDArray[Any]] = []
        for number, level in enumerate(self._levels, 1):
            level.number, level.width, level.height = number, width >> number, height >> number
            if number in self._made:
                level.out = self._made[number].ctypes.data
            if function in windows.FILTERS:
                self._prepare(level, width, height, bits, function)
        self._take = self._function(code, width, height, bits // 8, function)

    @staticmethod
    def can_do(reduction: Reduction, width: int, height: int) -> bool:
        """Whether there is compiled code for a reduction, and it has the same order of directions as Pillow.

        Pillow 13 filters tall images vertically first, and rounds after each direction. Such images are left to Pillow.
        """
        if reduction.method != "PIL" or resizing_code() is None:
            return False
        return reduction.function == "NEAREST" or 2 * height <= 3 * width

    def _function(
        self, code: ctypes.CDLL, width: int, height: int, pixel_bytes: int, function: str
    ) -> Callable[[Grey, int], None]:
        levels, count = self._levels, len(self._levels)

        def pick(rows: Grey, top: int) -> None:
            code.temwatch_pick_rows(levels, count, rows.ctypes.data, width, top, len(rows), pixel_bytes)

        def resize(rows: Grey, top: int) -> None:
            code.temwatch_resize_rows(levels, count, rows.ctypes.data, width, height, top, len(rows), pixel_bytes)

        return resize if function in windows.FILTERS else pick

    def _prepare(self, level: _Level, width: int, height: int, bits: int, name: str) -> None:
        """Set the memory and the weights of a level."""
        kept, summed, weigh = (
            (np.int32, np.int32, windows.as_integers) if bits == 8 else (np.float32, np.float64, np.ascontiguousarray)
        )
        number, reach, padded = level.number, windows.FILTERS[name][1], -(-level.width // LANES) * LANES
        level.first, level.taps = windows.first_of(reach, number), windows.length_of(reach, number)
        level.stride = MARGIN + padded + MARGIN
        level.phases = self._keep(np.zeros(level.stride << number, kept))
        if not level.out:
            return
        level.tail = max(1, (level.width - windows.EDGE) // LANES)
        level.filtered = self._keep(np.zeros(padded, kept))
        level.sums = self._keep(np.zeros((level.taps >> number, level.width), summed))
        firsts = [0, *range(level.tail * LANES, padded, LANES)]
        edges = [windows.of_columns(name, number, width, range(first, first + LANES)) for first in firsts]
        level.across = self._keep(weigh(windows.window(name, number, width, windows.between(number, width))))
        level.edges = self._keep(weigh(np.array(edges)))
        level.down = self._keep(weigh(windows.kinds(name, number, height)))

    def _keep(self, array: npt.NDArray[Any]) -> int:
        """Keep an array alive as long as this object, and return its address."""
        self._kept.append(array)
        return array.ctypes.data

    def add_image(self, image: Grey) -> None:
        """Fill the levels from level 0, (H, W), contiguous."""
        self._take(image, 0)
        self._scale()

    def add_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> None:
        """Fill the levels from the rows of an open file. Raises EOFError if the file is too short, and OSError."""
        for top, rows in self._strip.read(image, runs, seen):
            if grey_range is not None:
                grey_range.add(rows)
            self._take(rows, top)
        self._scale()

    def biased(self) -> list[int]:
        """Return no levels: only means are corrected for bias."""
        return []

    def _scale(self) -> None:
        if self._to_8bit:
            for number, output in self._outputs.items():
                output[...] = scaled(self._made[number], self._to_8bit)
