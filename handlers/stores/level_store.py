"""The interface of a store of levels. tests/unit/store_suite.py tests the promises that every store keeps."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from handlers.place import Place

if TYPE_CHECKING:  # most modules that import this one only look for files
    from handlers.images.encode import Encoding, Page
    from handlers.stores.atomic_write import Seen


@dataclass(frozen=True, slots=True)
class LevelStat:
    """Facts of a file from its store, without reading it."""

    size: int
    version: str
    """Version that changes with the content, as far as the store knows."""


class BegunLevel(Protocol):
    """A level that is written, but may not be in place yet."""

    def finish(self) -> bool:
        """Do the rest of `LevelStore.put`, and return its result."""

    def drop(self) -> None:
        """Give the level up. It is not put in place, unless it already is."""


class LevelStore(Protocol):
    """Store of levels. All methods block.

    Each raises StorageFault if the disk, mount or service fails or refuses.
    """

    puts_at_once: int
    """Files of a tile that one worker puts at the same time."""

    def put(self, level: int, place: Place, page: "Page", encoding: "Encoding", seen: "Seen | None" = None) -> bool:
        """Write a level's file atomically and verify it. Return whether it replaced a file.

        No reader ever sees a part of the file. If this fails, the former file is still in place, unless the check after
        the replacement failed.

        Parameters
        ----------
        seen : called with the file's bytes, piece by piece.
        """

    def begin(
        self, level: int, place: Place, page: "Page", encoding: "Encoding", seen: "Seen | None" = None
    ) -> "BegunLevel":
        """Do the first part of `put`. The caller finishes or drops the level.

        All levels of a tile are begun before the first is finished, since a disk can then sync them together.
        """

    def sync(self, places: Iterable[Place]) -> None:
        """Make the names of files that were put survive a power cut."""

    def stat(self, place: Place) -> LevelStat | None:
        """Return the facts of a file; None if it does not exist."""

    def known_digest(self, place: Place) -> bytes | None:
        """Return the XXH3-128 of a file's bytes if the store's checksum proves it, without reading; else None."""

    def open(self, place: Place) -> AbstractContextManager[BinaryIO]:
        """Open a file for reading at any place. Raises FileNotFoundError if there is none."""

    def list(self, directory: Place) -> Iterator[tuple[str, LevelStat]]:
        """Yield name and facts of each file in a directory, except temporary files; nothing if it does not exist."""

    def delete(self, place: Place) -> None:
        """Delete a file if it exists."""

    def url(self, place: Place) -> str:
        """Return the URL of a file in this store, percent-encoded."""

    def free_bytes(self, directory: Place) -> int | None:
        """Return the number of bytes that can still be written; None: the store does not report it."""
