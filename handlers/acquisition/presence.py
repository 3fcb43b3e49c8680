"""Whether a metafile is there, and its identity: a file, or a section inside a file. Blocking."""

import os
from dataclasses import dataclass
from pathlib import Path

from handlers.acquisition.parts import file_of, is_inside_file, place_in_file
from handlers.acquisition.sections import section_identity
from handlers.errors import Evidence
from handlers.identity import FileIdentity
from handlers.regular_file import NotRegular


@dataclass(frozen=True, slots=True)
class Present:
    """A metafile that is there."""

    identity: FileIdentity
    place: tuple[int, int, int]
    """Device and inode of the file, and the place of the section in it: equal for two paths of one metafile."""
    mode: int
    """Type and permissions of the file."""


def look_at(path: Path, *, follow_links: bool = False) -> Present | None:
    """Return the metafile of a path; None if it is missing, or if the section is not closed.

    Raises
    ------
    OSError
        If it cannot be accessed.
    """
    try:
        found = file_of(path).stat(follow_symlinks=follow_links)
        identity = section_identity(path) if is_inside_file(path) else FileIdentity.of(found)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except NotRegular:
        identity = FileIdentity.of(found)  # its reader refuses it
    if identity is None:
        return None
    return Present(identity, (found.st_dev, found.st_ino, place_in_file(path)), found.st_mode)


def evidence_of(path: Path) -> Evidence:
    """Return the metafile, or any other file, as it is now."""
    if not is_inside_file(path):
        return Evidence.of(path)
    try:
        found = look_at(path)
    except OSError:
        found = None
    return Evidence(path, found.identity if found else None)


def is_there(path: Path) -> bool:
    """Whether a metafile exists, even if it cannot be read."""
    if not is_inside_file(path):
        return os.path.lexists(path)
    try:
        return look_at(path) is not None
    except OSError:
        return True
