"""Opening files by names that other programs give: only regular files are read, and a named pipe never blocks."""

import errno
import os
import stat
from pathlib import Path

from handlers.container import Container
from handlers.file_status import FileStatus, status_of

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Without O_NONBLOCK, opening a named pipe would wait for a writer for ever."""
_NAME_ONLY = os.O_PATH | os.O_CLOEXEC
_WAITING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY


class NotRegular(Exception):  # noqa: N818  each caller turns it into the fault of its own file
    """The name belongs to a directory, pipe, socket, device, circular link, or a link that is not followed."""

    problem = "is not a regular file"

    def __init__(self, path: str, *, is_link: bool = False) -> None:
        super().__init__(f"{path} {self.problem}")
        self.is_link = is_link
        """Whether it is a link, and the caller asked to follow none."""


class NotContained(Exception):  # noqa: N818  as above
    """The file lies outside the directory that must contain it."""

    def __init__(self, path: Path | str, root: Container) -> None:
        super().__init__(f"{path} lies outside {root.real} when links are followed")
        self.root = root.real


def open_regular(
    path: Path | str, *, follow_links: bool = True, directory: int | None = None, root: Container | None = None
) -> tuple[int, FileStatus]:
    """Return the descriptor and the status of a regular file, open for reading. The caller closes the descriptor.

    A file server on this machine may hold a lease on a file that its client has just written (NFS delegations, Samba's
    kernel oplocks). It then has to give the file back first: this waits for that, at most as long as the kernel does
    (/proc/sys/fs/lease-break-time, 45 s by default).

    Parameters
    ----------
    follow_links : whether the last part of the path may be a link.
    directory : descriptor of the directory that a relative path starts from.
    root : directory that must contain the file after all links are followed; None: any.

    Raises
    ------
    NotRegular
        If it is not a regular file.
    NotContained
        If it lies outside root.
    OSError
        If it cannot be opened.
    """
    links = 0 if follow_links else os.O_NOFOLLOW
    try:
        try:
            descriptor = _open(path, _FLAGS | links, directory, root)
        except BlockingIOError:
            descriptor = _open_leased(_open(path, _NAME_ONLY | links, directory, root), str(path))
    except OSError as error:
        if error.errno == errno.EXDEV and root:
            raise NotContained(path, root) from error
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or links in a circle; a socket
            raise NotRegular(str(path), is_link=error.errno == errno.ELOOP and not follow_links) from error
        raise
    try:
        status = status_of(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def _open(path: Path | str, flags: int, directory: int | None, root: Container | None) -> int:
    return root.open_beneath(_as_path(path), flags) if root else os.open(path, flags, dir_fd=directory)


def _open_leased(name: int, path: str) -> int:
    """Open the file of an O_PATH descriptor for reading, waiting for the program that holds a lease on it.

    Opening what the descriptor refers to, not the path, again: no named pipe can have taken its place meanwhile. Closes
    the descriptor.
    """
    try:
        if not stat.S_ISREG(os.fstat(name).st_mode):
            raise NotRegular(path)
        return os.open(f"/proc/self/fd/{name}", _WAITING)
    finally:
        os.close(name)


def _as_path(path: Path | str) -> Path:
    return path if isinstance(path, Path) else Path(path)  # to copy a path takes as long as to open its file


def read_regular(
    path: Path, max_bytes: int, *, follow_links: bool = True, root: Container | None = None
) -> tuple[bytes, FileStatus]:
    """Return the first `max_bytes` bytes of a regular file, and its status from before they were read.

    Raises as `open_regular` does.
    """
    descriptor, status = open_regular(path, follow_links=follow_links, root=root)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(max_bytes), status
