"""Levels in a bucket of an object store. Each is written atomically by one request, and then compared."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import xxhash

from handlers.errors import SettingsFault, StoreFault
from handlers.images.encode import Encoding, Page
from handlers.objects.files import RANGE_BYTES, open_object
from handlers.objects.requests import Objects, ObjectStat, OtherObject
from handlers.place import Bucket, ObjectPlace, Place, key_problem
from handlers.stores.atomic_write import Seen
from handlers.stores.level_store import LevelStat

CONTENT_TYPES = {"tif": "image/tiff", "png": "image/png", "jpg": "image/jpeg"}
"""Extension -> content type, which render-ws does not guess."""
TRIES = 3
"""Attempts to write an object that another program writes at the same time."""
_MD5_NAME, _DIGEST_NAME = "md5", "xxh128"
"""Names of the metadata with the digests of the bytes that were put."""
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_DIGEST = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PutObject:
    """A `BegunLevel` whose object is already in place."""

    replaced: bool

    def finish(self) -> bool:
        """Return whether an object was replaced."""
        return self.replaced

    def drop(self) -> None:
        """Do nothing: the object stays."""


class BucketStore:
    """A `LevelStore` in an object store.

    Parameters
    ----------
    objects : the bucket; None: by this process's connection, opened at the first request.
    """

    puts_at_once = 6
    """Each put waits for three answers, mostly for the network."""

    def __init__(self, bucket: Bucket, objects: Objects | None = None) -> None:
        self._objects = objects or Objects(bucket)

    def put(self, level: int, place: Place, page: Page, encoding: Encoding, seen: Seen | None = None) -> bool:
        """Write the object if no other program has changed it meanwhile, then compare it; see `LevelStore.put`."""
        return self.begin(level, place, page, encoding, seen).finish()

    def begin(self, level: int, place: Place, page: Page, encoding: Encoding, seen: Seen | None = None) -> "PutObject":
        """Do all of `put`, since a new object has its final name."""
        del level  # the key contains it
        replaced = self.write(_object(place), page.content, CONTENT_TYPES[encoding.extension])
        if seen:
            seen(page.content)
        return PutObject(replaced)

    def write(self, place: ObjectPlace, content: bytes | bytearray, content_type: str) -> bool:
        """Write an object and verify it. Return whether it replaced another one."""
        if problem := key_problem(place.key):
            raise SettingsFault(
                "mipmaps.output_dir", f"leads to a key that object stores do not accept: {place} {problem}"
            )
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        digests = {_MD5_NAME: md5, _DIGEST_NAME: xxhash.xxh3_128_hexdigest(content)}
        for tries_left in reversed(range(TRIES)):
            before = self._objects.stat(place)
            try:
                etag = self._objects.put(place, content, content_type, before, digests)
                self._require_same(place, content, content_type, etag, md5)
            except OtherObject:
                if not tries_left:
                    raise
            else:
                return before is not None
        raise AssertionError("the last try returns or raises")

    def _require_same(
        self, place: ObjectPlace, content: bytes | bytearray, content_type: str, etag: str | None, md5: str
    ) -> None:
        """Raise StoreFault unless the store has these bytes, by its MD5 or by reading them back."""
        found = self._objects.stat(place)
        if found is None:
            raise _differs(place, "it is not there")
        if found.size != len(content):
            raise _differs(place, f"expected {len(content)} bytes, found {found.size}")
        if found.content_type != content_type:
            raise _differs(place, f"expected the type {content_type}, found {found.content_type}")
        if found.etag != etag:
            raise OtherObject(str(place), "was written by another program at the same time", "retries continue")
        if _md5_in(etag) != md5 and not self._reads_as(place, content, found):
            raise _differs(place, "its bytes differ")

    def _reads_as(self, place: ObjectPlace, content: bytes | bytearray, found: ObjectStat) -> bool:
        expected = memoryview(content)
        starts = range(0, len(expected), RANGE_BYTES)
        pieces = ((start, min(start + RANGE_BYTES, len(expected))) for start in starts)
        return all(self._objects.range(place, *piece, found) == expected[slice(*piece)] for piece in pieces)

    def sync(self, places: Iterable[Place]) -> None:
        """Do nothing: when a store answers, the object is durable."""

    def stat(self, place: Place) -> LevelStat | None:
        """Return size and ETag."""
        found = self._objects.stat(_object(place))
        return None if found is None else _stat_of(found)

    def known_digest(self, place: Place) -> bytes | None:
        """Return the digest in an object's metadata, if the MD5 there equals the store's own MD5 of the object."""
        found = self._objects.stat(_object(place))
        if found is None or not (md5 := _md5_in(found.etag)) or md5 != found.metadata.get(_MD5_NAME):
            return None
        digest = _DIGEST.fullmatch(found.metadata.get(_DIGEST_NAME, ""))
        return bytes.fromhex(digest[0]) if digest else None

    def open(self, place: Place) -> AbstractContextManager[BinaryIO]:
        """Open an object, which is read by ranges."""
        return open_object(_object(place), self._objects)

    def list(self, directory: Place) -> Iterator[tuple[str, LevelStat]]:
        """Yield the objects of a directory."""
        return ((name, _stat_of(found)) for name, found in self._objects.list(_object(directory)))

    def delete(self, place: Place) -> None:
        """Delete an object."""
        self._objects.delete(_object(place))

    def url(self, place: Place) -> str:
        """Return the address, percent-encoded."""
        return _object(place).url

    def free_bytes(self, directory: Place) -> None:
        """Return None: object stores do not report their free space."""
        return


def _object(place: Place) -> ObjectPlace:
    assert isinstance(place, ObjectPlace), place
    return place


def _stat_of(found: ObjectStat) -> LevelStat:
    return LevelStat(found.size, found.etag or "")


def _md5_in(etag: str | None) -> str | None:
    found = _MD5.fullmatch(etag or "")
    return found and found[1]


def _differs(place: ObjectPlace, how: str) -> StoreFault:
    return StoreFault(str(place), f"reads back differently from what was written: {how}", "check the store's health")
