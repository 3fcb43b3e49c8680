"""Whether two metafiles describe a section that was imaged twice, or are copies, as their paths show. Pure."""

from pathlib import Path

from handlers.acquisition.formats.multisem import take_of
from handlers.acquisition.section_path import part_of


def can_be_taken_again(path: Path) -> bool:
    """Whether a path identifies its section, so that another metafile can be a later take of it."""
    return part_of(path) is not None or take_of(path) is not None


def is_later_take(path: Path, other: Path) -> bool:
    """Whether both paths name the same section, and `path` was imaged later, so that it replaces all of `other`.

    SBEMimage: the same slice of a stack, or region of an array; the names of logs contain the time of the run.
    MultiSEM: the same region of a wafer; the name of the directory above it contains the time.

    >>> is_later_take(Path("/logs/metadata_2.txt/slice_00002@340"), Path("/logs/metadata_1.txt/slice_00002@99"))
    True
    """
    return _is_later_part(path, other) or _is_later_region(path, other)


def _is_later_part(path: Path, other: Path) -> bool:
    later, earlier = part_of(path), part_of(other)
    if later is None or earlier is None or later.file.parent != earlier.file.parent:
        return False
    if (later.region or later.number) != (earlier.region or earlier.number):
        return False
    return (later.file.name, later.offset) > (earlier.file.name, earlier.offset)


def _is_later_region(path: Path, other: Path) -> bool:
    later, earlier = take_of(path), take_of(other)
    if later is None or earlier is None or later.section != earlier.section:
        return False
    return later.time > earlier.time


def is_mirrored(path: Path, other: Path) -> bool:
    """Whether both paths name the same section in logs of the same name: SBEMimage copies to a mirror drive.

    >>> is_mirrored(Path("/d/logs/metadata_1.txt/slice_00002@9"), Path("/z/logs/metadata_1.txt/slice_00002@9"))
    True
    """
    one, two = part_of(path), part_of(other)
    return (
        one is not None
        and two is not None
        and one.file != two.file
        and one.file.name == two.file.name
        and (one.key, one.offset) == (two.key, two.offset)
    )
