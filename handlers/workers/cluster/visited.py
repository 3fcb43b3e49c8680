"""Directories in which workers write, kept in a file: leftovers of dead workers are found after a restart, too."""

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
        """Return the directories of the file. A file that is missing or damaged holds none."""
        if self._path is None:
            return []
        try:
            found = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return []
        names = found if isinstance(found, list) else []
        return [Path(name) for name in names if isinstance(name, str) and name.startswith("/")]

    def keep(self, directories: Iterable[Path]) -> None:
        """Replace the directories of the file, unless it holds these."""
        now = frozenset(directories)
        if self._path is None or now == self._kept:
            return
        # Tried again at the next look. Workers go on: a disk that is full or gone stops the journal beside it, too.
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
