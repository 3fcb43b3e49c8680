"""Cache of parsed metafiles: each step reads the metafile again but does not parse it again."""

import asyncio
import contextlib
import hashlib
from pathlib import Path

from handlers.acquisition.acquisition import Acquisition
from handlers.acquisition.formats.reader import Reader

MAX_BYTES = 16 * 2**20
"""Limit of the cached metafiles' size on disk: one with 20,000 tiles, or seven full sections. Parsed metafiles take
about twice the memory."""
LARGE_BYTES = 8 * 2**20
"""Metafiles above this size (10,000 tiles or more) are parsed one at a time, since each takes seconds and memory."""

_SHORT_BYTES = 256 * 2**10


class MetafileCache:
    """Parsed metafiles by format, digest of the content and path, from which some formats read names.

    The caller reads the file and computes the digest each time, so a cached metafile is never outdated.

    Parameters
    ----------
    max_bytes : limit of the cached metafiles' size on disk; the least recently used are dropped. A larger metafile is
        parsed each time.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._parsing_large = asyncio.Lock()
        self._kept: dict[tuple[str, str, str], tuple[Acquisition, int]] = {}

    async def parse(self, content: bytes, digest: str, path: Path, reader: Reader) -> Acquisition:
        """Return the parsed metafile. Raises as `Reader.parse`.

        Parameters
        ----------
        digest : SHA-256 of the content.
        """
        key = reader.format, digest, str(path)
        found = self._kept.pop(key, None)
        if found is None:
            async with self._parsing_large if len(content) > LARGE_BYTES else contextlib.nullcontext():
                found = self._kept.pop(key, None) or await _parse(content, path, reader)
        if found[1] <= self._max_bytes:
            self._kept[key] = found
            self._drop_oldest()
        return found[0]

    def forget(self, digest: str, path: Path, reader: Reader) -> None:
        """Drop a metafile that no further step needs."""
        self._kept.pop((reader.format, digest, str(path)), None)

    def _drop_oldest(self) -> None:
        total_bytes = sum(length for _, length in self._kept.values())
        for key, (_, length) in list(self._kept.items()):
            if total_bytes <= self._max_bytes:
                return
            del self._kept[key]
            total_bytes -= length


async def _parse(content: bytes, path: Path, reader: Reader) -> tuple[Acquisition, int]:
    return await asyncio.to_thread(reader.parse, content, path), len(content)


async def content_digest(content: bytes) -> str:
    """Return the SHA-256 of a metafile. Long ones are computed in a thread, since the largest take 0.3 s."""
    if len(content) <= _SHORT_BYTES:
        return hashlib.sha256(content).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
