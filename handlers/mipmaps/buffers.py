"""The memory in which a worker makes levels, reused from tile to tile.

New pages of memory cost more than the arithmetic. So every strip of level 0 is read into the same memory, and levels
are written directly into the content of their files, for which the memory of the previous tile is reused.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from handlers.images.digest import RunningDigest
from handlers.images.encode import Page, plain_page
from handlers.images.level0 import OpenLevel0
from handlers.images.opened import Opened
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.reduction import MEAN, Reduction, level_size
from handlers.mipmaps.reductions.area_mean import unbiased
from handlers.mipmaps.reductions.mean_kernel import GreyRange
from handlers.mipmaps.reductions.reduce import filler
from handlers.mipmaps.reductions.resize import OF_NEIGHBOURS
from handlers.mipmaps.reductions.resize_kernel import CompiledResize
from handlers.mipmaps.reductions.strips import Runs, Seen

KEPT = 2
"""Number of idle buffers that are kept. At most one of them has memory for all rows of level 0."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Key of buffers: images and levels of the same kind can use the same buffers."""

    width: int
    height: int
    bits: int
    """Bits of level 0, 8 or 16."""
    levels: tuple[int, ...]
    to_8bit: IntensityRange | None
    reduction: Reduction = MEAN

    @property
    def takes_all_rows(self) -> bool:
        """Whether a strip has memory for all rows of an image."""
        is_compiled = CompiledResize.can_do(self.reduction, self.width, self.height)
        return self.reduction.function in OF_NEIGHBOURS and not is_compiled


class LevelBuffers:
    """Memory for a strip of level 0 and for the files of the levels."""

    def __init__(self, kind: Kind) -> None:
        to_8bit = kind.to_8bit if kind.bits == 16 else None
        bits = 8 if to_8bit else kind.bits
        self.pages = {n: plain_page(*level_size(kind.width, kind.height, n), bits) for n in kind.levels}
        """Level -> its file, valid after it is filled."""
        outputs = {level: page.pixels for level, page in self.pages.items()}
        self._filler = filler(kind.width, kind.height, kind.bits, outputs, to_8bit, kind.reduction)

    def fill_from_file(self, image: Opened, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> list[int]:
        """Fill the levels from the rows of an open file. Return the levels whose mean error exceeds the limit.

        Parameters
        ----------
        seen : called with each piece of the file after it is read.
        grey_range : if given, the pixels of level 0 are added to it.

        Raises
        ------
        EOFError
            If the file ends before the last row.
        OSError
            If the file cannot be read.
        """
        self._filler.add_file(image, runs, seen, grey_range)
        return self._filler.biased()

    def fill(self, image: Grey) -> list[int]:
        """Fill the levels from a decoded image, (H, W). Return the levels whose mean error exceeds the limit."""
        self._filler.add_image(image if image.flags.c_contiguous else image.copy())
        return self._filler.biased()


@contextmanager
def reduced(
    level0: OpenLevel0,
    width: int,
    height: int,
    levels: tuple[int, ...],
    to_8bit: IntensityRange | None,
    reduction: Reduction = MEAN,
    grey_range: GreyRange | None = None,
) -> Iterator[Mapping[int, Page]]:
    """Context with the levels of an image. Their memory is reused after the context.

    Rows are read directly from the file if it stores them uncompressed; otherwise the image is decoded first.

    Parameters
    ----------
    grey_range : if given, the pixels of level 0 are added to it while they are in the cache.

    Raises
    ------
    Fault
        As raised by `level0`. The comparison with the file has begun; the caller calls `level0.require_unchanged`.
    """
    image = None if level0.runs else level0.pixels()
    bits = image.itemsize * 8 if image is not None else level0.bits
    with buffers_for(Kind(width, height, bits, levels, to_8bit, reduction)) as buffers:
        if image is not None and grey_range is not None:
            grey_range.add(image)
        for level in buffers.fill(image) if image is not None else _stream(level0, buffers, grey_range):
            image = level0.pixels() if image is None else image
            buffers.pages[level].pixels[...] = unbiased(image, level, to_8bit if image.dtype == np.uint16 else None)
        level0.begin_comparing()
        yield buffers.pages


def _stream(level0: OpenLevel0, buffers: LevelBuffers, grey_range: GreyRange | None) -> list[int]:
    def read(image: Opened, digest: RunningDigest) -> list[int]:
        return buffers.fill_from_file(image, level0.runs, digest.take, grey_range)

    return level0.stream(read)


_idle: list[tuple[Kind, LevelBuffers]] = []


@contextmanager
def buffers_for(kind: Kind) -> Iterator[LevelBuffers]:
    """Context with buffers for exclusive use: idle buffers of this kind, or new ones."""
    buffers = _take_idle(kind.__eq__) or LevelBuffers(kind)
    try:
        yield buffers
    finally:
        _keep(kind, buffers)


def _keep(kind: Kind, buffers: LevelBuffers) -> None:
    if kind.takes_all_rows:
        while other := _take_idle(lambda idle: idle.takes_all_rows):
            del other
    _idle.append((kind, buffers))
    del _idle[:-KEPT]


def _take_idle(is_wanted: Callable[[Kind], bool]) -> LevelBuffers | None:
    """Remove buffers from the idle ones and return them; None if there are none. Each list operation is atomic."""
    for entry in reversed(_idle.copy()):
        if is_wanted(entry[0]):
            try:
                _idle.remove(entry)
            except ValueError:  # another thread took it
                continue
            return entry[1]
    return None
