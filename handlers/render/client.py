"""The async client of render-ws: what a writer of tiles needs of it, by its rules and against its traps.

Names and numbers are checked before the first request. Requests are repeated only where that is safe, and only within
seconds; longer waits are the caller's. Every failure is a RenderFault. Why it is so: docs/decisions/render-client.md.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from handlers.errors import (
    AnswerLate,
    AnswerLost,
    NotRender,
    ReadBackDiffers,
    RenderFault,
    RenderRefused,
    RenderUnavailable,
    StackMissing,
    StackNotLoading,
    StackReopened,
)
from handlers.render.layer_responses import RESOLVED_TILES, TILE_BOUNDS, ResolvedTiles, TileBounds
from handlers.render.names import BaseUrl, StackId, create_timestamp, format_z, tile_segment
from handlers.render.responses import (
    LOCKED,
    OBJECT,
    PATH_BUILDER,
    SECTION_DATA,
    STACK_META,
    Z_VALUES,
    PathBuilder,
    SectionData,
    StackMeta,
    StackState,
    fault_of,
    locked_fault,
    speaks_of_stack,
)
from handlers.render.tiles import MOST_BYTES, MOST_TILES, Json, check_upload, upload_bodies, without_nulls
from handlers.render.transport import Answer, Patience, RenderHttp, Request, read_answer
from handlers.text import abbreviate

_REOPENINGS = 3
"""How often a stack is reopened that others close at the same moment, before the caller is told."""

__all__ = [
    "CloseReport",
    "LayerCheck",
    "PathBuilder",
    "Patience",
    "Polling",
    "RenderClient",
    "ResolvedTiles",
    "SectionCheck",
    "SectionData",
    "StackId",
    "StackMeta",
    "StackState",
    "TileBounds",
]


@dataclass(frozen=True, slots=True)
class Polling:
    """How the state of a stack is asked for while render-ws completes it; seconds."""

    first_s: float = 0.25
    """Before the second look; the wait grows by half from look to look."""
    longest_s: float = 15.0
    lost_s: float = 30.0
    """How long a COMPLETE may have been obeyed after all, once its connection broke."""

    def delay_s(self, look: int) -> float:
        """Seconds to wait after a look, 0 being the first.

        >>> Polling().delay_s(0), Polling().delay_s(2), Polling().delay_s(50)
        (0.25, 0.5625, 15.0)
        """
        return float(min(self.longest_s, self.first_s * 1.5 ** min(look, 100)))


@dataclass(frozen=True, slots=True)
class SectionCheck:
    """Tiles of one section at one z of a stack just closed."""

    z: float
    section_id: str
    derived: int
    """As counted by the derivation."""
    live: int
    """As they are there now."""

    @property
    def agrees(self) -> bool:
        """Whether the derivation saw every tile; a write that raced with it may have been missed."""
        return self.derived == self.live


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """All tiles of one z of a stack just closed, and what the derivation counted of each section."""

    z: float
    tiles: tuple[TileBounds, ...]
    """As they are there now."""
    sections: tuple[SectionCheck, ...]
    """Tiles without a section id are in none: render-ws leaves them out of its section data."""

    @property
    def differing(self) -> frozenset[str]:
        """Ids of the sections whose tiles the derivation missed, or has and are gone."""
        return frozenset(section.section_id for section in self.sections if not section.agrees)


@dataclass(frozen=True, slots=True)
class CloseReport:
    """A stack that is COMPLETE, and whether its statistics cover what is in it."""

    stack: StackId
    meta: StackMeta
    derivations: int
    """How often it was derived for this: 0 if it was COMPLETE and in order, 2 if the first one had missed a write."""
    sections: tuple[SectionCheck, ...]

    @property
    def differing(self) -> tuple[SectionCheck, ...]:
        """Sections with tiles that the derivation missed, or has and are gone: others were writing all along."""
        return tuple(section for section in self.sections if not section.agrees)


Judge = Callable[[LayerCheck], Awaitable[bool]]
"""Whether a layer of a stack just closed is as it has to be."""


async def _agrees(layer: LayerCheck) -> bool:
    return not layer.differing


class RenderClient:
    """A pool of connections to one render-ws; used as an async context manager.

    Parameters
    ----------
    base_url : as in `http://render:8080/render-ws/v1`, with or without a slash at its end.
    connections : requests under way at once; more wait their turn.
    tries : how often a request is sent that may be repeated.
    first_wait_s : longest wait before the second try; doubles, shortened at random.
    now : the clock for creation times.

    Raises
    ------
    SettingsFault
        If the base URL is no http address.
    """

    def __init__(
        self,
        base_url: str,
        *,
        patience: Patience | None = None,
        polling: Polling | None = None,
        connections: int = 8,
        tries: int = 3,
        first_wait_s: float = 0.25,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._patience = patience or Patience()
        self._polling = polling or Polling()
        self._http = RenderHttp(
            base_url, self._patience, connections=connections, tries=tries, first_wait_s=first_wait_s
        )
        self._now = now

    @property
    def base_url(self) -> str:
        """The address of the service, without a slash at its end, and without user and password."""
        return self._http.base_url

    @property
    def address(self) -> BaseUrl:
        """The address of the service, and how to log in there."""
        return self._http.address

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.__aexit__(*error)

    # -- the service and its stacks ------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Return if render-ws answers; RenderUnavailable or another RenderFault if not. Does not ask its database."""
        request = Request("GET", "/versionInfo", self.base_url, "ask for its version", repeatable=False)
        body = await self._ask(replace(request, limit_s=self._patience.ping_s))
        if body.strip():  # a render-ws built without its version answers 204
            await read_answer(OBJECT, body, request)

    async def ask_database(self, stack: StackId) -> None:
        """Return if render-ws can read from its database: says of a stack what it is, or that there is none."""
        request = Request("GET", stack.path, self.base_url, "read from its database", repeatable=False)
        await self._look_at(replace(request, limit_s=self._patience.ping_s))

    async def empty_image_cache(self) -> None:
        """Have render-ws forget the images that it has read. It keeps them by URL, whatever becomes of the files.

        Raises
        ------
        NotRender
            If it does not know how, or a proxy forbids it.
        """
        path = "/imageProcessorCache/allEntries"
        request = Request("DELETE", path, self.base_url, "empty its image cache")
        if (await self._ask(request)).strip():
            raise NotRender(self.base_url, "was asked to empty its image cache, and answered with a page")

    async def stack(self, stack: StackId) -> StackMeta | None:
        """What render-ws says of the stack; None if it does not exist."""
        return await self._look_at(Request("GET", stack.path, str(stack), "look at the stack"))

    async def _look_at(self, request: Request) -> StackMeta | None:
        answer = await self._http.ask(request)
        if not answer.absent:
            return await read_answer(STACK_META, answer.body, request)
        if not speaks_of_stack(answer.text):  # another server's 404
            raise _absence(request, answer)
        return None

    async def create_stack(
        self, stack: StackId, resolution_nm: tuple[float, float, float], notes: str = ""
    ) -> StackMeta:
        """The stack, created with this resolution if it does not exist; resolution set if it has none.

        Creating over an existing stack reopens it and drops its statistics, resolution and path builder. So it is done
        only for a stack that render-ws says does not exist, never twice, and looked at afterwards: of two clients that
        create at once the second makes a new version of an empty stack, and the resolution is set again where lost.

        Raises
        ------
        StackLocked
            If the stack is READ_ONLY or OFFLINE and has no resolution.
        RenderUnavailable
            If the stack is not there after all; nothing is known to be done, ask again.
        """
        meta = await self.stack(stack) or await self._create(stack, resolution_nm, notes)
        if meta.resolution_nm is None and meta.state not in LOCKED:
            await self.set_resolution(stack, resolution_nm)
            meta = await self._existing(stack)
        return meta

    async def _create(self, stack: StackId, resolution_nm: tuple[float, float, float], notes: str) -> StackMeta:
        x, y, z = resolution_nm
        version = {
            "createTimestamp": create_timestamp(self._now()),
            "versionNotes": notes or None,
            "stackResolutionX": x,
            "stackResolutionY": y,
            "stackResolutionZ": z,
        }
        subject = str(stack)
        body = _json(subject, version)
        unknown: RenderUnavailable | None = None
        try:
            await self._ask(Request("POST", stack.path, subject, "create the stack", body, repeatable=False))
        except (AnswerLate, AnswerLost) as fault:
            unknown = fault
        meta = await self.stack(stack)
        if meta is None:
            raise unknown or RenderUnavailable(
                subject,
                "was created, and does not exist",
                "another client deleted it, or render-ws reads a replica",
            )
        return meta

    async def set_resolution(self, stack: StackId, resolution_nm: tuple[float, float, float]) -> None:
        """Set nanometres per pixel in x and y, and per section in z."""
        body = _json(str(stack), list(resolution_nm))
        await self._ask(Request("PUT", f"{stack.path}/resolutionValues", str(stack), "set the resolution", body))

    async def set_state(self, stack: StackId, state: StackState) -> None:
        """Set LOADING or COMPLETE. LOADING may be sent again; COMPLETE is sent once, whatever comes of it.

        Raises StackLocked if the stack is READ_ONLY or OFFLINE. Those two states are never set: one drops the tiles.
        """
        if state in LOCKED:
            raise RenderRefused(str(stack), f"is not to be made {state} by a program", "do it by hand if it is meant")
        request = Request("PUT", f"{stack.path}/state/{state}", str(stack), f"make the stack {state}", b"")
        if state is StackState.COMPLETE:
            request = replace(request, repeatable=False, limit_s=self._patience.complete_s, abandonable=True)
        await self._ask(request)

    async def ensure_loading(
        self, stack: StackId, resolution_nm: tuple[float, float, float], notes: str = ""
    ) -> StackMeta:
        """The stack, created if absent, reopened if COMPLETE: LOADING when it was looked at last.

        Raises
        ------
        StackLocked
            If the stack is READ_ONLY or OFFLINE.
        StackNotLoading
            If another client closed it each time that it was reopened.
        """
        meta = await self.create_stack(stack, resolution_nm, notes)
        for _ in range(_REOPENINGS):
            if meta.state in LOCKED:
                raise locked_fault(str(stack), meta.state)
            if meta.state is StackState.LOADING:
                return meta
            await self.set_state(stack, StackState.LOADING)
            meta = await self._existing(stack)
        if meta.state is StackState.LOADING:
            return meta
        raise StackNotLoading(str(stack), f"was made LOADING, and is {meta.state}", "another client closes it")

    async def close(
        self,
        stack: StackId,
        zs: Collection[float] = (),
        *,
        deadline_s: float = 3600.0,
        is_right: Judge = _agrees,
        on_complete: Callable[[], Awaitable[None]] | None = None,
    ) -> CloseReport:
        """Make the stack COMPLETE, wait until it is, and compare its section data with the tiles that are there.

        COMPLETE is sent once: render-ws derives in the request, for minutes on a big stack, and giving up on the answer
        does not stop it. So a late answer means looking at the state, in growing steps. A stack that is COMPLETE
        already is only compared. Where the section data lack tiles, because they were written while others were being
        derived, the stack is reopened and completed once more.

        Parameters
        ----------
        zs : layers to compare; a tile written during the derivation is in the stack but not in its data.
        deadline_s : how long to look.
        is_right : judges each of these layers; those that are wrong are worth a second derivation, and judged again,
            unless another client reopened the stack meanwhile.
        on_complete : awaited once the stack is COMPLETE, before the layers are compared.

        Raises
        ------
        RenderUnavailable
            If it is not COMPLETE by then. Closing again later is right: it looks before it sends.
        StackReopened
            If it was completed and somebody reopened it.
        StackLocked, StackMissing
            If somebody froze, dropped or deleted it.
        RenderRefused
            If it has no tiles.
        """
        before = await self._existing(stack)
        was_complete = before.state is StackState.COMPLETE
        meta = before if was_complete else await self._complete(stack, before, deadline_s)
        if on_complete is not None:
            await on_complete()
        sections, wrong = await self._compare(stack, zs, is_right)
        if not wrong or (await self._existing(stack)).state is not StackState.COMPLETE:
            return CloseReport(stack, meta, 0 if was_complete else 1, sections)
        await self.set_state(stack, StackState.LOADING)
        meta = await self._complete(stack, await self._existing(stack), deadline_s)
        kept = tuple(section for section in sections if section.z not in wrong)
        again, _ = await self._compare(stack, wrong, is_right)
        return CloseReport(stack, meta, 1 if was_complete else 2, kept + again)

    async def _compare(
        self, stack: StackId, zs: Collection[float], is_right: Judge
    ) -> tuple[tuple[SectionCheck, ...], frozenset[float]]:
        """Return every section of the layers, and the layers that are not as they have to be."""
        sections: list[SectionCheck] = []
        wrong = set()
        derived: defaultdict[float, list[SectionData]] = defaultdict(list)
        for each in await self.section_data(stack, min(zs), max(zs)) if zs else ():
            derived[each.z].append(each)
        for z in zs:
            layer = _layer_check(z, derived[z], await self.tile_bounds(stack, z))
            sections += layer.sections
            if not await is_right(layer):
                wrong.add(z)
        return tuple(sections), frozenset(wrong)

    async def _complete(self, stack: StackId, before: StackMeta, deadline_s: float) -> StackMeta:
        if before.state in LOCKED:
            raise locked_fault(str(stack), before.state)
        try:
            await self.set_state(stack, StackState.COMPLETE)
        except AnswerLate:
            pass
        except AnswerLost:
            deadline_s = min(deadline_s, self._polling.lost_s)
        loop = asyncio.get_running_loop()
        start = loop.time()
        look = 0
        while True:
            meta = await self._existing(stack)
            if meta.state is StackState.COMPLETE:
                return meta
            if meta.state in LOCKED:
                raise locked_fault(str(stack), meta.state)
            if meta.current_version_number != before.current_version_number:
                raise _reopened(stack)
            if loop.time() - start >= deadline_s:
                raise RenderUnavailable(
                    str(stack),
                    f"is still LOADING {deadline_s:.0f} s after it was to be COMPLETE",
                    "render-ws may still be deriving: see its log and the load of its database",
                )
            await asyncio.sleep(self._polling.delay_s(look))
            look += 1

    async def _existing(self, stack: StackId) -> StackMeta:
        meta = await self.stack(stack)
        if meta is None:
            raise StackMissing(str(stack), "does not exist", "somebody deleted the stack, or its name is another")
        return meta

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
        """Put tile specs of one z, replacing those of the same ids, and return the number of requests it took.

        Not atomic: what was put before a failure stays, and putting the same again converges. All is checked and
        written as JSON before the first request.

        Parameters
        ----------
        transforms : shared transforms by id; those that the tiles need go along with each request.
        derive : let render-ws compute the bounds; without it every spec must bring its own.

        Raises
        ------
        StackNotLoading
            If the stack is COMPLETE; nothing of the failed request is stored. Reopen, then put again.
        """
        subject = f"{stack} z {format_z(z)}"
        bodies = await asyncio.to_thread(_bodies, subject, z, specs, transforms or {}, most_tiles, most_bytes)
        path = f"{_layer(stack, z)}/resolvedTiles" + ("?deriveData=true" if derive else "")
        for body in bodies:
            await self._ask(Request("PUT", path, subject, "put tiles", body))
        return len(bodies)

    async def delete_tile(self, stack: StackId, tile_id: str) -> None:
        """Delete one tile, wherever its z; nothing happens if it is not there. Raises StackNotLoading."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        await self._ask(Request("DELETE", path, str(stack), f"delete tile '{tile_id}'"))

    async def delete_tiles(self, stack: StackId, z: float, tile_ids: Collection[str]) -> tuple[TileBounds, ...]:
        """Delete tiles, wherever their z, see that they are gone, and list what is left of a z.

        Raises
        ------
        ReadBackDiffers
            If one is there afterwards.
        StackNotLoading
            If the stack is COMPLETE; some may be deleted.
        """
        for tile_id in tile_ids:
            await self.delete_tile(stack, tile_id)
        there = await self.tile_bounds(stack, z)
        at_z = {tile.tile_id for tile in there}
        left = [tile_id for tile_id in tile_ids if tile_id in at_z or await self.tile(stack, tile_id) is not None]
        if left:
            raise ReadBackDiffers(
                str(stack),
                f"still has tiles that were deleted: {abbreviate(sorted(left), 5)}",
                "another client puts them",
            )
        return there

    async def tile(self, stack: StackId, tile_id: str) -> dict[str, Any] | None:
        """The spec of one tile as stored, references intact; None if there is none."""
        path = f"{stack.path}/tile/{tile_segment(tile_id)}"
        request = Request("GET", path, str(stack), f"read tile '{tile_id}'")
        body = await self._ask_for_part(request)
        return None if body is None else await read_answer(OBJECT, body, request)

    async def tile_bounds(self, stack: StackId, z: float) -> tuple[TileBounds, ...]:
        """Ids, section ids and bounds of all tiles of a z; empty if there are none. Raises StackMissing."""
        request = Request("GET", f"{_layer(stack, z)}/tileBounds", f"{stack} z {format_z(z)}", "list tiles")
        return await read_answer(TILE_BOUNDS, await self._ask(request), request)

    async def resolved_tiles(self, stack: StackId, z: float) -> ResolvedTiles | None:
        """All tiles of a z as stored, references intact; None if it is empty. Raises StackMissing.

        render-ws refuses more than 50,000 tiles.
        """
        request = Request("GET", f"{_layer(stack, z)}/resolvedTiles", f"{stack} z {format_z(z)}", "read tiles")
        body = await self._ask_for_part(request)
        return None if body is None else await read_answer(RESOLVED_TILES, body, request)

    async def section_data(self, stack: StackId, z: float, last_z: float | None = None) -> tuple[SectionData, ...]:
        """Sections of a z, or of all from there to `last_z`, with their tile counts; stale in LOADING.

        As derived when the stack was last completed. Tiles without a section id are left out.
        """
        first, last = format_z(z), format_z(z if last_z is None else last_z)
        path = f"{stack.path}/sectionData?minZ={first}&maxZ={last}"
        request = Request("GET", path, str(stack), "read section data")
        return await read_answer(SECTION_DATA, await self._ask(request), request)

    async def z_values(self, stack: StackId) -> tuple[float, ...]:
        """All z of the stack in order, as they are now. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/zValues", str(stack), "list z values")
        found = await read_answer(Z_VALUES, await self._ask(request), request)
        return tuple(sorted(found))

    async def path_builder(self, stack: StackId) -> PathBuilder | None:
        """The stack's mipmap path builder; None if it has none. Raises StackMissing."""
        request = Request("GET", f"{stack.path}/mipmapPathBuilder", str(stack), "read the path builder")
        body = await self._ask(request)
        return await read_answer(PATH_BUILDER, body, request) if body.strip() else None

    async def put_path_builder(self, stack: StackId, builder: PathBuilder) -> None:
        """Set the stack's mipmap path builder, in LOADING or COMPLETE; another one is replaced."""
        body = _json(str(stack), builder.normalized().to_json())
        path = f"{stack.path}/mipmapPathBuilder"
        await self._ask(Request("PUT", path, str(stack), "set the path builder", body))

    # -- one request ---------------------------------------------------------------------------------------------

    async def _ask(self, request: Request) -> bytes:
        """The body of a success; a thing that does not exist is a fault."""
        answer = await self._http.ask(request)
        if answer.absent:
            raise _absence(request, answer)
        return answer.body

    async def _ask_for_part(self, request: Request) -> bytes | None:
        """The body of a success; None if the stack is there and the part of it is not. Raises StackMissing."""
        answer = await self._http.ask(request)
        if answer.absent and speaks_of_stack(answer.text):
            raise _absence(request, answer)
        return None if answer.absent else answer.body


