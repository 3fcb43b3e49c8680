"""Uploading tile specs in parts that render-ws and a proxy in front of it accept.

docs/decisions/render-access.md gives the reasons.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from handlers.errors import ProxyTimedOut, RenderRefused, UploadTooLarge
from handlers.render.tiles import MAX_BYTES, MAX_TILES, Json, check_upload, upload_parts
from handlers.text import byte_size

MIN_TILES = 500
"""An upload of at most this many tiles is not the cause if a proxy stops waiting, so uploads do not shrink further."""

Part = tuple[bytes, int]
"""A body, and the number of its tiles."""


class UploadLimit:
    """Largest upload that a client sends. It shrinks when a proxy refuses an upload, and never grows again."""

    def __init__(self) -> None:
        self.max_bytes = MAX_BYTES
        self.max_tiles = MAX_TILES

    @property
    def learned(self) -> str:
        """The limit as text; empty while no proxy has refused an upload."""
        if self.max_bytes < MAX_BYTES:
            return byte_size(self.max_bytes)
        return f"{self.max_tiles:,} tiles" if self.max_tiles < MAX_TILES else ""

    def after_too_large(self, body_bytes: int) -> None:
        """Set the limit to half the bytes of an upload that was refused because of its size."""
        self.max_bytes = max(1, min(self.max_bytes, body_bytes // 2))

    def after_time_out(self, tiles: int) -> None:
        """Set the limit to half the tiles of an upload that took longer than the proxy waits."""
        if tiles > MIN_TILES:
            self.max_tiles = max(MIN_TILES, min(self.max_tiles, tiles // 2))


async def put_in_parts(
    send: Callable[[bytes], Awaitable[object]],
    subject: str,
    z: float,
    specs: Sequence[Json],
    transforms: Mapping[str, Json],
    max_tiles: int,
    max_bytes: int,
    limit: UploadLimit,
) -> int:
    """Send tile specs by `send` and return the number of requests that were accepted.

    All tiles are checked and encoded as JSON before the first request. If a part is too large, it and the rest are
    split again.

    Raises
    ------
    RenderRefused
        If a single tile is too large.
    RenderFault
        As raised by `send`.
    """
    await asyncio.to_thread(check_upload, subject, z, specs)
    accepted, left, parts, split_at = 0, specs, list[Part](), 0
    while left:
        if not parts or limit.max_bytes < split_at:
            split_at = limit.max_bytes
            parts = await _split(left, transforms, max_tiles, max_bytes, limit)
        body, tiles = parts[0]
        try:
            await send(body)
        except UploadTooLarge as fault:
            if tiles == 1:
                raise _alone(fault, body) from fault
            limit.after_too_large(len(body))
        except ProxyTimedOut:
            limit.after_time_out(tiles)
            raise
        else:
            parts, left, accepted = parts[1:], left[tiles:], accepted + 1
    return accepted


async def _split(
    specs: Sequence[Json], transforms: Mapping[str, Json], max_tiles: int, max_bytes: int, limit: UploadLimit
) -> list[Part]:
    """Return the parts within all limits. Takes 0.3 s for 20,000 tiles."""
    tiles, size = min(max_tiles, limit.max_tiles), min(max_bytes, limit.max_bytes)
    return await asyncio.to_thread(upload_parts, specs, transforms, tiles, size)


def _alone(fault: UploadTooLarge, body: bytes) -> RenderRefused:
    problem = f"{fault.problem}, although it holds one tile: {byte_size(len(body))} with its shared transforms"
    return RenderRefused(fault.subject, problem, fault.hint)
