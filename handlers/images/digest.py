"""Digest of a file's bytes: XXH3 of 128 bits, as `xxhsum -H2` prints it."""

import os
import time
from typing import NamedTuple

import xxhash

from handlers.file_status import status_of
from handlers.identity import FileIdentity
from handlers.images.opened import Opened, pread, pread_into, size_of

Digest = bytes
"""16 bytes, in big-endian order."""
DIGEST_BYTES = 16
_PIECE_BYTES = 1 << 20
_TICK_NS = 20_000_000
"""Longer than the clock tick of any kernel. Two writes within a tick set the same change time."""


class FileContent(NamedTuple):
    """Identity and digest of a file that was read."""

    identity: FileIdentity
    """Identity, which was the same before and after the file was read."""
    digest: bytes
    """Digest of all bytes."""


class RunningDigest:
    """Digest of a file whose reader passes it piece by piece, so that bytes are hashed while they are in the cache.

    Bytes before a piece that were not passed, such as a header, are read here. Bytes that are passed again are not
    hashed again.

    An object computes the digest of its ranges itself.

    Parameters
    ----------
    image : file or object, open for reading.
    """

    def __init__(self, image: Opened) -> None:
        self._image = image
        self._hash = xxhash.xxh3_128()
        self._position = 0
        """All bytes before it are hashed."""

    def take(self, offset: int, piece: memoryview) -> None:
        """Add a piece of the file, which begins at an offset."""
        if not isinstance(self._image, int):
            return
        self._read_up_to(offset)
        new = piece[max(0, self._position - offset) :]
        self._hash.update(new)
        self._position += len(new)

    def digest(self) -> bytes:
        """Return the digest, after reading all bytes that were not added."""
        if not isinstance(self._image, int):
            return self._image.digest()
        self._read_up_to(None)
        return self._hash.digest()

    def _read_up_to(self, end: int | None) -> None:
        while end is None or self._position < end:
            wanted = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - self._position)
            piece = pread(self._image, wanted, self._position)
            if not piece:
                return
            self._hash.update(piece)
            self._position += len(piece)


class HashedFile:
    """An open file, hashed while it is read. A `Ranged`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = RunningDigest(descriptor)
        self.size = size_of(descriptor)

    def pread(self, length: int, offset: int) -> bytes:
        """Return bytes from an offset on, perhaps fewer."""
        piece = os.pread(self._descriptor, length, offset)
        self._digest.take(offset, memoryview(piece))
        return piece

    def pread_into(self, place: memoryview, offset: int) -> int:
        """Copy bytes from an offset on, perhaps fewer; return their number, 0 at the end alone."""
        count = pread_into(self._descriptor, place, offset)
        self._digest.take(offset, place[:count])
        return count

    def digest(self) -> bytes:
        """Return the digest of the file, after reading all bytes that were not read yet."""
        return self._digest.digest()


def settled_identity(descriptor: int) -> FileIdentity:
    """Return an identity of an open file that any later write changes. Blocks for one clock tick at most.

    Clocks of file systems tick every few milliseconds, and a second write within a tick sets the same times. So if the
    file was just written, its identity is taken after the tick.
    """
    identity = FileIdentity.of(status_of(descriptor))
    age_ns = time.time_ns() - (identity.ctime_ns or 0)
    if not -_TICK_NS < age_ns < _TICK_NS:
        return identity
    time.sleep((_TICK_NS - age_ns) / 1e9)
    return FileIdentity.of(status_of(descriptor))


def content_of(descriptor: int) -> FileContent:
    """Return identity and digest of an open file. Blocking."""
    identity = settled_identity(descriptor)
    return FileContent(identity, RunningDigest(descriptor).digest())
