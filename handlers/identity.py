"""What tells one content of a file from another: a cheap hint without reading it, and a digest of its bytes."""

import os
from typing import NamedTuple, Self

_DAY_NS = 86_400 * 10**9
_UNIX_EPOCH_ENDS_NS = _DAY_NS * 3 // 2
_FAT_EPOCH_NS = range(3651 * _DAY_NS, 3653 * _DAY_NS)
"""A day on either side of 1980-01-01: FAT keeps local time, and a time zone is up to 14 hours off."""


_LARGEST = (1 << 63) - 1


def _storable(time_ns: int) -> int:
    """The nearest time that the journal can hold: Windows counts from 1601, and a file server may send anything."""
    return max(-_LARGEST, min(_LARGEST, time_ns))


class FileIdentity(NamedTuple):
    """Size, times and inode of a file: a hint that costs one stat.

    Two equal identities are not a proof of equal bytes, and two different ones are not a proof of different bytes: a
    copy program sets the modification time as it likes, and a change of permissions sets a new change time. Where the
    identity differs, a digest of the bytes decides.
    """

    size: int
    """Bytes."""
    mtime_ns: int
    """Last change of the content, as the writer likes to have it."""
    ctime_ns: int | None
    """Last change of content or attributes, set by the file system alone. None in journals that did not keep it."""
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The identity that a stat shows."""
        return cls(
            status.st_size, _storable(status.st_mtime_ns), _storable(status.st_ctime_ns), status.st_ino & _LARGEST
        )

    @property
    def has_placeholder_time(self) -> bool:
        """Whether the modification time is one that a copy program sets until the content is there.

        These are the epochs of Windows (1601, which some file systems clamp to 1901), UNIX (1970) and FAT (1980), each
        in any time zone.

        >>> FileIdentity(1, 0, 3, 4).has_placeholder_time, FileIdentity(1, 10**18, 3, 4).has_placeholder_time
        (True, False)
        """
        return self.mtime_ns < _UNIX_EPOCH_ENDS_NS or self.mtime_ns in _FAT_EPOCH_NS

    def matches(self, other: "FileIdentity | None") -> bool:
        """Whether both are the same, as far as both know: a change time that one of them lacks is not compared.

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
