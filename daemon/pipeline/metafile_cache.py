"""Cache of parsed metafiles: each step reads the metafile again, and need not parse it again."""

import asyncio
import contextlib
import hashlib

from handlers.acquisition.metafile import Metafile
from handlers.acquisition.parse import parse_metafile

MOST_BYTES = 16 * 2**20
"""Total size of the cached metafiles on disk: one with 20,000 tiles, or seven full sections. Parsed metafiles take
about twice the memory."""

LARGE_BYTES = 8 * 2**20
"""Of larger metafiles, which have 10,000 tiles or more, one at a time is parsed: each takes seconds and memory."""


class MetafileCache:
    """Parsed metafiles by the digest of their content.

    The caller reads the file and computes the digest each time, so a cached metafile is never outdated.

    Parameters
    ----------
    most_bytes : total size of the cached metafiles on disk; the least recently used are dropped. A larger metafile is
        parsed each time.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._parsing_large = asyncio.Lock()
        self._kept: dict[str, tuple[Metafile, int]] = {}

    async def parse(self, content: bytes, digest: str, subject: str) -> Metafile:
        """Return the parsed metafile. Raises as `parse_metafile`.

        Parameters
        ----------
        digest : SHA-256 of the content.
        """
        found = self._kept.pop(digest, None)
        if found is None:
            async with self._parsing_large if len(content) > LARGE_BYTES else contextlib.nullcontext():
                found = self._kept.pop(digest, None) or await _parse(content, subject)
        if found[1] <= self._most_bytes:
            self._kept[digest] = found
            self._drop_oldest()
        return found[0]

    def _drop_oldest(self) -> None:
        total_bytes = sum(length for _, length in self._kept.values())
        for digest, (_, length) in list(self._kept.items()):
            if total_bytes <= self._most_bytes:
                return
            del self._kept[digest]
            total_bytes -= length


async def _parse(content: bytes, subject: str) -> tuple[Metafile, int]:
    return await asyncio.to_thread(parse_metafile, content, subject), len(content)


async def content_digest(content: bytes) -> str:
    """Return the SHA-256 of a metafile, computed in a thread: the largest ones take a third of a second."""
    return await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
