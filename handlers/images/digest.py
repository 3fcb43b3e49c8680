"""The digest of a file's bytes: XXH3 of 128 bits, as `xxhsum -H2` prints it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

import xxhash

from handlers.identity import FileIdentity

DIGEST_BYTES = 16
_PIECE_BYTES = 1 << 20
_TICK_NS = 20_000_000
"""Longer than any kernel's tick: within one, two writes leave the same change time."""


class FileContent(NamedTuple):
    """A file as it was read."""

    identity: FileIdentity
    """From before it was read, and the same afterwards."""
    digest: bytes
    """Of all its bytes."""


class RunningDigest:
    """The digest of a file that somebody else reads piece by piece: its bytes are hashed while they are in the cache.

    What nobody hands over, such as a header, is read here. Pieces may come in any order; where they do not rise, the
    file is read once more.

    Parameters
    ----------
    descriptor : of the file, open for reading.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hash = xxhash.xxh3_128()
        self._at = 0
        self._rises = True

    def take(self, offset: int, piece: memoryview) -> None:
        """Take over the bytes that the file has at an offset."""
        self._rises = self._rises and offset >= self._at
        if not self._rises:
            return
        self._read_up_to(offset)
        self._hash.update(piece)
        self._at = offset + len(piece)

    def digest(self) -> bytes:
        """Return the digest, after reading what has not been handed over."""
        if not self._rises:
            self._hash, self._at = xxhash.xxh3_128(), 0
        self._read_up_to(None)
        return self._hash.digest()

    def _read_up_to(self, end: int | None) -> None:
        while end is None or self._at < end:
            wanted = _PIECE_BYTES if end is None else min(_PIECE_BYTES, end - self._at)
            piece = os.pread(self._descriptor, wanted, self._at)
            if not piece:
                return
            self._hash.update(piece)
            self._at += len(piece)


def settled_identity(descriptor: int) -> FileIdentity:
    """Return the identity of an open file: any write from now on makes it another one. Blocking, for a tick at most.

    Clocks of file systems tick every few milliseconds. A write within the tick of the one before leaves the same
    times, so a file that was written a moment ago is left until the tick is over.
    """
    identity = FileIdentity.of(os.fstat(descriptor))
    age_ns = time.time_ns() - (identity.ctime_ns or 0)
    if not -_TICK_NS < age_ns < _TICK_NS:
        return identity
    time.sleep((_TICK_NS - age_ns) / 1e9)
    return FileIdentity.of(os.fstat(descriptor))


def content_of(descriptor: int) -> FileContent:
    """Return the content of an open file. Blocking."""
    identity = settled_identity(descriptor)
    return FileContent(identity, RunningDigest(descriptor).digest())


@contextmanager
def snapshot(file: BinaryIO) -> Iterator[tuple[BinaryIO, bytes]]:
    """A file's bytes as they are now, in memory, as a file of its own; and their digest.

    A decoder that reads here and there sees what was hashed, whatever somebody writes to the file meanwhile.
    """
    hashed, offset = xxhash.xxh3_128(), 0
    with os.fdopen(os.memfd_create("level 0", os.MFD_CLOEXEC), "w+b") as copy:
        while piece := os.pread(file.fileno(), _PIECE_BYTES, offset):
            hashed.update(piece)
            copy.write(piece)
            offset += len(piece)
        copy.seek(0)
        yield copy, hashed.digest()
