"""The one owner of each stack's state: opens stacks for writing, closes them when nobody writes and they are quiet.

Other daemons may feed the same stacks. When one of them closes a stack under us, the write that is refused is repeated
after reopening it; when we close it under them, they do the same.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import structlog

from daemon.gate import RenderGate
from daemon.journal import Journal, Montage, Outcome
from daemon.retry import FIRST_DELAY_S, Tries
from daemon.states import (
    Event,
    IllegalTransition,
    MontageState,
    StackPhase,
    StackUse,
    Step,
    begin_closing,
    closes_in,
    end_closing,
    hold,
    release,
    want_closed,
)
from handlers.errors import (
    BugFault,
    Fault,
    ReadBackDiffers,
    RenderBroken,
    RenderUnavailable,
    StackMissing,
    StackReopened,
)
from handlers.render import RenderClient, StackId
from handlers.writing import write_while_loading

log = structlog.get_logger()
T = TypeVar("T")


class StackKeeper:
    """Holds, opens and closes stacks.

    Parameters
    ----------
    close_after_s : how long a stack of this name must have been quiet before it is closed.
    may_close : whether stacks may be closed now at all.
    gate : whether render-ws is there to be asked.
    on_complete : called with the ids of montages that became COMPLETE.
    on_lost : called with a montage whose tiles somebody took out of a stack: it has to be applied again.
    """

    def __init__(
        self,
        client: RenderClient,
        journal: Journal,
        *,
        close_after_s: Callable[[Montage], float],
        may_close: Callable[[], bool],
        gate: RenderGate,
        on_complete: Callable[[tuple[int, ...]], Awaitable[None]],
        on_lost: Callable[[Montage], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._journal = journal
        self._close_after_s = close_after_s
        self._may_close = may_close
        self._on_complete = on_complete
        self._on_lost = on_lost
        self._gate = gate
        self._clock = clock
        self._tries = Tries()
        self._uses: dict[StackId, StackUse] = {}
        self._waits_s: dict[StackId, float] = {}
        self._closing: dict[StackId, asyncio.Event] = {}
        self._changed = asyncio.Event()

    def phases(self) -> dict[StackId, StackPhase]:
        """What is done with each stack now."""
        return {stack: use.phase for stack, use in self._uses.items()}

    def touch(self, montage: Montage) -> None:
        """An APPLIED montage waits for its stacks to be closed."""
        for name in montage.stacks:
            stack = StackId.parse(name)
            self._waits_s[stack] = max(self._waits_s.get(stack, 0.0), self._close_after_s(montage))
            self._uses[stack] = want_closed(self._uses.get(stack, StackUse()), self._clock())
        self._changed.set()

    def wake(self) -> None:
        """Something that closing waited for may have changed."""
        self._changed.set()

    @contextlib.asynccontextmanager
    async def holding(self, stack: StackId) -> AsyncIterator[None]:
        """Keeps the stack from being closed by us. A close that is under way is waited for."""
        self._uses[stack] = hold(self._uses.get(stack, StackUse()))
        try:
            if stack in self._closing:
                await self._closing[stack].wait()
            yield
        finally:
            self._uses[stack] = release(self._uses[stack], self._clock())
            self._changed.set()

    async def write(
        self, stack: StackId, resolution_nm: tuple[float, float, float], effect: Callable[[], Awaitable[T]]
    ) -> T:
        """The effect's result, run while the stack is LOADING; reopened and repeated when somebody closes it meanwhile.

        The effect must be repeatable.
        """
        async with self.holding(stack):
            return await write_while_loading(
                self._client,
                stack,
                resolution_nm,
                effect,
                on_closed=lambda: log.info("stack.reopened", stack=str(stack)),
            )

    async def run(self) -> None:
        """Closes stacks as they fall due, for as long as the daemon runs."""
        async with asyncio.TaskGroup() as closing:
            while True:
                self._changed.clear()
                for stack in self._due():
                    self._uses[stack] = begin_closing(self._uses[stack])
                    self._closing[stack] = asyncio.Event()
                    closing.create_task(self._close(stack), name=f"close {stack}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._next_due_s()):
                        await self._changed.wait()

    def _due(self) -> list[StackId]:
        if not self._may_close():
            return []
        # Asked last: what the gate admits begins.
        return [stack for stack, wait_s in self._closes_in().items() if wait_s == 0 and self._gate.admit(stack)]

    def _closes_in(self) -> dict[StackId, float]:
        """Seconds until each stack is due that a montage waits for, of those neither held nor closing.

        One that closes may look quiet: its holder gave up while it waited for the close to end.
        """
        now = self._clock()
        open_ones = {stack: quiet_s for stack, quiet_s in self._waits_s.items() if stack not in self._closing}
        waits = {stack: closes_in(self._uses[stack], now, quiet_s) for stack, quiet_s in open_ones.items()}
        return {stack: wait_s for stack, wait_s in waits.items() if wait_s is not None}

    def _next_due_s(self) -> float | None:
        due = self._closes_in().values()
        if not due:
            return None
        return max(min(due), 0.01 if self._may_close() and self._gate.is_open else 1.0)

    async def _close(self, stack: StackId) -> None:
        closed = False
        try:
            montages = await self._journal.montages(states=[MontageState.APPLIED], stack=str(stack), limit=100_000)
            closed = not montages or await self._close_for(stack, montages)
        except Exception:  # it would end the daemon
            log.exception("stack.close_bug", stack=str(stack))
            self._waits_s[stack] = max(self._waits_s.get(stack, 0.0), FIRST_DELAY_S)
        finally:
            self._gate.leave(stack)
            self._uses[stack] = end_closing(self._uses[stack], self._clock(), closed=closed)
            if self._uses[stack].phase is StackPhase.IDLE:
                self._waits_s.pop(stack, None)
            self._closing.pop(stack).set()
            self._changed.set()

    async def _close_for(self, stack: StackId, montages: list[Montage]) -> bool:
        attempts = await self._journal.begin_attempts([montage.id for montage in montages], Step.CLOSE)
        try:
            await self._close_and_compare(stack, montages)
        except Fault as fault:
            await self._close_failed(stack, montages, attempts, fault)
            return False
        except Exception as error:
            log.exception("stack.close_bug", stack=str(stack))
            await self._close_failed(stack, montages, attempts, BugFault.of(str(stack), error))
            return False
        except asyncio.CancelledError:  # the daemon ends in good order: an attempt left open would count as a crash
            await self._journal.end_attempts(attempts.values(), Outcome.STOPPED)
            raise
        self._gate.worked()
        complete = await self._journal.record_closing(str(stack), [montage.id for montage in montages])
        await self._journal.end_attempts(attempts.values(), Outcome.DONE)
        for montage in montages:
            self._tries.forget(montage.id)
        log.info("stack.closed", stack=str(stack), montages=len(montages))
        await self._on_complete(complete)
        return True

    async def _close_and_compare(self, stack: StackId, montages: list[Montage]) -> None:
        """Closes the stack, then sees that it still shows every tile of the montages it was closed for."""
        layers = sorted({montage.z for montage in montages if montage.z is not None})
        report = await self._client.close(stack, layers)
        if report.differing:
            zs = ", ".join(f"{section.z:g}" for section in report.differing)
            raise StackReopened(
                str(stack), f"is COMPLETE, but its section data miss tiles at z {zs}", "others write to it"
            )
        for z in layers:
            shown = {bounds.tile_id for bounds in await self._client.tile_bounds(stack, z)}
            for montage in montages:
                missing = (await self._journal.tile_ids(montage.id)) - shown if montage.z == z else frozenset[str]()
                if missing:
                    raise ReadBackDiffers(
                        str(stack),
                        f"lacks {len(missing)} tiles of {montage.metafile.name} after closing, such as {min(missing)}",
                        "somebody else deletes tiles from this stack; replay the montage",
                    )

    async def _close_failed(
        self, stack: StackId, montages: list[Montage], attempts: dict[int, int], fault: Fault
    ) -> None:
        await self._gate.failed(stack, fault)
        # In an outage the gate says when it is tried again, and nobody's attempts are used up.
        is_outage = isinstance(fault, RenderUnavailable | RenderBroken) and not self._gate.is_closed_circuit
        delays = []
        for montage in montages:
            await self._journal.end_attempt(attempts[montage.id], Outcome.FAILED, fault)
            chance = random.random()  # noqa: S311  jitter
            delay_s = 0.0 if is_outage else self._tries.delay_s(montage.id, fault, montage.attempt + 1, chance)
            if delay_s is None:
                await self._give_up(montage, fault)
            elif isinstance(fault, StackMissing | ReadBackDiffers):
                await self._lose(montage, fault)
            else:
                delays.append(delay_s)
        log.warning("stack.close_failed", stack=str(stack), fault=str(fault), montages=len(montages))
        self._waits_s[stack] = max(self._waits_s.get(stack, 0.0), min(delays, default=0.0))

    async def _give_up(self, montage: Montage, fault: Fault) -> None:
        self._tries.forget(montage.id)
        with contextlib.suppress(IllegalTransition):  # superseded meanwhile
            await self._journal.fail(montage.id, fault)

    async def _lose(self, montage: Montage, fault: Fault) -> None:
        """Has a montage applied again whose tiles are not in a stack that was to be closed."""
        with contextlib.suppress(IllegalTransition):  # superseded meanwhile
            because = f"{fault.subject}: {fault.problem}"
            await self._on_lost(await self._journal.record(montage.id, Event.TILES_LOST, because=because))
