"""Existence and identity of a metafile: a file, or a section inside a file. Blocking."""

import os
from dataclasses import dataclass
from pathlib import Path

from handlers.acquisition.section_content import section_identity
from handlers.acquisition.section_path import file_of, is_inside_file, place_in_file
from handlers.errors import Evidence
from handlers.identity import FileIdentity
from handlers.regular_file import NotRegular


@dataclass(frozen=True, slots=True)
class Present:
    """A metafile that exists."""

    identity: FileIdentity
    place: tuple[int, int, int]
    """Device and inode of the file, and `place_in_file` of the section: equal for two paths of one metafile."""
    mode: int
    """Type and permissions of the file."""


def find_metafile(path: Path, *, follow_links: bool = False) -> Present | None:
    """Return the metafile of a path; None if it does not exist or is a section that is not closed yet.

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
        identity = FileIdentity.of(found)  # the reader refuses it
    if identity is None:
        return None
    return Present(identity, (found.st_dev, found.st_ino, place_in_file(path)), found.st_mode)


def evidence_of(path: Path) -> Evidence:
    """Return the evidence of a metafile, or of any other file, as it is now."""
    if not is_inside_file(path):
        return Evidence.of(path)
    try:
        found = find_metafile(path)
    except OSError:
        found = None
    return Evidence(path, found.identity if found else None)


def metafile_exists(path: Path) -> bool:
    """Whether a metafile exists, even if it cannot be read."""
    if not is_inside_file(path):
        return os.path.lexists(path)
    try:
        return find_metafile(path) is not None
    except OSError:
        return True
