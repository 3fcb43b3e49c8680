"""The async client of render-ws: one method for each request that temwatch sends.

Names and numbers are checked before the first request. A request is repeated only where that is safe, and only within
seconds; the caller decides on longer waits. Every failure is a RenderFault. docs/decisions/render-client.md gives the
reasons. Opening and closing a stack take several requests: see `opening` and `closing`.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

from handlers.errors import NotRender, ReadBackDiffers, RenderFault, RenderRefused, StackMissing
from handlers.render.access import Access
from handlers.render.layer_responses import (
    RESOLVED_TILES,
    SECTION_DATA,
    TILE,
    TILE_BOUNDS,
    Z_VALUES,
    ResolvedTiles,
    SectionData,
    TileBounds,
)
from handlers.render.names import BaseUrl, StackId, create_timestamp, format_z, tile_segment
from handlers.render.patience import Patience, Polling
from handlers.render.reading import read_answer
from handlers.render.requests import Answer, Limit, OnAnswer, Request
from handlers.render.responses import (
    LOCKED,
    OBJECT,
    PATH_BUILDER,
    STACK_META,
    PathBuilder,
    StackMeta,
    StackState,
    concerns_stack,
    fault_of,
)
from handlers.render.tiles import MOST_BYTES, MOST_TILES, Json, json_body
from handlers.render.transport import RenderHttp
from handlers.render.uploading import UploadLimit, put_in_parts
from handlers.text import abbreviate

MOST_LAYER_BYTES, MOST_LAYER_VALUES = 512 * 2**20, 10_000_000
"""render-ws sends at most 50,000 tiles at once: about 200 MiB, and 100 values of each."""
MOST_LIST_BYTES, MOST_LIST_VALUES = 64 * 2**20, 2_000_000
"""Bounds of tiles, or sections of z."""

_LAYER = Limit(MOST_LAYER_BYTES, MOST_LAYER_VALUES)
_LISTED_TILES = Limit(MOST_LIST_BYTES, MOST_LIST_VALUES)
_LISTED_Z = Limit(8 * 2**20, 500_000)
_ONE_TILE = Limit(16 * 2**20, 500_000)
"""A spec may hold a mesh of transforms."""


class RenderClient:
    """A pool of connections to one render-ws; used as an async context manager.

    Parameters
    ----------
    base_url : as in `http://render:8080/render-ws/v1`; a slash at its end is allowed.
    patience : time limits of requests.
    polling : delays of `close_stack`.
    setting : the name by which the caller sets the base URL; faults name it.
    access : login, TLS and proxy.
    connections : most requests at once; further ones wait.
    tries : how often a repeatable request is sent.
    first_wait_s : longest wait before the second try; it doubles from try to try, and a random part of it is taken.
    on_answer : called after each request with its outcome and its seconds.
    now : clock for creation times.

    Raises
    ------
    SettingsFault
        If the base URL is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        patience: Patience | None = None,
        polling: Polling | None = None,
        setting: str = "render.url",
        access: Access | None = None,
        connections: int = 8,
        tries: int = 3,
        first_wait_s: float = 0.25,
        on_answer: OnAnswer = lambda request, outcome, seconds: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._patience = patience or Patience()
        self.polling = polling or Polling()
        self._http = RenderHttp(
            base_url,
            self._patience,
            setting=setting,
            access=access,
            connections=connections,
            tries=tries,
            first_wait_s=first_wait_s,
            on_answer=on_answer,
        )
        self._now = now
        self.upload_limit = UploadLimit()
        """Largest upload of tiles; learned when a proxy refuses one."""

    @property
    def base_url(self) -> str:
        """Address of the service without user, password and final slash."""
        return self._http.base_url

    @property
    def address(self) -> BaseUrl:
        """Address of the service and its credentials."""
        return self._http.address

    @property
    def access(self) -> Access:
        """Login, TLS and proxy, as files."""
        return self._http.access

    async def has_new_login(self) -> bool:
        """Whether a file with a login or certificate has changed since it was read."""
        return await self._http.has_new_login()

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)

    # -- the service and its stacks ------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Ask for the version, which needs no database. Raises RenderUnavailable or another RenderFault."""
        request = Request("GET", "/versionInfo", self.base_url, "ask for its version", repeatable=False)
        body = await self._ask(replace(request, limit_s=self._patience.ping_s))
        if body.strip():  # a render-ws built without its version answers 204
            await read_answer(OBJECT, body, request)

    async def ask_database(self, stack: StackId) -> None:
        """Read a stack, which needs the database; the stack may be absent. Raises a RenderFault."""
        request = Request("GET", stack.path, self.base_url, "read from its database", repeatable=False)
        await self._read_stack(replace(request, limit_s=self._patience.ping_s))

    async def empty_image_cache(self) -> None:
        """Clear the image cache of render-ws, which keeps images by URL and does not notice that a file changed.

        Raises
        ------
        NotRender
            If this render-ws has no such request, or a proxy forbids it.
        """
        path = "/imageProcessorCache/allEntries"
        request = Request("DELETE", path, self.base_url, "empty its image cache")
        if (await self._ask(request)).strip():
            raise NotRender(self.base_url, "was asked to empty its image cache, and answered with a page")

    async def stack(self, stack: StackId) -> StackMeta | None:
        """Read the stack; None if it does not exist."""
        return await self._read_stack(Request("GET", stack.path, str(stack), "look at the stack"))

    async def _read_stack(self, request: Request) -> StackMeta | None:
        answer = await self._http.ask(request)
        if not answer.absent:
            return await read_answer(STACK_META, answer.body, request)
        if not concerns_stack(answer.text):  # a 404 of another server
            raise _absence(request, answer)
        return None

    async def existing_stack(self, stack: StackId) -> StackMeta:
        """Read the stack. Raises StackMissing if it does not exist."""
        meta = await self.stack(stack)
        if meta is None:
            raise StackMissing(str(stack), "does not exist", "check the stack's name, and whether somebody deleted it")
        return meta

    async def post_version(self, stack: StackId, resolution_nm: tuple[float, float, float]) -> None:
        """Create the stack, or a new version of it. Never repeated: `create_stack` says what an old version loses."""
        x, y, z = resolution_nm
        version = {
            "createTimestamp": create_timestamp(self._now()),
            "stackResolutionX": x,
            "stackResolutionY": y,
            "stackResolutionZ": z,
        }
        body = json_body(str(stack), version)
        await self._ask(Request("POST", stack.path, str(stack), "create the stack", body, repeatable=False))

    async def delete_stack(self, stack: StackId) -> None:
        """Delete the stack with all its tiles, if it exists."""
        with contextlib.suppress(StackMissing):
            await self._ask(Request("DELETE", stack.path, str(stack), "delete the stack"))

    async def set_resolution(
        self, stack: StackId, resolution_nm: tuple[float, float, float], *, once: bool = False
    ) -> None:
        """Set nanometres per pixel in x and y, and between sections in z. `once`: as a probe, with its time limit."""
        body = json_body(str(stack), list(resolution_nm))
        request = Request("PUT", f"{stack.path}/resolutionValues", str(stack), "set the resolution", body)
        await self._ask(replace(request, repeatable=False, limit_s=self._patience.ping_s) if once else request)

    async def set_state(self, stack: StackId, state: StackState) -> None:
        """Set LOADING or COMPLETE. COMPLETE is sent once, even if its answer is lost.

        READ_ONLY and OFFLINE are refused, since OFFLINE drops the tiles. Raises StackLocked if the stack is in one of
        these two states.
        """
        if state in LOCKED:
            raise RenderRefused(str(stack), f"may not be set {state} by a program", "set it by hand if you mean it")
        request = Request("PUT", f"{stack.path}/state/{state}", str(stack), f"make the stack {state}", b"")
        if state is StackState.COMPLETE:
            request = replace(request, repeatable=False, limit_s=self._patience.complete_s, abandonable=True)
        await self._ask(request)

    # -- tiles ---------------------------------------------------------------------------------------------------

    async def put_tiles(
        self,
        stack: StackId,
        z: float,
        specs: Sequence[Json],
        transforms: Mapping[str, Json] | None = None,
        *,
        derive: bool = True,
        most_tiles: int = MOST_TILES,
        most_bytes: int = MOST_BYTES,
    ) -> int:
        """Put tile specs of one z, replace those with the same ids, and return the number of requests.

        Not atomic: after a failure the tiles of earlier requests stay. Putting the same tiles again ends in the same
        stack. An upload that a proxy refuses because of its size is split, and later ones are as small.

        Parameters
        ----------
        transforms : shared transforms by id; each request carries those that its tiles need.
        derive : whether render-ws computes the bounds. If not, every spec must have its own.

        Raises
        ------
        StackNotLoading
            If the stack is COMPLETE. Nothing of the failed request is stored: reopen the stack and put again.
        """
        subject = f"{stack} z {format_z(z)}"
        path = f"{_layer(stack, z)}/resolvedTiles" + ("?deriveData=true" if derive else "")
        return await put_in_parts(
            lambda body: self._ask(Request("PUT", path, subject, "put tiles", body)),
            subject,
            z,
            specs,
            transforms or {},
            most_tiles,
            most_bytes,
            self.upload_limit,
        )

    async def delete_tile(self, stack: StackId, tile_id: str) -> None:
        """Delete one tile at any z, if it exists. Raises StackNotLoading."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        await self._ask(Request("DELETE", path, str(stack), f"delete tile '{tile_id}'"))

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
        """Read one tile spec as stored, references not resolved; None if there is none."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        request = Request("GET", path, str(stack), f"read tile '{tile_id}'", limit=_ONE_TILE)
        body = await self._ask_for_part(request)
        return None if body is None else await read_answer(TILE, body, request)

    async def tile_bounds(self, stack: StackId, z: float) -> tuple[TileBounds, ...]:
        """List the ids, section ids and bounds of all tiles of a z. Raises StackMissing."""
        request = Request(
            "GET", f"{_layer(stack, z)}/tileBounds", f"{stack} z {format_z(z)}", "list tiles", limit=_LISTED_TILES
        )
        return await read_answer(TILE_BOUNDS, await self._ask(request), request)

    async def resolved_tiles(self, stack: StackId, z: float) -> ResolvedTiles | None:
        """Read all tiles of a z as stored, references not resolved; None if there are none. Raises StackMissing.

        render-ws refuses more than 50,000 tiles.
        """
        request = Request(
            "GET", f"{_layer(stack, z)}/resolvedTiles", f"{stack} z {format_z(z)}", "read tiles", limit=_LAYER
        )
        body = await self._ask_for_part(request)
        return None if body is None else await read_answer(RESOLVED_TILES, body, request)

    async def section_data(self, stack: StackId, z: float, last_z: float | None = None) -> tuple[SectionData, ...]:
        """List the sections from z to `last_z`, or of z alone, with their tile counts.

        render-ws derives them when the stack becomes COMPLETE; in LOADING they are stale. Tiles without a section id
        are left out.
        """
        first, last = format_z(z), format_z(z if last_z is None else last_z)
        path = f"{stack.path}/sectionData?minZ={first}&maxZ={last}"
        request = Request("GET", path, str(stack), "read section data", limit=_LISTED_TILES)
        return await read_answer(SECTION_DATA, await self._ask(request), request)

    async def z_values(self, stack: StackId) -> tuple[float, ...]:
        """List all z of the stack, ascending. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/zValues", str(stack), "list z values", limit=_LISTED_Z)
        found = await read_answer(Z_VALUES, await self._ask(request), request)
        return tuple(sorted(found))

    async def path_builder(self, stack: StackId) -> PathBuilder | None:
        """Read the stack's mipmap path builder; None if it has none. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/mipmapPathBuilder", str(stack), "read the path builder")
        body = await self._ask(request)
        return await read_answer(PATH_BUILDER, body, request) if body.strip() else None

    async def put_path_builder(self, stack: StackId, builder: PathBuilder) -> None:
        """Set the stack's mipmap path builder, in LOADING or COMPLETE."""
        body = json_body(str(stack), builder.normalized().to_json())
        path = f"{stack.path}/mipmapPathBuilder"
        await self._ask(Request("PUT", path, str(stack), "set the path builder", body))

    # -- one request ---------------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> bytes:
        """Return the body of the answer. Raises a RenderFault, also for a thing that does not exist."""
        answer = await self._http.ask(request)
        if answer.absent:
            raise _absence(request, answer)
        return answer.body

    async def _ask_for_part(self, request: Request) -> bytes | None:
        """Return the body of the answer; None if the stack exists and its part does not. Raises StackMissing."""
        answer = await self._http.ask(request)
        if answer.absent and concerns_stack(answer.text):
            raise _absence(request, answer)
        return None if answer.absent else answer.body


def _absence(request: Request, answer: Answer) -> RenderFault:
    return fault_of(request.subject, request.tried, 404, "text/plain", answer.text)


def _layer(stack: StackId, z: float) -> str:
    return f"{stack.path}/z/{format_z(z)}"
