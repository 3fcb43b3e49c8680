"""Paths of sections inside a file that contains many of them. Pure.

The path of a section is that of its file with a name below it:

- `slice_00002@340` in a log that grows: its number, and its first byte in the log;
- `slice_00002_a0003_r0007@340` in array mode: also its array and region;
- `montage@00003` or `supermontage@7` in a file that is rewritten.
"""

import re
import zlib
from pathlib import Path
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"slice_([0-9]{1,10})(?:_a([0-9]{1,6})_r([0-9]{1,6}))?@([0-9]{1,15})")
_MONTAGE: Final = re.compile(r"montage@[0-9]{5,9}|supermontage@[A-Za-z0-9%._~-]{0,180}")

Region = tuple[int, int]
"""Number of an array, and of a region in it."""
Key = tuple[int, Region | None]
"""Key that the lines of one section share: the slice and, in array mode, the region."""


class Part(NamedTuple):
    """A section inside a file."""

    file: Path
    number: int
    """Number of the slice."""
    offset: int
    """First byte of the section in the file."""
    region: Region | None = None
    """Region in array mode; else None."""

    @property
    def key(self) -> Key:
        """Key that the lines of the section share."""
        return self.number, self.region

    @property
    def path(self) -> Path:
        """Path of the section.

        >>> Part(Path("/data/log.txt"), 2, 340).path
        PosixPath('/data/log.txt/slice_00002@340')
        """
        region = "_a{:04d}_r{:04d}".format(*self.region) if self.region else ""
        return self.file / f"slice_{self.number:05d}{region}@{self.offset}"


def part_of(path: Path) -> Part | None:
    """Return the section that a path names; None if it names a file.

    >>> part_of(Path("/data/log.txt/slice_00002@340"))
    Part(file=PosixPath('/data/log.txt'), number=2, offset=340, region=None)
    """
    found = _NAME.fullmatch(path.name)
    if not found:
        return None
    region = (int(found[2]), int(found[3])) if found[2] else None
    return Part(path.parent, int(found[1]), int(found[4]), region)


def montage_in(path: Path) -> str | None:
    """Return the name of a montage inside a file; None if the path names none.

    >>> montage_in(Path("/data/run.idoc/montage@00003")), montage_in(Path("/data/run.idoc"))
    ('montage@00003', None)
    """
    return path.name if _MONTAGE.fullmatch(path.name) else None


def is_inside_file(path: Path) -> bool:
    """Whether a path names a section inside a file."""
    return part_of(path) is not None or montage_in(path) is not None


def place_in_file(path: Path) -> int:
    """Return a number that tells apart the sections of a file; 0 for the file itself."""
    part = part_of(path)
    return part.offset if part else zlib.crc32(path.name.encode()) if montage_in(path) else 0


def file_of(path: Path) -> Path:
    """Return the file of a path: the path itself, or the file that contains the section."""
    return path.parent if is_inside_file(path) else path
