"""The one owner of each stack's state: opens stacks for writing, closes them when nobody writes and they are quiet.

What was opened here is closed here, whatever becomes of the montage that it was opened for. Other daemons may feed the
same stacks. When one of them closes a stack under us, the write that is refused is repeated after reopening it; when we
close it under them, they do the same. Why it is so: docs/decisions/stack-keeper.md.
"""

import asyncio
import contextlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import TypeVar

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Montage, Outcome
from daemon.montages.states import Event, IllegalTransition, MontageState, Step
from daemon.pipeline.render_gate import RenderGate
from daemon.pipeline.retry import FIRST_DELAY_S, LONGEST_DELAY_S, Tries, retry_delay_s
from daemon.pipeline.stack_use import (
    CloseRule,
    StackPhase,
    StackUse,
    begin_closing,
    begin_writing,
    close_due_in_s,
    end_closing,
    end_writing,
    hold,
    release,
    request_close,
)
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
from handlers.render.client import RenderClient, StackId
from handlers.render.closing import LayerCheck, close_stack
from handlers.render.sessions import write_while_loading

log = structlog.get_logger()
T = TypeVar("T")

BARRED_S = 600.0
"""A derivation is waited for so long before tiles are written. It may never have begun: a proxy answered for render-ws.
Tiles that are put during one are taken or refused; what it missed is derived again."""
BLOCKED_S = 1.0
"""A stack that is due and may not be closed yet is looked at again after this time."""


