"""The memory that a worker process makes levels in, kept from tile to tile.

The pages of fresh memory cost more than the arithmetic: a strip of level 0 is read into the same place again and again,
and the levels are rounded straight into their files' contents, which are where those of the tile before were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from handlers.images.encode import plain_page
from handlers.images.pixels import Grey, IntensityRange
from handlers.images.reduction import level_size
from handlers.mipmaps.area_mean import means
from handlers.mipmaps.kernel import Runs, Seen

KEPT = 2
"""Benches for which nobody has a use at the moment; a process that works in several threads has more in use."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Images and levels that can be made in the same memory."""

    width: int
    height: int
    bits: int
    """Of level 0, 8 or 16."""
    levels: tuple[int, ...]
    to_8bit: IntensityRange | None


class LevelBuffers:
    """A strip of level 0 and the levels, by area mean."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        to_8bit = kind.to_8bit if kind.bits == 16 else None
        bits = 8 if to_8bit else kind.bits
        self.pages = {n: plain_page(*level_size(kind.width, kind.height, n), bits) for n in kind.levels}
        """Level -> its file, once it is filled."""
        outputs = {level: page.pixels for level, page in self.pages.items()}
        self._means = means(kind.width, kind.height, kind.bits, outputs, to_8bit)

    def fill_from_file(self, descriptor: int, runs: Runs, seen: Seen) -> list[int]:
        """Makes the levels of rows as they are read; the levels whose mean error is more than it may be.

        Parameters
        ----------
        seen : is given each piece of the file as it is read.

        Raises
        ------
        EOFError
            If the file ends before its rows do.
        OSError
            If it cannot be read.
        """
        self._means.add_file(descriptor, runs, seen)
        return self._means.biased()

    def fill(self, image: Grey) -> list[int]:
        """`fill_from_file` of an image that had to be decoded; (H, W)."""
        self._means.add_image(image if image.flags.c_contiguous else image.copy())
        return self._means.biased()


_idle: list[tuple[Kind, LevelBuffers]] = []


@contextmanager
def buffers_for(kind: Kind) -> Iterator[LevelBuffers]:
    """A bench that nobody else works at until it is given back; one that was used before, if there is one."""
    bench = _taken(kind) or LevelBuffers(kind)
    try:
        yield bench
    finally:
        _idle.append((kind, bench))
        del _idle[:-KEPT]


def _taken(kind: Kind) -> LevelBuffers | None:
    """Takes a bench out of the idle ones. Each call of a list's method is one step for other threads."""
    for entry in reversed(_idle.copy()):
        if entry[0] == kind:
            try:
                _idle.remove(entry)
            except ValueError:  # another thread was faster
                continue
            return entry[1]
    return None
