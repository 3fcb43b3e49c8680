"""Digests of the level files of a tile: computed from the files, or taken from the checksums of an object store."""

from collections.abc import Iterable

from handlers.errors import StoreFault
from handlers.images.digest import RunningDigest
from handlers.images.header import open_content
from handlers.mipmaps.measure import digest_of_levels
from handlers.place import Place
from handlers.stores.choose import store_of

Levels = Iterable[tuple[int, Place]]


def level_digests(levels: Levels) -> dict[int, bytes]:
    """Return the digest of each level's file. Blocking. Raises OSError or StoreFault if a file cannot be read."""
    return {level: store_of(place).known_digest(place) or _read(place) for level, place in levels}


def are_proved(levels: Levels, expected: bytes) -> bool:
    """Whether the checksums of the store prove that the levels have the bytes that were written. Blocking.

    Parameters
    ----------
    expected : digest of the levels when they were written, by `digest_of_levels`.
    """
    digests: dict[int, bytes] = {}
    for level, place in levels:
        try:
            digest = store_of(place).known_digest(place)
        except StoreFault:
            return False  # reported when the level is read
        if digest is None:
            return False
        digests[level] = digest
    return digest_of_levels(digests) == expected


def _read(place: Place) -> bytes:
    with open_content(place) as image:
        return RunningDigest(image).digest()
