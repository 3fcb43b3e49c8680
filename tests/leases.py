"""Leases of the kernel: opening a leased file waits until its holder gives it back, as on a file server."""

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Lease:
    """The leases on some files, until `give_back`. By default the kernel ends a wanted lease after 45 seconds."""

    def __init__(self, *paths: Path) -> None:
        self._descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]
        for descriptor in self._descriptors:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    def is_wanted(self) -> bool:
        """Whether a program waits for one of the files."""
        return any(fcntl.fcntl(descriptor, fcntl.F_GETLEASE) != fcntl.F_WRLCK for descriptor in self._descriptors)

    def give_back(self, count: int | None = None) -> None:
        """Give back the first files that are still held; None: all."""
        for descriptor in self._descriptors[:count]:
            os.close(descriptor)
        del self._descriptors[:count]


@contextmanager
def leased(*paths: Path) -> Iterator[Lease]:
    """Hold leases on files that no program has open. Skips the test if the file system has no leases."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # the kernel's request; it would end this process
    try:
        lease = Lease(*paths)
    except OSError as error:
        pytest.skip(f"no leases on {paths[0].parent}: {error.strerror}")
    try:
        yield lease
    finally:
        lease.give_back()
        signal.signal(signal.SIGIO, before)
