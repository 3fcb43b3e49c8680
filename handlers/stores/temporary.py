"""Temporary files of levels: names that identify their writers, and the removal of those whose writers died.

A writer is a process of a machine. Only a process of the same machine can know that it is dead; on another machine, the
age of the file decides.
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

STALE_S = 3600.0
"""A temporary file of another machine that has not changed for this long has no writer."""
_counter = itertools.count()
_TEMPORARY = re.compile(r"\..+\.(?P<maker>(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-\d+)-\d+\.tmp")


def temporary_name(name: str) -> str:
    """Return a name in the same directory that identifies the writer; no other writer uses it."""
    short = name if len(os.fsencode(name)) <= 180 else hashlib.blake2b(os.fsencode(name), digest_size=16).hexdigest()
    return f".{short}.{_own_name(os.getpid())}-{next(_counter)}.tmp"


def is_temporary(name: str) -> bool:
    """Return whether a file of this name is being written, or was when its writer died."""
    return _TEMPORARY.fullmatch(name) is not None


def machine_of(name: str) -> str:
    """Return the machine whose process writes a temporary file, as `machine` returns it there; empty for other files.

    >>> machine_of(".image.tif.tif.0123abcd-4711-99-0.tmp")
    '0123abcd'
    >>> machine_of("image.tif.tif")
    ''
    """
    match = _TEMPORARY.fullmatch(name)
    return match["machine"] if match else ""


@functools.cache
def machine() -> str:
    """Return a digest of host and process namespace: process ids compare only within them."""
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


@functools.lru_cache(maxsize=4096)
def sweep(directory: str) -> None:
    """Remove temporary files of dead writers from a directory.

    Once for each process and directory: a directory may hold all tiles of a section, and after a worker's death the
    pool has new processes.
    """
    remove_left(temporaries_in(directory))


def temporaries_in(directory: str) -> list[str]:
    """Return the paths of the temporary files in a directory, also of writers at work. Raises OSError."""
    with os.scandir(directory) as entries:
        return [entry.path for entry in entries if entry.name.startswith(".") and is_temporary(entry.name)]


def remove_left(paths: Iterable[str]) -> None:
    """Remove those temporary files whose writers are dead, as far as this machine can know."""
    for path in paths:
        if _is_left(path):
            remove(path)


def remove(path: str) -> None:
    """Remove a temporary file. If that fails, `sweep` will do it, and the caller reports its own fault."""
    try:
        os.unlink(path)  # noqa: PTH108  the file may be named by a descriptor
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
