"""Check whether this process can write in a directory, and whether the service's systemd unit allows it."""

import os
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

from daemon.config.systemd_unit import UNIT, unit_properties
from daemon.watching.mounts import is_within
from handlers.text import printable

_READ_ONLY = "remount it writable; a service must have it below a path of ReadWritePaths= of its unit"


def nearest_existing(directory: Path) -> Path:
    """Return the directory, or its nearest parent that exists. Raises FileNotFoundError if none does."""
    for place in (directory, *directory.parents):
        if place.exists():
            return place
    raise FileNotFoundError(directory)


def write_problem(directory: Path, *, used: bool = False) -> str:
    """Return why this process cannot write in a directory or its nearest existing parent; empty if it can.

    Parameters
    ----------
    used : whether files were written there before. Then the directory's own permissions are not checked: only its
        subdirectories have to be writable.

    Raises
    ------
    OSError
        If the directory cannot be accessed.
    """
    place = nearest_existing(directory)
    at = "" if place == directory else f" at {printable(place)}"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"cannot be written{at}: mounted read-only here ({_READ_ONLY})"
    if not used and not os.access(place, os.W_OK | os.X_OK):
        return f"cannot be written{at} by user {user_name()}: give that user write permission"
    return ""


def user_name() -> str:
    """Return the name of the user who runs this process; the number if it has no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def read_only_in_unit(written: Mapping[str, Path]) -> Iterator[str]:
    """Yield one line for each key whose path is read-only in the sandbox of the service's unit.

    Yields nothing if systemd does not run or does not know the unit.
    """
    unit = unit_properties("ProtectSystem", "ReadWritePaths", "StateDirectory")
    if unit.get("ProtectSystem") != "strict":
        return
    open_paths = [path.lstrip("-+") for path in unit.get("ReadWritePaths", "").split()]
    open_paths += [f"/var/lib/{name}" for name in unit.get("StateDirectory", "").split()]
    for key, path in written.items():
        if not any(is_within(str(path), each) for each in open_paths):
            yield (
                f"{key}: {path} is read-only for {UNIT}: add ReadWritePaths=-{path} to a drop-in of the unit;"
                " for a share, add a parent directory on a local disk instead"
            )
