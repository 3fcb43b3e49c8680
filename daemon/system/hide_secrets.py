"""Overwrite secrets in this process's command line, which other users can read with `ps`. Linux only."""

import contextlib
import os
import re
from pathlib import Path

_ARGUMENT_START, _ARGUMENT_END = 47, 48
"""Indices in /proc/self/stat, from 0: start address of the first argument, end address of the last one (proc(5))."""
_USERINFO = re.compile(rb"(?<=://)[^\0]*(?=@)|(?<=host[=\0])(?!\w+://)[^\0:/]+:[^\0]*(?=@)")
"""User and password in a URL, or in a host without a scheme; up to the last "@" of the argument."""


def hide_passwords() -> None:
    """Overwrite user names and passwords of URLs in the command line that the system shows. `sys.argv` keeps them.

    Does nothing if the system forbids the access.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        _overwrite()


def _overwrite() -> None:
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    # After the name of the program, which may hold spaces, fields[0] is the third field.
    start, end = int(fields[_ARGUMENT_START - 2]), int(fields[_ARGUMENT_END - 2])
    memory = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        shown = os.pread(memory, end - start, start)
        hidden = hidden_passwords(shown)
        if hidden != shown:
            os.pwrite(memory, hidden, start)
    finally:
        os.close(memory)


def hidden_passwords(arguments: bytes) -> bytes:
    """Return arguments of the same length, each user and password of a URL replaced by stars.

    >>> hidden_passwords(b"x\\0--render.host\\0http://em:pw@render\\0a@b")
    b'x\\x00--render.host\\x00http://*****@render\\x00a@b'
    """
    return _USERINFO.sub(lambda found: b"*" * len(found[0]), arguments)
