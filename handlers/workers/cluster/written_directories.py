"""Directories in which workers write, kept in a file: leftovers of dead workers there are removed after a restart."""

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path


class Visited:
    """The directories, and the file that keeps them. Blocking.

    Parameters
    ----------
    path : the file; None: they are not kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: frozenset[Path] | None = None

    def read(self) -> list[Path]:
        """Return the directories of the file; an empty list if it is missing or damaged."""
        if self._path is None:
            return []
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return []
        names = found if isinstance(found, list) else []
        return [Path(name) for name in names if isinstance(name, str) and name.startswith("/")]

    def keep(self, directories: Iterable[Path]) -> None:
        """Write these directories to the file, unless it holds them already."""
        now = frozenset(directories)
        if self._path is None or now == self._kept:
            return
        # The next search tries again. A disk that is full or missing stops the journal beside the file, too.
        with contextlib.suppress(OSError):
            _replace(self._path, json.dumps(sorted(map(str, now))))
            self._kept = now


def _replace(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
