"""Montages in the files of SerialEM, which are rewritten while they grow: found as they change. Blocking.

A montage is reported from its first image on, and whenever its lines change: the reader says what it waits for. Other
montages of the file keep their identity.
"""

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from handlers.acquisition.autodoc import Autodoc, looks_like_autodoc, read_autodoc
from handlers.acquisition.parse import MAX_METAFILE_BYTES
from handlers.acquisition.parts import montage_in
from handlers.container import Container
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


def _read(file: Path, root: Container | None = None) -> tuple[bytes, os.stat_result]:
    return read_regular(file, MAX_METAFILE_BYTES + 1, follow_links=False, root=root)


def _identity_of(content: bytes) -> FileIdentity:
    """Return the identity of a montage: it follows from its lines."""
    digest = int.from_bytes(sha256(content).digest()[:8], "big") >> 1
    return FileIdentity(len(content), _latest_s(content) * 10**9, None, digest)


def _latest_s(content: bytes) -> int:
    """Return the time of the last image in its lines, as if local time were UTC; 0 if there is none."""
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
    """Finds the montages of files that change. For one thread at a time."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, FileIdentity]] = {}
        """File -> identity of each of its montages at the last look."""

    def sections(self, path: str) -> list[tuple[str, FileIdentity]]:
        """Return the montages of a file that are new or changed since the last call.

        A file that is none of SerialEM's, or too large, is returned itself, so that its reader refuses it.

        Raises
        ------
        OSError
            If the file cannot be read.
        """
        try:
            content, status = _read(Path(path))
        except NotRegular:  # replaced since it was listed
            return []
        known, now = self._told.get(path, {}), dict(_found(path, content, status))
        self._told[path] = now
        return [(section, identity) for section, identity in now.items() if known.get(section) != identity]

    def is_due(self, path: str) -> bool:
        """Return False: a montage changes with its file alone."""
        del path
        return False

    def identity(self, path: str) -> FileIdentity | None:
        """Return the identity of a montage, or of a file, now; None if there is none. Raises OSError."""
        try:
            if montage_in(Path(path)):
                return montage_identity(Path(path))
            return FileIdentity.of(_read(Path(path))[1])
        except (NotRegular, FileNotFoundError, NotADirectoryError):
            return None


def _found(path: str, content: bytes, status: os.stat_result) -> Iterator[tuple[str, FileIdentity]]:
    found: Autodoc | None = read_autodoc(content) if len(content) <= MAX_METAFILE_BYTES else None
    if found is None or not (found.montages or looks_like_autodoc(content)):
        yield path, FileIdentity.of(status)
        return
    for name in found.montages if found.is_of_montages else ():
        yield f"{path}/{name}", _identity_of(found.content_of(name))
