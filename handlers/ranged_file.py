"""An open file without a descriptor, read by ranges: what an object store offers in place of a file."""

import io
import os
from typing import Protocol


class Ranged(Protocol):
    """Content that is read by ranges."""

    @property
    def size(self) -> int:
        """Bytes."""

    def pread(self, length: int, offset: int) -> bytes:
        """Return bytes from an offset on, perhaps fewer."""

    def pread_into(self, place: memoryview, offset: int) -> int:
        """Copy bytes from an offset on, perhaps fewer; return their number, 0 at the end alone."""

    def digest(self) -> bytes:
        """Return the XXH3-128 of all bytes; those that nobody has read are read now."""


class RangedFile(io.RawIOBase):
    """A position in such content, for decoders that read files in pieces."""

    def __init__(self, content: Ranged) -> None:
        self.content = content
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.content.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, place: "memoryview | bytearray") -> int:  # type: ignore[override]  # of what io calls it with
        """Fill a buffer, unless the content ends before; return the number of bytes."""
        count = self.content.pread_into(memoryview(place).cast("B"), self._position)
        self._position += count
        return count

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return bytes, fewer at the end; without a size the rest."""
        rest = max(0, self.content.size - self._position)
        wanted = rest if size is None or size < 0 else min(size, rest)
        piece = self.content.pread(wanted, self._position)
        while len(piece) < wanted and (more := self.content.pread(wanted - len(piece), self._position + len(piece))):
            piece += more
        self._position += len(piece)
        return piece
