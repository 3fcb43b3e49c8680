"""Closing a stack: make it COMPLETE, wait until it is, and compare its section data with its tiles.

docs/decisions/render-client.md gives the reasons.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from handlers.errors import AnswerLate, AnswerLost, RenderUnavailable, StackReopened
from handlers.render.client import RenderClient
from handlers.render.layer_responses import SectionData, TileBounds
from handlers.render.names import StackId
from handlers.render.responses import LOCKED, StackMeta, StackState, locked_fault


@dataclass(frozen=True, slots=True)
class SectionCheck:
    """The tiles of one section at one z of a stack that was just closed."""

    z: float
    section_id: str
    derived: int
    """Number of tiles that the derivation counted."""
    live: int
    """Number of tiles that the stack has now."""

    @property
    def agrees(self) -> bool:
        """Whether the derivation counted every tile. It can miss a tile that is written meanwhile."""
        return self.derived == self.live


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """All tiles of one z of a stack that was just closed, and the derived count of each section."""

    z: float
    tiles: tuple[TileBounds, ...]
    """The tiles that the stack has now."""
    sections: tuple[SectionCheck, ...]
    """Sections of the z. Tiles without a section id belong to none: render-ws does not count them in section data."""

    @property
    def differing(self) -> frozenset[str]:
        """Ids of the sections whose derived count differs from the number of tiles."""
        return frozenset(section.section_id for section in self.sections if not section.agrees)


@dataclass(frozen=True, slots=True)
class CloseReport:
    """A stack that is COMPLETE, and whether its statistics cover its tiles."""

    stack: StackId
    meta: StackMeta
    derivations: int
    """Number of derivations: 0 if the stack was COMPLETE and right, 2 if the first derivation missed a write."""
    sections: tuple[SectionCheck, ...]

    @property
    def differing(self) -> tuple[SectionCheck, ...]:
        """Sections whose derived count still differs, because another client continued to write."""
        return tuple(section for section in self.sections if not section.agrees)


LayerTest = Callable[[LayerCheck], Awaitable[bool]]
"""Test whether a layer of a stack that was just closed is right."""


async def _agrees(layer: LayerCheck) -> bool:
    return not layer.differing


async def close_stack(
    client: RenderClient,
    stack: StackId,
    zs: Collection[float] = (),
    *,
    deadline_s: float = 3600.0,
    is_right: LayerTest = _agrees,
    on_complete: Callable[[], Awaitable[None]] | None = None,
) -> CloseReport:
    """Make the stack COMPLETE, wait until it is, and compare its section data with its tiles.

    COMPLETE is sent once: render-ws derives within the request, for minutes on a big stack, and continues after the
    client has stopped waiting. So after a late answer the state is polled, in growing intervals. A stack that is
    already COMPLETE is only compared. If the section data lack tiles that were written during the derivation, the stack
    is reopened and completed once more.

    Parameters
    ----------
    zs : layers to compare.
    deadline_s : seconds to poll.
    is_right : tests each of these layers. A wrong layer causes a second derivation and a second test, unless another
        client has reopened the stack.
    on_complete : awaited as soon as the stack is COMPLETE, before the comparison.

    Raises
    ------
    RenderUnavailable
        If the stack is not COMPLETE at the deadline. Calling again later is safe: the state is read before COMPLETE is
        sent.
    StackReopened
        If another client reopened the stack after it was completed.
    StackLocked, StackMissing
        If another client made the stack READ_ONLY or OFFLINE, or deleted it.
    RenderRefused
        If the stack has no tiles.
    """
    before = await client.existing_stack(stack)
    was_complete = before.state is StackState.COMPLETE
    meta = before if was_complete else await _complete(client, stack, before, deadline_s)
    if on_complete is not None:
        await on_complete()
    sections, wrong = await _compare(client, stack, zs, is_right)
    if not wrong or (await client.existing_stack(stack)).state is not StackState.COMPLETE:
        return CloseReport(stack, meta, 0 if was_complete else 1, sections)
    await client.set_state(stack, StackState.LOADING)
    meta = await _complete(client, stack, await client.existing_stack(stack), deadline_s)
    kept = tuple(section for section in sections if section.z not in wrong)
    again, _ = await _compare(client, stack, wrong, is_right)
    return CloseReport(stack, meta, 1 if was_complete else 2, kept + again)


async def _compare(
    client: RenderClient, stack: StackId, zs: Collection[float], is_right: LayerTest
) -> tuple[tuple[SectionCheck, ...], frozenset[float]]:
    """Return every section of the layers, and the z of the layers that are not right."""
    sections: list[SectionCheck] = []
    wrong = set()
    derived: defaultdict[float, list[SectionData]] = defaultdict(list)
    for section in await client.section_data(stack, min(zs), max(zs)) if zs else ():
        derived[section.z].append(section)
    for z in zs:
        layer = _layer_check(z, derived[z], await client.tile_bounds(stack, z))
        sections += layer.sections
        if not await is_right(layer):
            wrong.add(z)
    return tuple(sections), frozenset(wrong)


async def _complete(client: RenderClient, stack: StackId, before: StackMeta, deadline_s: float) -> StackMeta:
    if before.state in LOCKED:
        raise locked_fault(str(stack), before.state)
    polling = client.polling
    try:
        await client.set_state(stack, StackState.COMPLETE)
    except AnswerLate:
        pass
    except AnswerLost:
        deadline_s = min(deadline_s, polling.lost_s)
    loop = asyncio.get_running_loop()
    start = loop.time()
    poll = 0
    while True:
        meta = await client.existing_stack(stack)
        if meta.state is StackState.COMPLETE:
            return meta
        if meta.state in LOCKED:
            raise locked_fault(str(stack), meta.state)
        if meta.current_version_number != before.current_version_number:
            problem = "was set COMPLETE, but another client reopened it"
            raise StackReopened(str(stack), problem, "it is closed again when quiet")
        if loop.time() - start >= deadline_s:
            raise RenderUnavailable(
                str(stack),
                f"is still LOADING {deadline_s:.0f} s after COMPLETE was sent",
                "render-ws may still be deriving: see its log and the load of its database",
            )
        await asyncio.sleep(polling.delay_s(poll))
        poll += 1


def _layer_check(z: float, derived: Collection[SectionData], tiles: tuple[TileBounds, ...]) -> LayerCheck:
    counts = Counter({section.section_id: section.tile_count for section in derived})
    live = Counter(tile.section_id for tile in tiles)
    section_ids = sorted(name for name in counts.keys() | live.keys() if name is not None)
    return LayerCheck(z, tiles, tuple(SectionCheck(z, name, counts[name], live[name]) for name in section_ids))
