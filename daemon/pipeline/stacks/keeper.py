"""Stack keeper: the only part of the daemon that opens and closes stacks.

Every stack that the daemon opens is closed again, even if the montage for which it was opened fails. Several daemons
may write to the same stack. If another daemon closes a stack during a write, render-ws refuses the write, which is
repeated after the stack was reopened. The reasons are in docs/decisions/stack-keeper.md.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import TypeVar

import structlog

from daemon.journal.journal import Journal
from daemon.montages.records import Montage
from daemon.pipeline.gates.render_gate import RenderGate
from daemon.pipeline.order.retry import FIRST_DELAY_S
from daemon.pipeline.stacks.closer import StackCloser
from daemon.pipeline.stacks.opened_stacks import OpenedStacks
from daemon.pipeline.stacks.use import (
    CloseRule,
    StackPhase,
    StackUse,
    begin_closing,
    begin_writing,
    close_due_in_s,
    end_closing,
    end_deriving,
    end_writing,
    hold,
    merge_rules,
    release,
    request_close,
)
from handlers.errors import Fault
from handlers.render.client import RenderClient
from handlers.render.names import StackId
from handlers.render.sessions import write_while_loading

log = structlog.get_logger()
T = TypeVar("T")

MAX_BLOCKED_S = 600.0
"""Longest time that a close prevents steps from writing. After that the close may not even run, because a proxy may
have responded in place of render-ws. render-ws accepts or refuses tiles during a close; the next close derives the
missed ones."""
DUE_AGAIN_S = 1.0
"""Interval of checks of a due stack that cannot be closed yet."""


async def _nothing_is_overwritten(montage: Montage, stack: StackId) -> Fault | None:
    return None


async def _nothing_is_held() -> Collection[StackId]:
    return ()


class StackKeeper:
    """Holds, opens and closes stacks.

    Parameters
    ----------
    close_rule : returns the rule of a watch; None: its stacks are never closed.
    may_close : whether any stack may be closed now.
    gate : admits requests while render-ws is available.
    on_complete : awaited with the ids of montages that became COMPLETE.
    before_complete : awaited with the montages of a closed stack before they are COMPLETE; checks their images.
    on_tiles_lost : awaited with a montage whose tiles are missing from its stack; enqueues it to apply them again.
    overwritten : returns a fault if a late upload of a former content replaced tiles of a montage in a stack.
    held : returns the stacks that must stay open because of a verdict.
    """

    def __init__(
        self,
        client: RenderClient,
        journal: Journal,
        *,
        close_rule: Callable[[str], CloseRule | None],
        may_close: Callable[[], bool],
        gate: RenderGate,
        on_complete: Callable[[tuple[int, ...]], Awaitable[None]],
        before_complete: Callable[[Collection[Montage]], Awaitable[None]],
        on_tiles_lost: Callable[[Montage], Awaitable[None]],
        overwritten: Callable[[Montage, StackId], Awaitable[Fault | None]] = _nothing_is_overwritten,
        held: Callable[[], Awaitable[Collection[StackId]]] = _nothing_is_held,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._held = held
        self._client = client
        self._close_rule = close_rule
        self._may_close = may_close
        self._gate = gate
        self._clock = clock
        self._opened = OpenedStacks(journal)
        self._closer = StackCloser(
            client,
            journal,
            gate,
            self._opened,
            on_closed=self._end_deriving,
            on_complete=on_complete,
            before_complete=before_complete,
            on_tiles_lost=on_tiles_lost,
            overwritten=overwritten,
            clock=clock,
        )
        self._uses: dict[StackId, StackUse] = {}
        self._requested: dict[StackId, set[str]] = {}
        """Watches that requested the close of each stack. Their rules are those of the present configuration."""
        self._blocked: dict[StackId, asyncio.Event] = {}
        """Stacks to which no step may begin to write, since a close runs or waits for the end of present writers."""
        self._changed = asyncio.Event()
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._stopping = False

    # --- requests

    async def resume(self) -> None:
        """Request the close of the stacks that a former process left open."""
        for stack, watch in await self._opened.load():
            self._request_close(stack, watch)

    def request_close_for(self, montage: Montage) -> None:
        """Request the close of the stacks of an APPLIED montage."""
        for name in montage.stacks:
            self._request_close(StackId.parse(name), montage.watch)

    def _request_close(self, stack: StackId, watch: str) -> None:
        if self._close_rule(watch) is None:
            return
        self._requested.setdefault(stack, set()).add(watch)
        self._uses[stack] = request_close(self._use(stack), self._clock())
        self._all_closed.clear()
        self._changed.set()

    def _use(self, stack: StackId) -> StackUse:
        return self._uses.get(stack, StackUse())

    async def wait_until_closed(self) -> None:
        """Wait until no close is pending, except of stacks that stay open because of a verdict."""
        await self._all_closed.wait()

    def wake(self) -> None:
        """Check due stacks again, after a condition for a close may have changed."""
        self._changed.set()

    def is_blocked(self, stack: StackId) -> bool:
        """Whether no step may begin to write to the stack now."""
        return stack in self._blocked

    def stop(self) -> None:
        """Begin no further close; running closes continue."""
        self._stopping = True
        self._changed.set()

    # --- writing

    @contextlib.asynccontextmanager
    async def holding(self, stack: StackId) -> AsyncIterator[None]:
        """Wait for a running close, then prevent closes of the stack, unless a close is overdue."""
        self._uses[stack] = hold(self._use(stack))
        try:
            await self._until_unblocked(stack)
            yield
        finally:
            self._uses[stack] = release(self._uses[stack], self._clock())
            self._changed.set()

    async def _until_unblocked(self, stack: StackId) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAX_BLOCKED_S):
                while blocked := self._blocked.get(stack):
                    await blocked.wait()

    async def write(
        self,
        watch: str,
        stack: StackId,
        resolution_nm: tuple[float, float, float],
        effect: Callable[[], Awaitable[T]],
    ) -> T:
        """Run a repeatable effect while the stack is LOADING, and return its result.

        If another client closes the stack during the effect, the stack is reopened and the effect repeated. Afterwards
        a close is requested, even if the effect failed.
        """
        closed_by_others: list[StackId] = []
        async with self.holding(stack):
            self._uses[stack] = begin_writing(self._uses[stack])
            try:
                if self._close_rule(watch) is not None:
                    await self._opened.add(stack, watch)
                result = await write_while_loading(
                    self._client, stack, resolution_nm, effect, on_closed=lambda: closed_by_others.append(stack)
                )
                if closed_by_others:
                    await self._opened.reopen(stack, watch)
                    log.info("stack.reopened", stack=str(stack))
                return result
            finally:
                self._uses[stack] = end_writing(self._uses[stack])
                self._request_close(stack, watch)

    # --- closing

    async def run(self) -> None:
        """Close stacks when they are due, until cancelled."""
        async with asyncio.TaskGroup() as closes:
            while True:
                self._changed.clear()
                for stack in self._begin_due(await self._held_of(self._requested)):
                    closes.create_task(self._close(stack), name=f"close {stack}")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await self._changed.wait()

    async def _held_of(self, stacks: Iterable[StackId]) -> frozenset[StackId]:
        """Return which of these stacks stay open because of a verdict."""
        wanted = frozenset(stacks)
        try:
            return wanted.intersection(await self._held()) if wanted else wanted
        except Exception:  # it would end the daemon
            log.exception("stack.hold_bug")
            return wanted

    def _begin_due(self, held: Collection[StackId]) -> list[StackId]:
        """Begin the close of due stacks without writers; return them. Due stacks accept no further writers."""
        if all(stack in held for stack in self._rules()):
            self._all_closed.set()
        cannot_close = self._stopping or not self._may_close()
        waits = {} if cannot_close else self._due_in_s()
        due = [stack for stack, wait_s in waits.items() if wait_s == 0 and stack not in held]
        written = {stack for stack in due if self._uses[stack].writers} if self._gate.is_open else set[StackId]()
        # The gate comes last: it counts an admitted close as begun.
        begun = [stack for stack in due if not self._uses[stack].writers and self._gate.admit(stack)]
        for stack in begun:
            self._uses[stack] = begin_closing(self._uses[stack], self._clock())
        for stack in written.union(begun):
            self._blocked.setdefault(stack, asyncio.Event())
        for stack in [stack for stack in self._blocked if stack not in written and not self._is_closing(stack)]:
            self._unblock(stack)
        return begun

    def _is_closing(self, stack: StackId) -> bool:
        return self._uses[stack].phase is StackPhase.CLOSING

    def _rules(self) -> dict[StackId, CloseRule]:
        """Return the rule of each stack whose close was requested, without those that are no longer to be closed."""
        found = {
            stack: [rule for watch in watches if (rule := self._close_rule(watch)) is not None]
            for stack, watches in self._requested.items()
        }
        return {stack: functools.reduce(merge_rules, rules) for stack, rules in found.items() if rules}

    def _due_in_s(self) -> dict[StackId, float]:
        now = self._clock()
        waits = {stack: close_due_in_s(self._uses[stack], now, rule) for stack, rule in self._rules().items()}
        return {stack: wait_s for stack, wait_s in waits.items() if wait_s is not None}

    def _pause_s(self) -> float | None:
        # The end of a writer wakes the loop; a change of the gate or of `may_close` may not.
        return min((wait_s or DUE_AGAIN_S for wait_s in self._due_in_s().values()), default=None)

    async def _close(self, stack: StackId) -> None:
        retry_in_s: float | None = FIRST_DELAY_S
        try:
            # No step writes from here on, so no later verdict is missed.
            if not await self._held_of([stack]):
                retry_in_s = await self._closer.close(stack)
        except Exception:  # it would end the daemon
            log.exception("stack.close_bug", stack=str(stack))
        finally:
            self._gate.leave(stack)
            use = end_closing(self._use(stack), self._clock(), closed=retry_in_s is None, retry_in_s=retry_in_s or 0.0)
            self._uses[stack] = use
            if use.requested_at is None:
                self._requested.pop(stack, None)
            if not self._requested:
                self._all_closed.set()
            self._unblock(stack)
            self._changed.set()

    def _end_deriving(self, stack: StackId) -> None:
        self._uses[stack] = end_deriving(self._use(stack), self._clock())
        self._unblock(stack)

    def _unblock(self, stack: StackId) -> None:
        if stack in self._blocked:
            self._blocked.pop(stack).set()
