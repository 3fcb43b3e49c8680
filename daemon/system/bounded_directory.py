"""A disk cache: a directory of bounded size that deletes its oldest files first. Blocking."""

import contextlib
import os
import re
from pathlib import Path

_OWN_NAME = re.compile(r"[0-9a-f]{64}\.png")
"""Names of cached files: other files in the directory are neither counted nor deleted."""


class BoundedDirectory:
    """PNG files by key, at most `max_bytes` together.

    Parameters
    ----------
    directory : created when the first file is stored.
    max_bytes : limit of all files together.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return the content stored under a key, and mark it as newest; None if there is none.

        Parameters
        ----------
        key : SHA-256 in hexadecimal digits.
        """
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Store a file under a key, then delete the oldest files beyond the limit. Raises OSError if a write fails."""
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
