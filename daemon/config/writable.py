"""Where this process may write, and where systemd lets the service write."""

import os
import pwd
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from daemon.watching.mounts import is_within
from handlers.text import printable

UNIT = "temwatch.service"
ASK_S = 5.0
"""How long systemd may take to answer."""

_READ_ONLY = "remount it writable; a service must have it below a path of ReadWritePaths= of its unit"


def nearest(directory: Path) -> Path:
    """The directory, or the nearest above it that exists: there it will be made."""
    for place in (directory, *directory.parents):
        if place.exists():
            return place
    raise FileNotFoundError(directory)


def refusal(directory: Path, *, used: bool = False) -> str:
    """Why nothing can be written in a directory, or in the nearest above it that exists; empty if something can.

    Parameters
    ----------
    used : whether something was written there before: then the directories below it decide, not its own rights.

    Raises
    ------
    OSError
        If it cannot be looked at.
    """
    place = nearest(directory)
    at = "" if place == directory else f" at {printable(place)}"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return f"cannot be written{at}: mounted read-only here ({_READ_ONLY})"
    if not used and not os.access(place, os.W_OK | os.X_OK):
        return f"cannot be written{at} by user {_user()}: let that user write there"
    return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def outside_of_the_unit(written: Mapping[str, Path]) -> Iterator[str]:
    """One line for each key whose path the service must write and the sandbox of its unit keeps read-only.

    Says nothing where systemd does not know the unit, or does not run.
    """
    unit = _properties()
    if unit.get("LoadState") != "loaded" or unit.get("ProtectSystem") != "strict":
        return
    open_paths = [path.lstrip("-+") for path in unit.get("ReadWritePaths", "").split()]
    open_paths += [f"/var/lib/{name}" for name in unit.get("StateDirectory", "").split()]
    for key, path in written.items():
        if not any(is_within(str(path), each) for each in open_paths):
            yield (
                f"{key}: {path} is read-only for {UNIT}: add ReadWritePaths=-{path} to a drop-in of it,"
                " or a directory of a local disk above it where it is on a share"
            )


def _properties() -> dict[str, str]:
    names = "LoadState,ProtectSystem,ReadWritePaths,StateDirectory"
    try:
        said = subprocess.run(  # noqa: S603  constant words
            ["systemctl", "show", UNIT, "--property", names],  # noqa: S607  as an operator would ask
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ASK_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
