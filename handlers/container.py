"""Directories that contain what is opened below them, also if another program exchanges a part of the path for a link.

A configured directory is resolved once. Below its real path no link is followed: `openat2` checks all parts in the
kernel (Linux 5.6); without it, each part is opened with O_NOFOLLOW.
"""

import ctypes
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

_SYS_OPENAT2: Final = 437
"""The number is the same on all architectures of Linux except Alpha."""
_AT_FDCWD: Final = -100
_RESOLVE_NO_SYMLINKS: Final = 0x04
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Made = Callable[[int, str], object]
"""Gets descriptor and path of a directory that was made."""


@dataclass(frozen=True, slots=True)
class Container:
    """A directory that was resolved once."""

    path: Path
    """As configured."""
    real: Path
    """Without links, when it was resolved."""
    host: str = field(default_factory=socket.gethostname)
    """The machine that resolved it: links can differ on another one."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Resolve a directory. Raises OSError if it does not exist. Blocking."""
        return cls(path, path.resolve(strict=True))

    def here(self) -> Self:
        """Return the container as this machine resolves it: on another machine, once for each process. Blocking.

        Raises OSError if it does not exist here.
        """
        if self.host == socket.gethostname():
            return self
        return replace(self, real=_resolved_here(self.path), host=socket.gethostname())

    def open_directory(self, path: Path, *, create: bool = False, made: Made = lambda *_: None) -> int:
        """Return a descriptor of a directory in this one. The caller closes it. Blocking.

        Parameters
        ----------
        path : `self.path` or a path below it.
        create : whether to make directories that are missing below `self.real`.
        made : called with the descriptor and the path of each directory that was made.

        Raises
        ------
        OSError
            If it cannot be opened or made; ELOOP or ENOTDIR if a part of it is a link.
        """
        parts, real = path.relative_to(self.path).parts, self.here().real
        try:
            return _open_without_links(real.joinpath(*parts))
        except FileNotFoundError:
            if not create:
                raise
        descriptor = _open_without_links(real)
        for part in parts:
            descriptor = _enter(descriptor, part, made)
        return descriptor


@functools.cache
def _resolved_here(path: Path) -> Path:
    return path.resolve(strict=True)


class Containers:
    """Containers of configured directories, each resolved at its first use and not again."""

    def __init__(self) -> None:
        self._resolved: dict[Path, Container] = {}

    def of(self, path: Path) -> Container:
        """Return the container of a directory. Raises OSError if it does not exist yet. Blocking."""
        found = self._resolved.get(path)
        return found or self._resolved.setdefault(path, Container.of(path))


def is_within(descriptor: int, real: Path) -> bool:
    """Whether an open file or directory is in a directory, or is that directory itself.

    The kernel reports the place of what is open, so there is no race with renames.

    Parameters
    ----------
    real : the directory, without links.
    """
    return f"{real_path(descriptor)}/".startswith(f"{str(real).rstrip('/')}/")


def real_path(descriptor: int) -> str:
    """Return the place of an open file."""
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  faster, for every image


def _enter(parent: int, name: str, made: Made) -> int:
    """Return a descriptor of a subdirectory, made if it is missing; close that of the parent."""
    is_new = False
    try:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
            is_new = True
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    finally:
        os.close(parent)
    if is_new:
        try:
            made(descriptor, real_path(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _open_without_links(path: Path) -> int:
    """Return a descriptor of a directory by its absolute path, no part of which may be a link or `..`."""
    if ".." in path.parts:
        raise OSError(errno.EXDEV, "leads out of its directory", str(path))
    openat2 = _openat2()
    if openat2 is not None:
        return openat2(path)
    descriptor = os.open("/", _DIRECTORY)
    for part in path.parts[1:]:
        try:
            following = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = following
    return descriptor


@functools.cache
def _openat2() -> Callable[[Path], int] | None:
    """Return the function that opens a directory by openat2; None if the kernel lacks it or a sandbox forbids it."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    how = struct.pack("QQQ", _DIRECTORY, 0, _RESOLVE_NO_SYMLINKS)

    def open_directory(path: Path) -> int:
        while True:
            descriptor = int(syscall(_SYS_OPENAT2, _AT_FDCWD, os.fsencode(path), how, len(how)))
            number = ctypes.get_errno()
            if descriptor >= 0:
                return descriptor
            if number not in (errno.EINTR, errno.EAGAIN):
                raise OSError(number, os.strerror(number), str(path))

    try:
        os.close(open_directory(Path("/")))
    except OSError:
        return None
    return open_directory
