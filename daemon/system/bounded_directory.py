"""A directory of files that can be made again: the oldest go when it grows too large. Blocking."""

import contextlib
import os
import re
from pathlib import Path

_OWN_NAME = re.compile(r"[0-9a-f]{64}\.png")
"""Only such files are counted and deleted."""


class BoundedDirectory:
    """Keeps pictures by key.

    Parameters
    ----------
    directory : made when the first file is put.
    max_bytes : of all files together.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return the file of a key, a SHA-256 in hexadecimal digits; None if it is not kept. It is now the newest."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep a file, and delete the oldest ones beyond the bound. Raises OSError if it cannot be written."""
        path = self._path(key)
        self._directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._shrink(path)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.png"

    def _shrink(self, newest: Path) -> None:
        files = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _OWN_NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat(follow_symlinks=False)
                        files.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self._max_bytes or path == newest:
                break
            path.unlink(missing_ok=True)
            total -= size
