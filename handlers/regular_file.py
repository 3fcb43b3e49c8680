"""Opening files that other programs name: only regular files are read, and opening never blocks on a pipe."""

import errno
import os
import stat
from pathlib import Path

from handlers.container import is_within

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""O_NONBLOCK: without it, opening a named pipe would wait for a writer for ever."""


class NotRegular(Exception):  # noqa: N818  each caller turns it into the fault of its own file
    """The name belongs to a directory, pipe, socket, device, circular link, or a link that is not followed."""

    problem = "is not a regular file"

    def __init__(self, path: str, *, is_link: bool = False) -> None:
        super().__init__(f"{path} {self.problem}")
        self.is_link = is_link
        """Whether it is a link that the caller did not want to follow."""


class NotContained(Exception):  # noqa: N818  as above
    """The file lies outside the directory that must contain it."""

    def __init__(self, path: Path, root: Path) -> None:
        super().__init__(f"{path} lies outside {root} when links are followed")
        self.root = root


def open_regular(
    path: Path | str, *, follow_links: bool = True, directory: int | None = None
) -> tuple[int, os.stat_result]:
    """Return the descriptor and the status of a regular file, open for reading. The caller closes the descriptor.

    Parameters
    ----------
    follow_links : whether the last part of the path may be a link.
    directory : descriptor of the directory that a relative path starts from.

    Raises
    ------
    NotRegular
        If it is not a regular file.
    OSError
        If it cannot be opened.
    """
    try:
        descriptor = os.open(path, _FLAGS | (0 if follow_links else os.O_NOFOLLOW), dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or links in a circle; a socket
            raise NotRegular(str(path), is_link=error.errno == errno.ELOOP and not follow_links) from error
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotRegular(str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


def read_regular(
    path: Path, most_bytes: int, *, follow_links: bool = True, root: Path | None = None
) -> tuple[bytes, os.stat_result]:
    """Return at most `most_bytes` first bytes of a regular file, and its status from before they were read.

    Parameters
    ----------
    root : real path of the directory that must contain the file; None: any.

    Raises
    ------
    NotContained
        If it lies outside root.
    NotRegular, OSError
        As `open_regular`.
    """
    descriptor, status = open_regular(path, follow_links=follow_links)
    with os.fdopen(descriptor, "rb") as file:
        if root is not None and not is_within(descriptor, root):
            raise NotContained(path, root)
        return file.read(most_bytes), status
