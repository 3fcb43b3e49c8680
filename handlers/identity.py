"""Identity of a file, by which an unchanged file is recognised with one stat."""

import os
from hashlib import sha256
from typing import NamedTuple, Self

from handlers.file_status import FileStatus

_DAY_NS = 86_400 * 10**9
_UNIX_EPOCH_ENDS_NS = _DAY_NS * 3 // 2
_FAT_EPOCH_NS = range(3651 * _DAY_NS, 3653 * _DAY_NS)
"""A day before and after 1980-01-01: FAT stores local time, and time zones differ from UTC by up to 14 hours."""

_LARGEST = (1 << 63) - 1
"""Largest integer of SQLite."""


def _storable(time_ns: int) -> int:
    """Return the nearest time that the journal can store: a file server may send any time."""
    return time_ns if -_LARGEST <= time_ns <= _LARGEST else max(-_LARGEST, min(_LARGEST, time_ns))


class FileIdentity(NamedTuple):
    """Size, times and inode of a file: a hint that costs one stat.

    Equal identities do not prove equal bytes: copy programs set modification times. Different identities do not prove
    different bytes: a change of permissions sets a new change time. Then a digest of the bytes decides.
    """

    size: int
    """Bytes."""
    mtime_ns: int
    """Last change of the content; any writer can set it."""
    ctime_ns: int | None
    """Last change of content or attributes, set only by the file system. None in rows of older journals."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result | FileStatus) -> Self:
        """Return the identity in a stat."""
        return cls(
            status.st_size, _storable(status.st_mtime_ns), _storable(status.st_ctime_ns), status.st_ino & _LARGEST
        )

    @classmethod
    def of_content(cls, content: bytes, time_s: int) -> Self:
        """Return the identity of a section inside a file: it follows from the content, and not from the file.

        Parameters
        ----------
        time_s : time of the section's last image, which stands for the modification time.
        """
        digest = int.from_bytes(sha256(content).digest()[:8], "big") >> 1
        return cls(len(content), time_s * 10**9, None, digest)

    @property
    def has_placeholder_time(self) -> bool:
        """Whether the modification time is a placeholder that a copy program sets until the content is there.

        Placeholders are the epochs of Windows (1601, which some file systems clamp to 1901), UNIX (1970) and FAT
        (1980), each in any time zone.

        >>> FileIdentity(1, 0, 3, 4).has_placeholder_time, FileIdentity(1, 10**18, 3, 4).has_placeholder_time
        (True, False)
        """
        return self.mtime_ns < _UNIX_EPOCH_ENDS_NS or self.mtime_ns in _FAT_EPOCH_NS

    def matches(self, other: "FileIdentity | None") -> bool:
        """Whether both are equal; change times are compared only if both have one.

        >>> FileIdentity(1, 2, 3, 4).matches(FileIdentity(1, 2, None, 4))
        True
        >>> FileIdentity(1, 2, 3, 4).matches(FileIdentity(1, 2, 5, 4)), FileIdentity(1, 2, 3, 4).matches(None)
        (False, False)
        """
        if other is None:
            return False
        if self.ctime_ns is None or other.ctime_ns is None:
            return (self.size, self.mtime_ns, self.inode) == (other.size, other.mtime_ns, other.inode)
        return self == other
