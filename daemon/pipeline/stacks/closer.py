"""Close a stack: make it COMPLETE, compare its layers, and record the outcome for each of its montages."""

import asyncio
import contextlib
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Montage, Outcome
from daemon.montages.states import Event, IllegalTransition, MontageState, Step
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.order.retry import MAX_DELAY_S, Tries, retry_delay_s
from daemon.pipeline.stacks.opened_stacks import OpenedStacks
from handlers.errors import (
    BugFault,
    Fault,
    ReadBackDiffers,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
    StackLocked,
    StackMissing,
    StackReopened,
)
from handlers.render.client import RenderClient
from handlers.render.closing import LayerCheck, close_stack
from handlers.render.names import StackId
from handlers.text import z_text

log = structlog.get_logger()

RECORD_EVERY_S = 5.0
"""Interval at which compared montages become COMPLETE during a close, since a large stack takes minutes."""
DELETED_HINT = "another program deletes tiles from this stack; replay the montage"


class StackCloser:
    """Closes stacks and journals the outcome.

    Parameters
    ----------
    on_closed : called when render-ws has completed a stack. Steps may reopen it while its layers are compared.
    on_complete, before_complete, on_tiles_lost, overwritten : as for StackKeeper.
    """

    def __init__(
        self,
        client: RenderClient,
        journal: Journal,
        gate: RenderGate,
        opened: OpenedStacks,
        *,
        on_closed: Callable[[StackId], None],
        on_complete: Callable[[tuple[int, ...]], Awaitable[None]],
        before_complete: Callable[[Collection[Montage]], Awaitable[None]],
        on_tiles_lost: Callable[[Montage], Awaitable[None]],
        overwritten: Callable[[Montage, StackId], Awaitable[Fault | None]],
        clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._journal = journal
        self._gate = gate
        self._opened = opened
        self._on_closed = on_closed
        self._on_complete = on_complete
        self._before_complete = before_complete
        self._on_tiles_lost = on_tiles_lost
        self._overwritten = overwritten
        self._clock = clock
        self._tries = Tries()
        self._failures: dict[StackId, int] = {}
        """Consecutive failed closes of stacks without a waiting montage."""

    async def close(self, stack: StackId) -> float | None:
        """Close a stack for all its APPLIED montages.

        Returns
        -------
        Seconds until the next attempt; None if no further close is needed.
        """
        montages = await self._journal.montages(states=[MontageState.APPLIED], stack=str(stack), limit=100_000)
        if not montages and stack not in self._opened:
            return None
        attempts = await self._journal.begin_attempts([montage.id for montage in montages], Step.CLOSE)
        try:
            return await self._attempt(stack, montages, attempts)
        except (Exception, asyncio.CancelledError):  # an open attempt would count as a crash
            await self._journal.stop_attempts(attempts)
            raise

    async def _attempt(
        self, stack: StackId, montages: Collection[Montage], attempts: Mapping[int, int]
    ) -> float | None:
        began = self._clock()
        waiting = {montage.id: montage for montage in montages}
        try:
            faults = await self._close_and_compare(stack, waiting, attempts)
            right = [montage for montage in montages if montage.id in waiting.keys() - faults.keys()]
            await self._before_complete(right)
        except Fault as fault:
            return await self._not_closed(stack, waiting.values(), attempts, fault)
        except Exception as error:
            log.exception("stack.close_bug", stack=str(stack))
            return await self._not_closed(stack, waiting.values(), attempts, BugFault.of(str(stack), error))
        self._gate.worked()
        self._failures.pop(stack, None)
        await self._record_right(stack, right, waiting, attempts)
        count = len(montages) - len(waiting)
        log.info("stack.closed", stack=str(stack), montages=count, seconds=round(self._clock() - began, 1))
        delays = [
            await self._record_fault(montage, attempts[montage.id], faults[montage.id]) for montage in waiting.values()
        ]
        return min((delay_s for delay_s in delays if delay_s is not None), default=None)

    async def _record_right(
        self, stack: StackId, right: Collection[Montage], waiting: dict[int, Montage], attempts: Mapping[int, int]
    ) -> None:
        """Record that the stack was closed for these montages, and remove them from the waiting ones."""
        present = [montage.id for montage in right]
        ended = [attempts[each] for each in present]
        complete = await self._journal.record_closing(str(stack), present, ended)
        for montage_id in present:
            waiting.pop(montage_id)
        for montage_id in complete:
            self._tries.forget(montage_id)
        await self._on_complete(complete)

    async def _close_and_compare(
        self, stack: StackId, waiting: dict[int, Montage], attempts: Mapping[int, int]
    ) -> dict[int, Fault]:
        """Close the stack and check every tile of the montages; return the fault of each montage that lacks tiles.

        Montages with correct layers are recorded meanwhile and no longer wait.
        """
        faults: dict[int, Fault] = {}
        right: list[Montage] = []
        by_z: defaultdict[float, list[Montage]] = defaultdict(list)
        for montage in waiting.values():
            if montage.z is not None:
                by_z[montage.z].append(montage)
        record_at = math.inf

        async def is_right(layer: LayerCheck) -> bool:
            nonlocal record_at
            for montage in by_z[layer.z]:
                fault = _fault_in_layer(stack, montage, await self._journal.tile_ids(montage.id), layer)
                fault = fault or await self._overwritten(montage, stack)
                faults.pop(montage.id, None)
                if fault is not None:
                    faults[montage.id] = fault
                elif not layer.differing:  # a differing layer is derived and compared again
                    right.append(montage)
            if self._clock() >= record_at:
                await self._before_complete(right)
                await self._record_right(stack, right, waiting, attempts)
                right.clear()
                record_at = self._clock() + RECORD_EVERY_S
            return not layer.differing

        async def on_complete() -> None:
            nonlocal record_at
            record_at = self._clock() + RECORD_EVERY_S
            await self._closed(stack, list(waiting.values()))

        try:
            await close_stack(self._client, stack, list(by_z), is_right=is_right, on_complete=on_complete)
        except RenderRefused:
            if await self._client.z_values(stack):
                raise
            return {each.id: _empty_stack_fault(stack, each) for each in waiting.values()}
        return faults

    async def _closed(self, stack: StackId, montages: Collection[Montage]) -> None:
        await self._opened.close(stack, montages)
        self._on_closed(stack)

    async def _record_fault(self, montage: Montage, attempt: int, fault: Fault) -> float | None:
        """Record the fault of a montage that lacks tiles in a closed stack. Returns as `_retry_or_fail`."""
        path = str(montage.metafile)
        log.warning(
            "montage.not_closed", watch=montage.watch, montage=montage.id, z=montage.z, fault=fault, metafile=path
        )
        await self._journal.end_attempt(attempt, Outcome.FAILED, fault)
        return await self._retry_or_fail(montage, fault)

    async def _retry_or_fail(self, montage: Montage, fault: Fault) -> float | None:
        """Handle a montage with a fault; return the seconds until its stack is closed again.

        None if the montage FAILED, or is applied again first.
        """
        chance = random.random()  # noqa: S311  jitter
        delay_s = self._tries.delay_s(montage.id, fault, montage.attempt + 1, chance)
        with contextlib.suppress(IllegalTransition):  # the montage was superseded during the close
            if delay_s is None:
                self._tries.forget(montage.id)
                await self._journal.fail(montage.id, fault)
            elif isinstance(fault, StackMissing | ReadBackDiffers):
                because = f"{fault.subject}: {fault.problem}"
                await self._on_tiles_lost(await self._journal.record(montage.id, Event.TILES_LOST, because=because))
                return None
        return delay_s

    async def _not_closed(
        self, stack: StackId, montages: Collection[Montage], attempts: Mapping[int, int], fault: Fault
    ) -> float | None:
        """Record that a stack could not be closed; return the seconds until the next attempt, None if there is none."""
        if not montages and isinstance(fault, StackMissing):  # nothing to close, as after a refused creation
            return await self._close_without_montages(stack, fault)
        await self._gate.failed(stack, fault, stack)
        log.warning("stack.close_failed", stack=str(stack), fault=str(fault), montages=len(montages))
        await self._journal.end_attempts(attempts.values(), Outcome.FAILED, fault)
        if isinstance(fault, RenderUnavailable | RenderBroken) and not self._gate.is_closed_circuit:
            return 0.0  # the gate decides when to retry, and no montage loses an attempt
        delays = [await self._retry_or_fail(montage, fault) for montage in montages]
        waiting = [delay_s for delay_s in delays if delay_s is not None]
        return min(waiting) if waiting else await self._close_without_montages(stack, fault)

    async def _close_without_montages(self, stack: StackId, fault: Fault) -> float | None:
        """Return the seconds until the next close of an opened stack without waiting montages; None: no close."""
        if isinstance(fault, StackLocked | StackMissing | RenderRefused):
            self._failures.pop(stack, None)
            await self._opened.discard(stack)
            self._on_closed(stack)
        if stack not in self._opened:
            return None
        self._failures[stack] = failures = self._failures.get(stack, 0) + 1
        delay_s = retry_delay_s(fault, failures, random.random())  # noqa: S311  jitter
        return MAX_DELAY_S if delay_s is None else delay_s


def _fault_in_layer(stack: StackId, montage: Montage, tile_ids: frozenset[str], layer: LayerCheck) -> Fault | None:
    """Return the fault of a montage if the layer or its section data lack its tiles, otherwise None."""
    ours = [tile for tile in layer.tiles if tile.tile_id in tile_ids]
    if missing := tile_ids.difference(tile.tile_id for tile in ours):
        return ReadBackDiffers(
            str(stack),
            f"lacks {len(missing)} of {len(tile_ids)} tiles of {montage.metafile.name} after closing, "
            f"such as {min(missing)}",
            DELETED_HINT,
        )
    if missed := layer.differing.intersection(tile.section_id for tile in ours if tile.section_id is not None):
        return StackReopened(
            str(stack),
            f"is COMPLETE, but its section data lack tiles of section {min(missed)} at z {z_text(layer.z)}",
            "another program writes to this stack",
        )
    return None


def _empty_stack_fault(stack: StackId, montage: Montage) -> Fault:
    problem = f"expected the tiles of {montage.metafile.name}, but the stack is empty"
    return ReadBackDiffers(str(stack), problem, DELETED_HINT)
