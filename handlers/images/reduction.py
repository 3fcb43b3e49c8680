"""Settings of the reduction to levels: sizes, methods, the range from which 16-bit values are scaled. Pure.

It does not import numpy, which configuration and planning do not need.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from handlers.errors import SettingsFault
from handlers.parcel import Parcel

IntensityRange = tuple[int, int]
"""The 16-bit values that become 0 and 255. A value outside becomes the nearer of these."""
FULL_RANGE: IntensityRange = (0, 65535)

METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "block_reduce": ("mean", "median", "min", "max", "mode"),
        "PIL": ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS"),
        "render": ("mean",),
    }
)
"""Method -> functions."""


@dataclass(frozen=True, slots=True)
class Reduction(Parcel):
    """Method and function that make levels from level 0.

    Parameters
    ----------
    method : "block_reduce", "PIL" or "render", a key of METHODS.
    function : with block_reduce: mean, median, min, max or mode of each block; with PIL: one of Pillow's filters
        NEAREST, BOX, BILINEAR, HAMMING, BICUBIC, LANCZOS; with render: mean.

    Raises
    ------
    SettingsFault
        If the method is unknown, or does not have this function.

    >>> Reduction("PIL", "LANCZOS")
    Reduction(method='PIL', function='LANCZOS')
    """

    method: str = "block_reduce"
    function: str = "mean"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingsFault("mipmaps.method", f"{self.method!r} is not one of {', '.join(METHODS)}")
        functions = METHODS[self.method]
        if self.function not in functions:
            key = "mipmaps.filter" if self.method == "PIL" else "mipmaps.function"
            problem = f"{self.function!r} is not one of {', '.join(functions)}, the functions of {self.method}"
            raise SettingsFault(key, problem)


MEAN = Reduction("block_reduce", "mean")
MASK = Reduction("block_reduce", "min")
"""Reduction of masks: two values stay two values, and a pixel is opaque only if its whole block is."""


def level_size(width: int, height: int, level: int) -> tuple[int, int]:
    """Return width and height of a mipmap level; an odd last row or column is dropped, as render does. May be 0.

    >>> level_size(2760, 2330, 1), level_size(2760, 2330, 3)
    ((1380, 1165), (345, 291))
    """
    return width >> level, height >> level
