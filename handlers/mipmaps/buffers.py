"""The memory in which a worker makes levels, kept from tile to tile.

New pages of memory cost more than the arithmetic. So every strip of level 0 is read into the same memory, and levels
are written straight into the content of their files, which lies where that of the previous tile lay.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from handlers.images.digest import RunningDigest
from handlers.images.encode import Page, plain_page
from handlers.images.level0 import OpenLevel0
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.reduction import MEAN, Reduction, level_size
from handlers.mipmaps.area_mean import unbiased
from handlers.mipmaps.filler import filler
from handlers.mipmaps.kernel import GreyRange, Runs, Seen
from handlers.mipmaps.resize import OF_NEIGHBOURS
from handlers.mipmaps.resize_kernel import CompiledResize

KEPT = 2
"""Number of unused buffers that are kept; a process with several threads has more of them in use. Of those with a whole
level 0 only one is kept."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Images and levels that need the same buffers."""

    width: int
    height: int
    bits: int
    """Bits of level 0, 8 or 16."""
    levels: tuple[int, ...]
    to_8bit: IntensityRange | None
    reduction: Reduction = MEAN

    @property
    def takes_all_rows(self) -> bool:
        """Whether a strip has all rows of an image."""
        is_compiled = CompiledResize.can_do(self.reduction, self.width, self.height)
        return self.reduction.function in OF_NEIGHBOURS and not is_compiled


class LevelBuffers:
    """A strip of level 0, and the files of its levels."""

    def __init__(self, kind: Kind) -> None:
        to_8bit = kind.to_8bit if kind.bits == 16 else None
        bits = 8 if to_8bit else kind.bits
        self.pages = {n: plain_page(*level_size(kind.width, kind.height, n), bits) for n in kind.levels}
        """Level -> its file, once it is filled."""
        outputs = {level: page.pixels for level, page in self.pages.items()}
        self._filler = filler(kind.width, kind.height, kind.bits, outputs, to_8bit, kind.reduction)

    def fill_from_file(self, descriptor: int, runs: Runs, seen: Seen, grey_range: GreyRange | None = None) -> list[int]:
        """Fill the levels from rows as they are read. Return the levels whose mean error exceeds the limit.

        Parameters
        ----------
        seen : gets each piece of the file as it is read.
        grey_range : gets the pixels of level 0, if it is given.

        Raises
        ------
        EOFError
            If the file ends before its rows do.
        OSError
            If it cannot be read.
        """
        self._filler.add_file(descriptor, runs, seen, grey_range)
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
    """Context with the levels of an image; its memory is used again after it.

    Rows are read straight from the file if they lie there as in memory; otherwise the image is decoded first.

    Parameters
    ----------
    grey_range : gets the pixels of level 0 while they are in the cache, if it is given.

    Raises
    ------
    Fault
        As level 0 raises; ImageChanging if the file changed until all of it was read.
    """
    image = None if level0.runs else level0.pixels()
    bits = image.itemsize * 8 if image is not None else level0.bits
    with buffers_for(Kind(width, height, bits, levels, to_8bit, reduction)) as buffers:
        if image is not None and grey_range is not None:
            grey_range.add(image)
        for level in buffers.fill(image) if image is not None else _stream(level0, buffers, grey_range):
            image = level0.pixels() if image is None else image
            buffers.pages[level].pixels[...] = unbiased(image, level, to_8bit if image.dtype == np.uint16 else None)
        level0.require_unchanged()
        yield buffers.pages


def _stream(level0: OpenLevel0, buffers: LevelBuffers, grey_range: GreyRange | None) -> list[int]:
    def read(descriptor: int, digest: RunningDigest) -> list[int]:
        return buffers.fill_from_file(descriptor, level0.runs, digest.take, grey_range)

    return level0.stream(read)


_idle: list[tuple[Kind, LevelBuffers]] = []


@contextmanager
def buffers_for(kind: Kind) -> Iterator[LevelBuffers]:
    """Context with buffers that nobody else uses meanwhile; used ones if there are any of this kind."""
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
    """Take buffers out of the idle ones. Each call of a list's method is atomic among threads."""
    for entry in reversed(_idle.copy()):
        if is_wanted(entry[0]):
            try:
                _idle.remove(entry)
            except ValueError:  # another thread took it
                continue
            return entry[1]
    return None
