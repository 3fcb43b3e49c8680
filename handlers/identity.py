"""Identity of a file's content: a hint that costs one stat."""

import os
from typing import NamedTuple, Self

_DAY_NS = 86_400 * 10**9
_UNIX_EPOCH_ENDS_NS = _DAY_NS * 3 // 2
_FAT_EPOCH_NS = range(3651 * _DAY_NS, 3653 * _DAY_NS)
"""A day before and after 1980-01-01: FAT stores local time, and time zones differ from UTC by up to 14 hours."""


_LARGEST = (1 << 63) - 1


def _storable(time_ns: int) -> int:
    """Return the nearest time that the journal can hold: Windows counts from 1601, and a file server may send any."""
    return time_ns if -_LARGEST <= time_ns <= _LARGEST else max(-_LARGEST, min(_LARGEST, time_ns))


class FileIdentity(NamedTuple):
    """Size, times and inode of a file: a hint that costs one stat.

    Equal identities do not prove equal bytes, and different ones do not prove different bytes: copy programs set
    modification times, and a change of permissions sets a new change time. If identities differ, a digest of the bytes
    decides.
    """

    size: int
    """Bytes."""
    mtime_ns: int
    """Last change of the content; any writer can set it."""
    ctime_ns: int | None
    """Last change of content or attributes, set by the file system only. None in rows of older journals."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity in a stat."""
        return cls(
            status.st_size, _storable(status.st_mtime_ns), _storable(status.st_ctime_ns), status.st_ino & _LARGEST
        )

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
