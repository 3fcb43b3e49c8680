"""Mode and group of the files and directories that temwatch makes for other programs."""

import contextlib
import functools
import grp
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from handlers.errors import StorageFault
from handlers.parcel import Parcel

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Sharing(Parcel):
    """Modes and group of new files and directories. None: as umask and the parent directory determine them."""

    file_mode: int | None = None
    directory_mode: int | None = None
    group: str | None = None
    """Name of a group, or its number in decimal digits."""

    def share_file(self, descriptor: int, subject: str) -> None:
        """Set mode and group of an open file. Raises StorageFault with `subject`, the file's path."""
        self._share(descriptor, self.file_mode, "file_mode", subject)

    def share_directory(self, descriptor: int, subject: str) -> None:
        """Set mode and group of an open directory. Raises StorageFault with `subject`, the directory's path."""
        self._share(descriptor, self.directory_mode, "directory_mode", subject)

    def _share(self, descriptor: int, mode: int | None, key: str, subject: str) -> None:
        group = self.group
        if group is not None:
            hint = "make the service's user a member of the group, or change mipmaps.group"
            _try(lambda: os.fchown(descriptor, -1, _number(group)), f"group {group}", subject, hint)
        if mode is not None:  # after the group: changing it may clear the set-group-id bit
            hint = f"its file system may not have modes: unset mipmaps.{key}"
            _try(lambda: os.fchmod(descriptor, mode), f"mode {mode:04o}", subject, hint)


AS_MADE = Sharing()
"""Modes and group stay as the system sets them."""


def group_number(group: str) -> int | None:
    """Return the number of a group on this machine; None if there is none of this name. Blocking."""
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        return None


@functools.lru_cache(maxsize=16)
def _number(group: str) -> int:
    number = group_number(group)
    if number is None:
        raise LookupError("this machine has no such group")
    return number


def make_directories(path: Path, sharing: Sharing) -> None:
    """Make a directory and its missing parents; existing ones stay as they are. Raises StorageFault, OSError."""
    if not path.parent.exists():
        make_directories(path.parent, sharing)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        descriptor = os.open(path, _DIRECTORY)
        try:
            sharing.share_directory(descriptor, str(path))
        finally:
            os.close(descriptor)


def _try(change: Callable[[], None], what: str, subject: str, hint: str) -> None:
    try:
        change()
    except LookupError as error:
        raise StorageFault(subject, f"cannot get the {what}: {error}", hint) from error
    except OSError as error:
        raise StorageFault(subject, f"cannot get the {what}: {error.strerror}", hint) from error