class StackKeeper:
    """Holds, opens and closes stacks.

    Parameters
    ----------
    closing : when the stacks of a watch are closed; None for never.
    may_close : whether stacks may be closed now at all.
    gate : whether render-ws is there to be asked.
    on_complete : called with the ids of montages that became COMPLETE.
    before_complete : awaited with montages whose stack was closed, before that is recorded: looks at their images.
    on_lost : called with a montage whose tiles somebody took out of a stack: it has to be applied again.
    """

    def __init__(
        self,
        client: RenderClient,
        journal: Journal,
        *,
        closing: Callable[[str], CloseRule | None],
        may_close: Callable[[], bool],
        gate: RenderGate,
        on_complete: Callable[[tuple[int, ...]], Awaitable[None]],
        before_complete: Callable[[Collection[Montage]], Awaitable[None]],
        on_lost: Callable[[Montage], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._journal = journal
        self._closing = closing
        self._may_close = may_close
        self._on_complete = on_complete
        self._before_complete = before_complete
        self._on_lost = on_lost
        self._gate = gate
        self._clock = clock
        self._tries = Tries()
        self._failures: dict[StackId, int] = {}
        """Closes in a row that failed for no montage."""
        self._uses: dict[StackId, StackUse] = {}
        self._times: dict[StackId, CloseRule] = {}
        """When each stack that something waits for is closed."""
        self._opened: set[StackId] = set()
        """Stacks that the journal knows as opened by us."""
        self._barred: dict[StackId, asyncio.Event] = {}
        """Stacks that nobody may begin to write to: they are derived now, or will be when their writers have ended."""
        self._changed = asyncio.Event()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._stopping = False

    # --- what waits for a close

    async def resume(self) -> None:
        """Has those stacks closed that a former process opened and did not close."""
        for name, watch in await self._journal.open_stacks():
            stack = StackId.parse(name)
            self._opened.add(stack)
            self._want_closed(stack, watch)

    def touch(self, montage: Montage) -> None:
        """An APPLIED montage waits for its stacks to be closed."""
        for name in montage.stacks:
            self._want_closed(StackId.parse(name), montage.watch)

    def _want_closed(self, stack: StackId, watch: str) -> None:
        times = self._closing(watch)
        if times is None:
            return
        before = self._times.get(stack)
        self._times[stack] = times if before is None else _both(before, times)
        self._uses[stack] = request_close(self._use(stack), self._clock())
        self._at_rest.clear()
        self._changed.set()

    def _use(self, stack: StackId) -> StackUse:
        return self._uses.get(stack, StackUse())

    async def at_rest(self) -> None:
        """Return when no stack waits to be closed."""
        await self._at_rest.wait()

    def wake(self) -> None:
        """Something that closing waited for may have changed."""
        self._changed.set()

    def is_barred(self, stack: StackId) -> bool:
        """Whether nobody may begin to write to the stack now."""
        return stack in self._barred

    def stop(self) -> None:
        """Begin no close any more; those under way go on."""
        self._stopping = True
        self._changed.set()

    # --- writing

    @contextlib.asynccontextmanager
    async def holding(self, stack: StackId) -> AsyncIterator[None]:
        """Keeps the stack from being closed by us, unless that is overdue. A close that is under way is waited for."""
        self._uses[stack] = hold(self._use(stack))
        try:
            await self._until_open(stack)
            yield
        finally:
            self._uses[stack] = release(self._uses[stack], self._clock())
            self._changed.set()

    async def _until_open(self, stack: StackId) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BARRED_S):
                while barred := self._barred.get(stack):
                    await barred.wait()

    async def write(
        self,
        watch: str,
        stack: StackId,
        resolution_nm: tuple[float, float, float],
        effect: Callable[[], Awaitable[T]],
    ) -> T:
        """The effect's result, run while the stack is LOADING; reopened and repeated when somebody closes it meanwhile.

        The stack is closed when it is quiet afterwards, whatever became of the effect. The effect must be repeatable.
        """
        async with self.holding(stack):
            self._uses[stack] = begin_writing(self._uses[stack])
            try:
                await self._will_open(stack, watch)
                return await write_while_loading(
                    self._client,
                    stack,
                    resolution_nm,
                    effect,
                    on_closed=lambda: log.info("stack.reopened", stack=str(stack)),
                )
            finally:
                self._uses[stack] = end_writing(self._uses[stack])
                self._want_closed(stack, watch)

    async def _will_open(self, stack: StackId, watch: str) -> None:
        """Has the journal remember that the stack is ours to close, before it is opened."""
        if stack not in self._opened and self._closing(watch) is not None:
            await self._journal.open_stack(str(stack), watch)
            self._opened.add(stack)

    # --- closing

    async def run(self) -> None:
        """Closes stacks as they fall due, for as long as the daemon runs."""
        async with asyncio.TaskGroup() as closing:
            while True:
                self._changed.clear()
                for stack in self._begin():
                    closing.create_task(self._close(stack), name=f"close {stack}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()

    def _begin(self) -> list[StackId]:
        """The stacks whose close begins now. Those that wait for their writers alone take no others meanwhile."""
        is_held_up = self._stopping or not self._may_close()
        due = [] if is_held_up else [stack for stack, wait_s in self._closes_in().items() if wait_s == 0]
        written = {stack for stack in due if self._uses[stack].writers} if self._gate.is_open else set[StackId]()
        # Asked last: what the gate admits begins.
        begun = [stack for stack in due if not self._uses[stack].writers and self._gate.admit(stack)]
        for stack in begun:
            self._uses[stack] = begin_closing(self._uses[stack], self._clock())
        for stack in written.union(begun):
            self._barred.setdefault(stack, asyncio.Event())
        for stack in [stack for stack in self._barred if stack not in written and not self._is_closing(stack)]:
            self._unbar(stack)
        return begun

    def _is_closing(self, stack: StackId) -> bool:
        return self._uses[stack].phase is StackPhase.CLOSING

    def _closes_in(self) -> dict[StackId, float]:
        """Seconds until each stack is due."""
        now = self._clock()
        waits = {stack: close_due_in_s(self._uses[stack], now, times) for stack, times in self._times.items()}
        return {stack: wait_s for stack, wait_s in waits.items() if wait_s is not None}

    def _pause_s(self) -> float | None:
        waits = self._closes_in().values()
        # What is due and has not begun waits for writers, who wake us, or for something that may not.
        return min((wait_s or BLOCKED_S for wait_s in waits), default=None)

    async def _close(self, stack: StackId) -> None:
        again_in_s: float | None = FIRST_DELAY_S
        try:
            again_in_s = await self._attempt(stack)
        except Exception:  # it would end the daemon
            log.exception("stack.close_bug", stack=str(stack))
        finally:
            self._gate.leave(stack)
            use = end_closing(self._use(stack), self._clock(), closed=again_in_s is None, retry_in_s=again_in_s or 0.0)
            self._uses[stack] = use
            if use.requested_at is None:
                self._times.pop(stack, None)
            if not self._times:
                self._at_rest.set()
            self._unbar(stack)
            self._changed.set()

    async def _attempt(self, stack: StackId) -> float | None:
        """Close a stack for all that waits for it; seconds until the next attempt, None if none is needed."""
        montages = await self._journal.montages(states=[MontageState.APPLIED], stack=str(stack), limit=100_000)
        if not montages and stack not in self._opened:
            return None
        attempts = await self._journal.begin_attempts([montage.id for montage in montages], Step.CLOSE)
        try:
            return await self._close_for(stack, montages, attempts)
        except (Exception, asyncio.CancelledError):  # an attempt left open would count as a crash
            await self._journal.stop_attempts(attempts)
            raise

    async def _close_for(
        self, stack: StackId, montages: Collection[Montage], attempts: Mapping[int, int]
    ) -> float | None:
        began = self._clock()
        try:
            faults = await self._close_and_compare(stack, montages)
            await self._before_complete(montages)
        except Fault as fault:
            return await self._not_closed(stack, montages, attempts, fault)
        except Exception as error:
            log.exception("stack.close_bug", stack=str(stack))
            return await self._not_closed(stack, montages, attempts, BugFault.of(str(stack), error))
        self._gate.worked()
        self._failures.pop(stack, None)
        whole = [montage.id for montage in montages if montage.id not in faults]
        complete = await self._journal.record_closing(str(stack), whole)
        await self._journal.end_attempts((attempts[each] for each in whole), Outcome.DONE)
        for montage_id in complete:
            self._tries.forget(montage_id)
        log.info("stack.closed", stack=str(stack), montages=len(whole), seconds=round(self._clock() - began, 1))
        await self._on_complete(complete)
        delays = [
            await self._answer(montage, attempts[montage.id], faults[montage.id])
            for montage in montages
            if montage.id in faults
        ]
        return min((delay_s for delay_s in delays if delay_s is not None), default=None)

    async def _close_and_compare(self, stack: StackId, montages: Collection[Montage]) -> dict[int, Fault]:
        """Close the stack, and look for every tile of the montages; what is wrong with each that is not whole in it."""
        faults: dict[int, Fault] = {}
        layers: defaultdict[float, list[Montage]] = defaultdict(list)
        for montage in montages:
            if montage.z is not None:
                layers[montage.z].append(montage)

        async def is_right(layer: LayerCheck) -> bool:
            for montage in layers[layer.z]:
                fault = _wrong(stack, montage, await self._journal.tile_ids(montage.id), layer)
                faults.pop(montage.id, None)
                if fault is not None:
                    faults[montage.id] = fault
            return not layer.differing

        try:
            await close_stack(
                self._client, stack, sorted(layers), is_right=is_right, on_complete=partial(self._is_complete, stack)
            )
        except RenderRefused:
            if await self._client.z_values(stack):
                raise
            return {montage.id: _emptied(stack, montage) for montage in montages}
        return faults

    async def _is_complete(self, stack: StackId) -> None:
        """The stack may be opened again from now on, though its layers have yet to be compared."""
        await self._journal.close_stack(str(stack))
        self._opened.discard(stack)
        self._unbar(stack)

    def _unbar(self, stack: StackId) -> None:
        if stack in self._barred:
            self._barred.pop(stack).set()

    async def _answer(self, montage: Montage, attempt: int, fault: Fault) -> float | None:
        """What follows for one montage that is not whole in its stack: seconds until it is to be closed again."""
        log.warning("montage.not_closed", montage=montage.id, metafile=str(montage.metafile), fault=str(fault))
        await self._journal.end_attempt(attempt, Outcome.FAILED, fault)
        return await self._follow(montage, fault)

    async def _follow(self, montage: Montage, fault: Fault) -> float | None:
        chance = random.random()  # noqa: S311  jitter
        delay_s = self._tries.delay_s(montage.id, fault, montage.attempt + 1, chance)
        with contextlib.suppress(IllegalTransition):  # superseded meanwhile
            if delay_s is None:
                self._tries.forget(montage.id)
                await self._journal.fail(montage.id, fault)
            elif isinstance(fault, StackMissing | ReadBackDiffers):
                because = f"{fault.subject}: {fault.problem}"
                await self._on_lost(await self._journal.record(montage.id, Event.TILES_LOST, because=because))
                return None
        return delay_s

    async def _not_closed(
        self, stack: StackId, montages: Collection[Montage], attempts: Mapping[int, int], fault: Fault
    ) -> float | None:
        """What follows for all that waits for a stack that could not be closed."""
        await self._gate.failed(stack, fault)
        log.warning("stack.close_failed", stack=str(stack), fault=str(fault), montages=len(montages))
        await self._journal.end_attempts(attempts.values(), Outcome.FAILED, fault)
        if isinstance(fault, RenderUnavailable | RenderBroken) and not self._gate.is_closed_circuit:
            return 0.0  # the gate says when it is tried again, and nobody's attempts are used up
        delays = [await self._follow(montage, fault) for montage in montages]
        waiting = [delay_s for delay_s in delays if delay_s is not None]
        return min(waiting) if waiting else await self._close_without_montages(stack, fault)

    async def _close_without_montages(self, stack: StackId, fault: Fault) -> float | None:
        """Seconds until a stack is closed again that no montage waits for: it was opened here, and has to be closed."""
        if isinstance(fault, StackLocked | StackMissing | RenderRefused):
            self._failures.pop(stack, None)
            await self._is_complete(stack)
        if stack not in self._opened:
            return None
        self._failures[stack] = failures = self._failures.get(stack, 0) + 1
        delay_s = retry_delay_s(fault, failures, random.random())  # noqa: S311  jitter
        return LONGEST_DELAY_S if delay_s is None else delay_s


def _both(one: CloseRule, other: CloseRule) -> CloseRule:
    """When a stack is closed that two watches write to: after the longer quiet, and at the sooner latest."""
    latest = [each for each in (one.at_latest_s, other.at_latest_s) if each]
    return CloseRule(max(one.after_s, other.after_s), min(latest, default=0.0))


def _wrong(stack: StackId, montage: Montage, tile_ids: frozenset[str], layer: LayerCheck) -> Fault | None:
    """What is wrong with a montage in the stack just closed; None if the derivation saw every tile of it."""
    ours = [tile for tile in layer.tiles if tile.tile_id in tile_ids]
    if missing := tile_ids.difference(tile.tile_id for tile in ours):
        return ReadBackDiffers(
            str(stack),
            f"lacks {len(missing)} of {len(tile_ids)} tiles of {montage.metafile.name} after closing, "
            f"such as {min(missing)}",
            "somebody else deletes tiles from this stack; replay the montage",
        )
    if missed := layer.differing.intersection(tile.section_id for tile in ours if tile.section_id is not None):
        return StackReopened(
            str(stack),
            f"is COMPLETE, but its section data miss tiles of section {min(missed)} at z {layer.z:g}",
            "others write to it",
        )
    return None


def _emptied(stack: StackId, montage: Montage) -> Fault:
    problem = f"has no tiles, and was to have those of {montage.metafile.name}"
    return ReadBackDiffers(str(stack), problem, "somebody else deletes tiles from this stack; replay the montage")
