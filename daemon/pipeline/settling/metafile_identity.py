"""Check the identity of a metafile on disk before it is read. Blocking."""

import errno
import os
import stat
from pathlib import Path

from handlers.acquisition.arrival import not_a_metafile_fault, outside_fault
from handlers.acquisition.limits import MAX_METAFILE_BYTES, too_large_fault
from handlers.acquisition.presence import Present, find_metafile
from handlers.acquisition.section_path import file_of
from handlers.container import Containers
from handlers.errors import reading_fault
from handlers.identity import FileIdentity


def present_identity(path: Path) -> FileIdentity | None:
    """Return the identity of a path without following links; None if it is missing. Raises StorageFault."""
    found = _look_at(path)
    return found.identity if found else None


def checked_identity(path: Path, root: Path, containers: Containers) -> FileIdentity | None:
    """Return the identity of a metafile that may be read; None if it is missing.

    One lstat examines the file, since it may be removed at any moment.

    Parameters
    ----------
    root : the watched directory, which is resolved once.

    Raises
    ------
    MetafileFault
        If it is not a regular file, too large, or outside the root when links are followed.
    StorageFault
        If it cannot be accessed.
    """
    found = _look_at(path)
    if found is None:
        return None
    if not stat.S_ISREG(found.mode):
        raise not_a_metafile_fault(path)
    if not _is_within(path, root, containers):
        raise outside_fault(path, root)
    if found.identity.size > MAX_METAFILE_BYTES:
        raise too_large_fault(str(path), found.identity.size)
    return found.identity


def _look_at(path: Path) -> Present | None:
    try:
        return find_metafile(path)
    except OSError as error:
        raise reading_fault(str(path), "access the metafile", error) from error


def _is_within(path: Path, root: Path, containers: Containers) -> bool:
    try:
        return file_of(path).resolve().is_relative_to(containers.of(root).real)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error if isinstance(error, OSError) else OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        raise reading_fault(str(path), "follow the links to the metafile", reason) from error
