"""Levels in a local directory. Each file is written under a temporary name, read back, synced and renamed."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from typing import BinaryIO

from handlers.container import Container
from handlers.errors import storage_fault
from handlers.images.encode import Encoding, Page
from handlers.images.header import open_image
from handlers.place import Place, path_of
from handlers.sharing import AS_MADE, Sharing
from handlers.stores.atomic_write import LevelBeside, Seen, sync_directories, write_beside
from handlers.stores.level_store import LevelStat
from handlers.stores.temporary import is_temporary
from handlers.uris import path_to_uri


class DirectoryStore:
    """A `LevelStore` on a disk of this machine.

    Parameters
    ----------
    container : directory of all levels, below which no link is followed; None: links are followed.
    sharing : modes and group of new files and directories.
    """

    puts_at_once = 1

    def __init__(self, container: Container | None = None, sharing: Sharing = AS_MADE) -> None:
        self._container = container
        self._sharing = sharing

    def put(self, level: int, place: Place, page: Page, encoding: Encoding, seen: Seen | None = None) -> bool:
        """Write a level's file and verify it; see `LevelStore.put`. Its name is durable after `sync`."""
        return self.begin(level, place, page, encoding, seen).finish()

    def begin(self, level: int, place: Place, page: Page, encoding: Encoding, seen: Seen | None = None) -> LevelBeside:
        """Write the file under a temporary name."""
        return write_beside(level, path_of(place), page, encoding, self._container, seen, self._sharing)

    def sync(self, places: Iterable[Place]) -> None:
        """Sync the directories of files."""
        sync_directories({path_of(place).parent for place in places})

    def stat(self, place: Place) -> LevelStat | None:
        """Return size and identity of a regular file."""
        try:
            found = path_of(place).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_fault(str(place), "look it up", error) from error
        return _stat_of(found) if stat.S_ISREG(found.st_mode) else None

    def known_digest(self, place: Place) -> None:
        """Return None: a disk has no checksums of files."""
        return

    def open(self, place: Place) -> AbstractContextManager[BinaryIO]:
        """Open a regular file."""
        return open_image(place)

    def list(self, directory: Place) -> Iterator[tuple[str, LevelStat]]:
        """Yield the regular files of a directory."""
        try:
            with os.scandir(path_of(directory)) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # it was renamed meanwhile
                        if entry.is_file() and not is_temporary(entry.name):
                            yield entry.name, _stat_of(entry.stat())
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise storage_fault(str(directory), "list it", error) from error

    def delete(self, place: Place) -> None:
        """Remove a file."""
        try:
            path_of(place).unlink(missing_ok=True)
        except OSError as error:
            raise storage_fault(str(place), "delete it", error) from error

    def url(self, place: Place) -> str:
        """Return the `file:` URL."""
        return path_to_uri(path_of(place))

    def free_bytes(self, directory: Place) -> int | None:
        """Return the free bytes of the disk for this user."""
        try:
            return shutil.disk_usage(path_of(directory)).free
        except OSError as error:
            raise storage_fault(str(directory), "ask for its free space", error) from error


def _stat_of(found: os.stat_result) -> LevelStat:
    return LevelStat(found.st_size, f"{found.st_mtime_ns}-{found.st_ctime_ns}-{found.st_ino}")
