"""The async client of render-ws: one method for each request that temwatch sends.

Names and numbers are checked before the first request. A request is repeated only if that is safe, and only within
seconds; the caller decides on longer waits. Every failure is a RenderFault. docs/decisions/render-client.md gives the
reasons. Opening and closing a stack take several requests: see `opening` and `closing`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from handlers.errors import ReadBackDiffers
from handlers.render.http.reading import read_answer
from handlers.render.http.requests import Limit, Request
from handlers.render.layer_responses import (
    RESOLVED_TILES,
    SECTION_DATA,
    TILE,
    TILE_BOUNDS,
    ResolvedTiles,
    SectionData,
    TileBounds,
)
from handlers.render.names import StackId, format_z, tile_segment
from handlers.render.stack_client import StackClient
from handlers.render.tiles import MAX_BYTES, MAX_TILES, Json
from handlers.render.uploading import put_in_parts
from handlers.text import abbreviate

MAX_LAYER_BYTES, MAX_LAYER_VALUES = 512 * 2**20, 10_000_000
"""Limits of a layer: render-ws sends at most 50,000 tiles at once, about 200 MiB and 100 values of each tile."""
MAX_LIST_BYTES, MAX_LIST_VALUES = 64 * 2**20, 2_000_000
"""Limits of a list of tile bounds, or of sections."""

_LAYER = Limit(MAX_LAYER_BYTES, MAX_LAYER_VALUES)
_LISTED_TILES = Limit(MAX_LIST_BYTES, MAX_LIST_VALUES)
_ONE_TILE = Limit(16 * 2**20, 500_000)
"""Limit of one tile spec, which may contain a mesh of transforms."""


class RenderClient(StackClient):
    """The client: requests about tiles, beside those of `StackClient`, which describes the parameters."""

    async def put_tiles(
        self,
        stack: StackId,
        z: float,
        specs: Sequence[Json],
        transforms: Mapping[str, Json] | None = None,
        *,
        derive: bool = True,
        max_tiles: int = MAX_TILES,
        max_bytes: int = MAX_BYTES,
    ) -> int:
        """Put tile specs of one z, replace those with the same ids, and return the number of requests.

        Not atomic: after a failure, the tiles of earlier requests stay. Putting the same tiles again has the same
        result. An upload that a proxy refuses because of its size is split, and later uploads are as small.

        Parameters
        ----------
        transforms : shared transforms by id; each request carries those that its tiles need.
        derive : whether render-ws computes the bounds. If not, every spec must have its own.

        Raises
        ------
        StackNotLoading
            If the stack is COMPLETE. No tile of the failed request is stored: reopen the stack and put the tiles again.
        """
        subject = f"{stack} z {format_z(z)}"
        path = f"{_layer(stack, z)}/resolvedTiles" + ("?deriveData=true" if derive else "")
        return await put_in_parts(
            lambda body: self.ask(Request("PUT", path, subject, "put tiles", body)),
            subject,
            z,
            specs,
            transforms or {},
            max_tiles,
            max_bytes,
            self.upload_limit,
        )

    async def delete_tile(self, stack: StackId, tile_id: str) -> None:
        """Delete one tile at any z, if it exists. Raises StackNotLoading."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        await self.ask(Request("DELETE", path, str(stack), f"delete tile '{tile_id}'"))

    async def delete_tiles(self, stack: StackId, z: float, tile_ids: Collection[str]) -> tuple[TileBounds, ...]:
        """Delete tiles at any z, check that they are gone, and return the remaining tiles of this z.

        Raises
        ------
        ReadBackDiffers
            If one of them still exists.
        StackNotLoading
            If the stack is COMPLETE. Some of the tiles may be deleted.
        """
        for tile_id in tile_ids:
            await self.delete_tile(stack, tile_id)
        remaining = await self.tile_bounds(stack, z)
        at_z = {tile.tile_id for tile in remaining}
        left = [tile_id for tile_id in tile_ids if tile_id in at_z or await self.tile(stack, tile_id) is not None]
        if left:
            raise ReadBackDiffers(
                str(stack),
                f"still has tiles that were deleted: {abbreviate(sorted(left), 5)}",
                "another client puts them again",
            )
        return remaining

    async def tile(self, stack: StackId, tile_id: str) -> dict[str, Any] | None:
        """Read one tile spec as stored, with references not resolved; None if it does not exist."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        request = Request("GET", path, str(stack), f"read tile '{tile_id}'", limit=_ONE_TILE)
        body = await self.ask_for_part(request)
        return None if body is None else await read_answer(TILE, body, request)

    async def tile_bounds(self, stack: StackId, z: float) -> tuple[TileBounds, ...]:
        """List the ids, section ids and bounds of all tiles of a z. Raises StackMissing."""
        request = Request(
            "GET", f"{_layer(stack, z)}/tileBounds", f"{stack} z {format_z(z)}", "list tiles", limit=_LISTED_TILES
        )
        return await read_answer(TILE_BOUNDS, await self.ask(request), request)

    async def resolved_tiles(self, stack: StackId, z: float) -> ResolvedTiles | None:
        """Read all tiles of a z as stored, with references not resolved; None if there are none. Raises StackMissing.

        render-ws refuses to send more than 50,000 tiles.
        """
        request = Request(
            "GET", f"{_layer(stack, z)}/resolvedTiles", f"{stack} z {format_z(z)}", "read tiles", limit=_LAYER
        )
        body = await self.ask_for_part(request)
        return None if body is None else await read_answer(RESOLVED_TILES, body, request)

    async def section_data(self, stack: StackId, z: float, last_z: float | None = None) -> tuple[SectionData, ...]:
        """List the sections from z to `last_z`, by default those of z alone, with their tile counts.

        render-ws derives the counts when the stack becomes COMPLETE; in LOADING they are stale. Tiles without a section
        id are not counted.
        """
        first, last = format_z(z), format_z(z if last_z is None else last_z)
        path = f"{stack.path}/sectionData?minZ={first}&maxZ={last}"
        request = Request("GET", path, str(stack), "read section data", limit=_LISTED_TILES)
        return await read_answer(SECTION_DATA, await self.ask(request), request)


def _layer(stack: StackId, z: float) -> str:
    return f"{stack.path}/z/{format_z(z)}"
