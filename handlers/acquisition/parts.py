"""Paths of sections inside a file that holds many of them. Pure.

A section has the path of its file and a name below it, as in `metadata_2020-06-0210021236.txt/slice_00002@340`: its
number, and the byte of the file with which it begins.
"""

import re
from pathlib import Path
from typing import Final, NamedTuple

_NAME: Final = re.compile(r"slice_([0-9]{1,10})@([0-9]{1,15})")


class Part(NamedTuple):
    """A section inside a file."""

    file: Path
    number: int
    offset: int

    @property
    def path(self) -> Path:
        """Path of the section.

        >>> Part(Path("/data/log.txt"), 2, 340).path
        PosixPath('/data/log.txt/slice_00002@340')
        """
        return self.file / f"slice_{self.number:05d}@{self.offset}"


def part_of(path: Path) -> Part | None:
    """Return the section that a path names; None if it names a file.

    >>> part_of(Path("/data/log.txt/slice_00002@340"))
    Part(file=PosixPath('/data/log.txt'), number=2, offset=340)
    """
    found = _NAME.fullmatch(path.name)
    return Part(path.parent, int(found[1]), int(found[2])) if found else None


def is_later_take(path: Path, other: Path) -> bool:
    """Whether both are one slice of one stack, and the first was imaged after the other.

    Logs are named by the time of their run.

    >>> is_later_take(Path("/logs/metadata_2.txt/slice_00002@340"), Path("/logs/metadata_1.txt/slice_00002@99"))
    True
    """
    later, earlier = part_of(path), part_of(other)
    if later is None or earlier is None or later.number != earlier.number or later.file.parent != earlier.file.parent:
        return False
    return (later.file.name, later.offset) > (earlier.file.name, earlier.offset)


def file_of(path: Path) -> Path:
    """Return the file that a path names, or that holds the section that it names."""
    part = part_of(path)
    return part.file if part else path
