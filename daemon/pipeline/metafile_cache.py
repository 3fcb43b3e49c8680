"""The metafiles that were parsed last: one that settles is not parsed again for each of its steps."""

import asyncio

from handlers.acquisition.metafile import Metafile
from handlers.acquisition.parse import parse_metafile

MOST_BYTES = 16 * 2**20
"""Of the texts of the metafiles kept: one of 20,000 tiles, or seven of full sections. Parsed they take about twice the
memory."""


class MetafileCache:
    """Metafiles by the digest of their content.

    Whoever asks has read the file and made the digest of what it holds now: nothing is taken for granted of the file,
    only that the same bytes say the same.

    Parameters
    ----------
    most_bytes : of the texts of those kept; the ones asked for last are. A longer one is parsed each time.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: dict[str, tuple[Metafile, int]] = {}

    async def parse(self, content: bytes, digest: str, subject: str) -> Metafile:
        """`parse_metafile`, of which digest is the sha256 of the content. Raises as it does."""
        found = self._kept.pop(digest, None)
        if found is None:
            found = await asyncio.to_thread(parse_metafile, content, subject), len(content)
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