def _absence(request: Request, answer: Answer) -> RenderFault:
    return fault_of(request.subject, request.tried, 404, "text/plain", answer.text)


def _layer_check(z: float, derived: Collection[SectionData], tiles: tuple[TileBounds, ...]) -> LayerCheck:
    counts = Counter({each.section_id: each.tile_count for each in derived})
    live = Counter(tile.section_id for tile in tiles)
    section_ids = sorted(each for each in counts.keys() | live.keys() if each is not None)
    return LayerCheck(z, tiles, tuple(SectionCheck(z, each, counts[each], live[each]) for each in section_ids))


def _reopened(stack: StackId) -> StackReopened:
    problem = "was made COMPLETE, and another client reopened it"
    return StackReopened(str(stack), problem, "it is closed again when quiet")


def _layer(stack: StackId, z: float) -> str:
    return f"{stack.path}/z/{format_z(z)}"


def _bodies(
    subject: str, z: float, specs: Sequence[Json], transforms: Mapping[str, Json], most_tiles: int, most_bytes: int
) -> list[bytes]:
    """The bodies of the requests that put these tiles. Takes 0.3 s for 20,000 tiles."""
    check_upload(subject, z, specs)
    return upload_bodies(specs, transforms, most_tiles, most_bytes)


def _json(subject: str, value: object) -> bytes:
    try:
        return json.dumps(without_nulls(value), allow_nan=False).encode()
    except ValueError as error:
        raise RenderRefused(subject, f"was given a number that JSON does not know: {error}") from None
