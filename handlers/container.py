"""Opening files below a configured directory, which no symbolic link can lead out of.

This also holds if another program replaces a part of the path by a link while it is opened. A configured directory is
resolved once, and everything is opened below its descriptor. `openat2` (Linux 5.6) checks all parts in the kernel:
where the daemon writes, no link is followed; where it reads, only links that stay below the directory. Without
`openat2`, each part is opened with O_NOFOLLOW.
"""

import ctypes
import errno
import functools
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Final, Self

from handlers.parcel import Parcel

_SYS_OPENAT2: Final = 437
"""The number is the same on all architectures of Linux except Alpha."""
_AT_FDCWD: Final = -100
_RESOLVE_NO_SYMLINKS: Final = 0x04
_RESOLVE_BENEATH: Final = 0x08
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
"""A directory to start from; needs no permission to list it."""
_MAX_TRIES: Final = 1_000
"""Attempts until EAGAIN is raised: the kernel reports it while other programs rename, if a path has a part `..`."""

Made = Callable[[int, str], object]
"""Called with the descriptor and the path of a directory that was made."""


@dataclass(frozen=True, slots=True)
class Container(Parcel):
    """A configured directory, resolved once."""

    path: Path
    """As configured."""
    real: Path
    """The path without links, as they were when it was resolved."""
    host: str = field(default_factory=socket.gethostname)
    """The machine that resolved it: links can differ on another machine."""

    @classmethod
    def of(cls, path: Path) -> Self:
        """Resolve a directory. Raises OSError if it does not exist. Blocking."""
        real = path.resolve(strict=True)
        return cls(path, path if real == path else real)  # the same object is pickled once

    def here(self) -> Self:
        """Return the container as this machine resolves it. Blocking.

        On another machine than `host`, it is resolved again, once per process. Raises OSError if it does not exist.
        """
        if self.host == socket.gethostname():
            return self
        return replace(self, real=_resolved_here(self.path), host=socket.gethostname())

    def open_directory(self, path: Path, *, create: bool = False, made: Made = lambda *_: None) -> int:
        """Return a descriptor of a directory in this one, reached without links. The caller closes it. Blocking.

        Parameters
        ----------
        path : `self.path` or a path below it.
        create : whether to make directories that are missing below `self.real`.
        made : called with the descriptor and the path of each directory that was made.

        Raises
        ------
        OSError
            If it cannot be opened or made; ELOOP or ENOTDIR if a part of the path is a link.
        """
        name, real = _name_below(str(path), str(self.path)), str(self.here().real)
        if name is None:
            raise OSError(errno.EXDEV, f"lies outside {self.path}", str(path))
        try:
            return _open_without_links(os.path.join(real, name), _DIRECTORY)  # noqa: PTH118  faster, for every level
        except FileNotFoundError:
            if not create:
                raise
        descriptor = _open_without_links(real, _DIRECTORY)
        for part in PurePath(name).parts:
            descriptor = _enter(descriptor, part, made)
        return descriptor

    def open_beneath(self, path: Path, flags: int) -> int:
        """Return a descriptor of a file or directory inside this one. The caller closes it. Blocking.

        Links that stay in the directory are followed. An absolute link, and a link whose way leaves the directory, is
        resolved first; its target is then opened below the directory. If another program meanwhile replaces a part of
        the target by a link, the opened file still lies in the directory, or EXDEV is raised.

        Parameters
        ----------
        path : any path.
        flags : of `os.open`. With O_NOFOLLOW the last part may not be a link.

        Raises
        ------
        OSError
            If it cannot be opened; EXDEV if it lies outside.
        """
        real = str(self.here().real)
        given = _name_below(str(path), str(self.path), real)
        if given and _openat2() is not None:
            try:  # most paths have no link, and then one call proves that the file lies inside
                return _open_without_links(os.path.join(real, given), flags)  # noqa: PTH118  faster, for every image
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EXDEV):
                    raise
        root = _open_root(real)
        try:
            for name in self._names_below(path, flags, real):
                try:
                    return _open_beneath(root, name, flags)
                except OSError as error:
                    if error.errno != errno.EXDEV:
                        raise
        finally:
            os.close(root)
        raise OSError(errno.EXDEV, f"lies outside {real}", str(path))

    def _names_below(self, path: Path, flags: int, real: str) -> Iterator[str]:
        """Yield the path relative to this directory: first as given, then with its links resolved."""
        if name := _name_below(str(path), str(self.path), real):
            yield name
        if name := _name_below(_resolved(path, flags), real):
            yield name


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


