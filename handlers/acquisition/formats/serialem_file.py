"""Montages in the files of SerialEM, which rewrites a file while it grows. Blocking.

A montage is reported from its first image on, and again whenever its lines change; the reader says what is still
missing. The other montages of the file keep their identity.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from handlers.acquisition.formats.autodoc import Autodoc, looks_like_autodoc, read_autodoc
from handlers.acquisition.limits import MAX_METAFILE_BYTES
from handlers.acquisition.section_path import montage_in
from handlers.container import Container
from handlers.file_status import FileStatus
from handlers.identity import FileIdentity
from handlers.regular_file import NotRegular, read_regular

_DATE: Final = re.compile(
    rb"^DateTime[ \t]*=[ \t]*(\d{1,2})-([A-Za-z]{3})-(\d{4}|\d\d)[ \t]+(\d\d):(\d\d):(\d\d)[ \t]*\r?$", re.MULTILINE
)
_MONTHS: Final = (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec")


def montage_content(path: Path, root: Container | None = None) -> bytes:
    """Return the lines of a montage.

    Parameters
    ----------
    root : directory that must contain the file; None: any.

    Raises
    ------
    FileNotFoundError
        If the file has no such montage.
    NotRegular, NotContained, OSError
        If the file cannot be read.
    """
    content, _ = _read(path.parent, root)
    found = read_autodoc(content)
    if path.name not in found.montages:
        raise FileNotFoundError(f"{path.parent} has no {path.name}")
    return found.content_of(path.name)


def montage_identity(path: Path) -> FileIdentity | None:
    """Return the identity of a montage; None if its file has no such montage now. Raises NotRegular, OSError."""
    try:
        return _identity_of(montage_content(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _read(file: Path, root: Container | None = None) -> tuple[bytes, FileStatus]:
    return read_regular(file, MAX_METAFILE_BYTES + 1, follow_links=False, root=root)


def _identity_of(content: bytes) -> FileIdentity:
    return FileIdentity.of_content(content, _latest_s(content))


def _latest_s(content: bytes) -> int:
    """Return the time of the last image in the lines of a montage, as if local time were UTC; 0 if there is none."""
    found = None
    for found in _DATE.finditer(content):  # noqa: B007  the last one is used
        pass
    if found is None or found[2].lower() not in _MONTHS:
        return 0
    day, year, hour, minute, second = (int(found[place]) for place in (1, 3, 4, 5, 6))
    year, month = year if year > 99 else 2000 + year, _MONTHS.index(found[2].lower()) + 1
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return 0
    return max(0, int(moment.timestamp()))


class MontageFollower:
    """Finds the new and changed montages of files. Used by one thread at a time."""

    def __init__(self) -> None:
        self._reported: dict[str, dict[str, FileIdentity]] = {}
        """File -> name -> identity of each montage at the last call of `sections`."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return the montages of a file that are new or changed since the last call.

        A file that is too large or not of SerialEM is returned itself, so that the reader refuses it.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        try:
            content, status = _read(Path(path))
        except NotRegular:  # replaced since it was listed
            return []
        known, now = self._reported.get(path, {}), dict(_found(path, content, status))
        self._reported[path] = now
        return [(section, identity) for section, identity in now.items() if known.get(section) != identity]

    def is_due(self, path: str) -> bool:
        """Return False: no other file changes the montages of a file."""
        del path
        return False

    def identity(self, path: str) -> FileIdentity | None:
        """Return the present identity of a montage or a file; None if it does not exist. Raises OSError."""
        try:
            if montage_in(Path(path)):
                return montage_identity(Path(path))
            return FileIdentity.of(_read(Path(path))[1])
        except (NotRegular, FileNotFoundError, NotADirectoryError):
            return None


def _found(path: str, content: bytes, status: FileStatus) -> Iterator[tuple[str, FileIdentity]]:
    found: Autodoc | None = read_autodoc(content) if len(content) <= MAX_METAFILE_BYTES else None
    if found is None or not (found.montages or looks_like_autodoc(content)):
        yield path, FileIdentity.of(status)
        return
    for name in found.montages if found.is_of_montages else ():
        yield f"{path}/{name}", _identity_of(found.content_of(name))
