"""Temporary files of levels: names that identify the writer, and the removal of files whose writers are dead.

A writer is a process of a machine. Only a process of the same machine can know that the writer is dead; on another
machine, the age of the file decides.
"""

import functools
import hashlib
import itertools
import os
import re
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from handlers.container import real_path

STALE_S = 3600.0
"""Time without a change after which a temporary file of another machine counts as left by a dead writer."""
_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<maker>(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+)-\d+\.tmp")


def temporary_name(name: str) -> str:
    """Return a name for a temporary file that identifies this process. No other writer uses it."""
    short = name if len(os.fsencode(name)) <= 180 else hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{short}.{_own_name(os.getpid())}-{next(_counter)}.tmp"


def is_temporary(name: str) -> bool:
    """Whether a name is that of a temporary file, of a running or a dead writer."""
    return _TEMPORARY.fullmatch(name) is not None


def machine_of(name: str) -> str:
    """Return the machine in the name of a temporary file, which is the result of `machine` there; else an empty text.

    >>> machine_of(".image.tif.tif.0123abcd-4711-99-0.tmp")
    '0123abcd'
    >>> machine_of("image.tif.tif")
    ''
    """
    match = _TEMPORARY.fullmatch(name)
    return match["machine"] if match else ""


@functools.cache
def machine() -> str:
    """Return a digest of host and process namespace, within which process ids can be compared."""
    text = f"{socket.gethostname()} {Path('/proc/self/ns/pid').readlink()}"
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


@functools.lru_cache(maxsize=1)
def _own_name(pid: int) -> str | None:
    """Return `maker` of this process, cached until a fork."""
    return maker(pid)


def maker(pid: int) -> str | None:
    """Return machine, process id and start time, which identify a process; None if there is no such process.

    Zombies count as dead: a killed pool is not reaped at once.
    """
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else f"{machine()}-{pid}-{fields[18]}"


# --- leftovers

MAX_SWEPT = 4096
"""Largest number of directories that a process remembers."""
_swept: set[str] = set()
"""Paths of directories that this process has swept."""


def sweep(path: str, directory: int) -> None:
    """Remove temporary files of dead writers from a directory.

    Each process does it once for each directory: a directory may contain all tiles of a section, and after a worker's
    death the pool has new processes.

    Parameters
    ----------
    path : of the directory.
    directory : its descriptor.
    """
    if path not in _swept:
        if len(_swept) >= MAX_SWEPT:
            _swept.clear()
        remove_left(temporaries_in(real_path(directory)))
        _swept.add(path)


def temporaries_in(directory: str) -> list[str]:
    """Return the paths of all temporary files in a directory, also of running writers. Raises OSError."""
    with os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.name.startswith(".") and is_temporary(entry.name)]


def remove_left(paths: Iterable[str]) -> None:
    """Remove the temporary files whose writers are dead, as far as this machine can know."""
    for path in paths:
        if _is_left(path):
            remove(path)


def remove(path: str, directory: int | None = None) -> None:
    """Remove a temporary file. If that fails, a later `sweep` removes it; the caller reports its own fault.

    Parameters
    ----------
    directory : descriptor of the directory that a relative path starts from.
    """
    try:
        os.unlink(path, dir_fd=directory)
    except OSError:
        return


def _is_left(path: str) -> bool:
    match = _TEMPORARY.fullmatch(os.path.basename(path))  # noqa: PTH119  as above
    if match is None:
        return False
    if match["machine"] == machine():
        return maker(int(match["pid"])) != match["maker"]
    try:
        return time.time() - os.lstat(path).st_mtime > STALE_S
    except OSError:
        return False