def real_path(descriptor: int) -> str:
    """Return the path of an open file, without links."""
    return os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115  faster, for every image


def _enter(parent: int, name: str, made: Made) -> int:
    """Return a descriptor of a subdirectory, which is made if it is missing. Closes the descriptor of the parent."""
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


def _open_root(real: str) -> int:
    """Return a descriptor of a container. Raises EXDEV if a part of its path has become a link."""
    try:
        return _open_without_links(real, _PLACE)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.EXDEV, "has a link in its place since it was resolved", real) from error
        raise


def _resolved(path: Path, flags: int) -> str:
    if flags & os.O_NOFOLLOW:
        return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  joined as text
    return os.path.realpath(path)


def _name_below(path: str, *directories: str) -> str | None:
    """Return a path relative to the first directory that contains it; None if none does.

    >>> _name_below("/a/b", "/data", "/a"), _name_below("/a", "/a"), _name_below("/ab", "/a"), _name_below("/b", "/")
    ('b', '.', None, 'b')
    """
    for directory in directories:
        start = directory.rstrip("/")
        if path == directory:
            return "."
        if path.startswith(f"{start}/"):
            return path[len(start) + 1 :]
    return None


def _open_without_links(path: str, flags: int) -> int:
    """Return a descriptor of a directory by its absolute path, no part of which may be a link or `..`."""
    if "/../" in f"{path}/":
        raise OSError(errno.EXDEV, "leads out of its directory", path)
    openat2 = _openat2()
    if openat2 is not None:
        return openat2(_AT_FDCWD, path, flags, _RESOLVE_NO_SYMLINKS)
    return _open_each_part(Path(path), Path(path).parts, flags, None)


def _open_beneath(directory: int, name: str, flags: int) -> int:
    """Return a descriptor of a name below a directory. Raises EXDEV if the name leads out of the directory.

    Without `openat2`, every link counts as leading out.
    """
    openat2 = _openat2()
    if openat2 is not None:
        return openat2(directory, name, flags, _RESOLVE_BENEATH)
    path = Path(name)
    if ".." in path.parts:
        raise OSError(errno.EXDEV, "leads out of its directory", name)
    try:
        return _open_each_part(path, path.parts or (".",), flags | os.O_NOFOLLOW, directory)
    except OSError as error:
        if error.errno == errno.ELOOP and not (flags & os.O_NOFOLLOW and error.filename == path.name):
            raise OSError(errno.EXDEV, "may lead out of its directory", name) from error
        raise


def _open_each_part(path: Path, parts: Sequence[str], flags: int, start: int | None) -> int:
    """Open a path part by part. Raises ELOOP, with the part as its file name, if one is a link."""
    descriptor = start
    for number, part in enumerate(parts, 1):
        try:
            following = _open_part(descriptor, part, flags if number == len(parts) else _PLACE)
        finally:
            if descriptor is not None and descriptor != start:
                os.close(descriptor)
        descriptor = following
    assert descriptor is not None, path
    return descriptor


def _open_part(directory: int | None, name: str, flags: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError as error:  # with O_DIRECTORY, the kernel also reports a link this way
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name) from error
        raise


Openat2 = Callable[[int, str, int, int], int]
"""Called with the directory's descriptor, the name, the flags of `open` and those of RESOLVE; returns a descriptor."""


@functools.cache
def _openat2() -> Openat2 | None:
    """Return the system call as a function; None if the kernel lacks it or a sandbox forbids it."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall

    def openat2(directory: int, name: str, flags: int, resolve: int) -> int:
        how = struct.pack("QQQ", flags, 0, resolve)
        for _ in range(_MAX_TRIES):
            descriptor = int(syscall(_SYS_OPENAT2, directory, os.fsencode(name), how, len(how)))
            if descriptor >= 0:
                return descriptor
            number = ctypes.get_errno()
            if number not in (errno.EINTR, errno.EAGAIN):
                break
        raise OSError(number, os.strerror(number), name)

    try:
        os.close(openat2(_AT_FDCWD, "/", _PLACE, _RESOLVE_NO_SYMLINKS))
    except OSError:
        return None
    return openat2
