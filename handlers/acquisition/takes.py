"""Whether two metafiles describe one section that was imaged twice, or are copies. Pure: their paths show it."""

from pathlib import Path

from handlers.acquisition.multisem import take_of
from handlers.acquisition.parts import part_of


def can_be_taken_again(path: Path) -> bool:
    """Whether a path shows which section it is, so that another one can be a take of the same."""
    return part_of(path) is not None or take_of(path) is not None


def is_later_take(path: Path, other: Path) -> bool:
    """Whether both are one section, and the first was imaged after the other: it replaces it whole.

    Of SBEMimage one slice of one stack, or one region of an array; its logs are named by the time of their run. Of
    MultiSEM one region of one wafer and scan, whose directory above is named by the time.

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
    """Whether both are one place in logs of one name: SBEMimage copies its directories to a mirror drive.

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
