"""The interface of a place for levels. tests/unit/store_suite.py says what every store has to keep."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol

from handlers.place import Place

if TYPE_CHECKING:  # most importers only look for files
    from handlers.images.encode import Encoding, Page
    from handlers.stores.atomic_write import Seen


@dataclass(frozen=True, slots=True)
class LevelStat:
    """Facts of a file from its store, without reading it."""

    size: int
    version: str
    """Another one after each change of the content, as far as the store knows."""


class BegunLevel(Protocol):
    """A level that is written, and may not have its name yet."""

    def finish(self) -> bool:
        """Do the rest of `LevelStore.put`, and return the same."""

    def drop(self) -> None:
        """Leave it: its name never appears, unless it has it already."""


class LevelStore(Protocol):
    """Store of levels. All methods block.

    Each raises StorageFault if the disk, mount or service fails, or refuses.
    """

    puts_at_once: int
    """Files of a tile that one worker puts at the same time."""

    def put(self, level: int, place: Place, page: "Page", encoding: "Encoding", seen: "Seen | None" = None) -> bool:
        """Write a level's file whole and verify it; return whether there was a file before.

        No reader ever sees a part of it. If it fails, the former file is still there, unless the difference showed
        after the exchange.

        Parameters
        ----------
        seen : gets the file's bytes, piece by piece.
        """

    def begin(
        self, level: int, place: Place, page: "Page", encoding: "Encoding", seen: "Seen | None" = None
    ) -> "BegunLevel":
        """Do the first part of `put`; the caller finishes or drops it. Several levels are begun, then finished.

        A disk syncs files that are written one after the other together.
        """

    def sync(self, places: Iterable[Place]) -> None:
        """Make the names of files that were put survive a power cut."""

    def stat(self, place: Place) -> LevelStat | None:
        """Return what the store says of a file; None if there is none."""

    def known_digest(self, place: Place) -> bytes | None:
        """Return the XXH3-128 of a file's bytes if the store proves it without their being read; else None."""

    def open(self, place: Place) -> AbstractContextManager[BinaryIO]:
        """Open a file that has a descriptor, for reading. Raises FileNotFoundError if there is none."""

    def list(self, directory: Place) -> Iterator[tuple[str, LevelStat]]:
        """Yield the name of each file in a directory that is not a temporary one; nothing if there is no directory."""

    def delete(self, place: Place) -> None:
        """Delete a file, if there is one."""

    def url(self, place: Place) -> str:
        """Return the URL of a file in this store, percent-encoded."""

    def free_bytes(self, directory: Place) -> int | None:
        """Return how many bytes can still be written; None: the store is unlimited, or does not say."""
