"""Deliver the events of one hook; events of one subject are delivered in order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from daemon.config.hook_settings import HookSettings
from daemon.journal.journal import Journal
from daemon.journal.tables import deliveries
from daemon.journal.tables.deliveries import Delivery, Failure
from daemon.journal.transaction import Connection
from daemon.notify.hooks.delays import GIVE_UP_S, delay_s, is_given_up, pause_s
from daemon.notify.hooks.send_request import Sent
from handlers.text import printable

log = structlog.get_logger()

REQUESTS_AT_ONCE = 8
"""Largest number of concurrent requests to one receiver, each about another montage or stack."""
RUNS_AT_ONCE = 1
"""Largest number of concurrent runs of one hook's program."""
CHECK_S = 60.0
"""Longest pause between two checks of the queue, since the clock may have been set."""

Send = Callable[[HookSettings, Delivery], Awaitable[Sent]]
Count = Callable[[str, str], None]
"""Counts an outcome of a hook: (name of the hook, "delivered", "failed" or "dead")."""


class Courier:
    """Delivers the events of one hook until it is cancelled.

    Parameters
    ----------
    hook : returns the present settings of the hook.
    send : attempts a delivery.
    wall : seconds since 1970 UTC.
    steady : monotonic clock, seconds.
    """

    def __init__(
        self,
        name: str,
        hook: Callable[[], HookSettings],
        journal: Journal,
        send: Send,
        count: Count,
        *,
        wall: Callable[[], float],
        steady: Callable[[], float],
    ) -> None:
        self._name = name
        self._hook = hook
        self._journal = journal
        self._send = send
        self._count = count
        self._wall = wall
        self._steady = steady
        self.wake = asyncio.Event()
        self._tasks: dict[asyncio.Task[Sent], Delivery] = {}
        self._failures = 0
        """Consecutive attempts without a response of the receiver."""
        self._paused_until = 0.0

    async def run(self) -> None:
        """Deliver queued events, until cancelled."""
        try:
            while True:
                self.wake.clear()
                await self._wait(await self._start_due())
                await self._record_ended()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _start_due(self) -> float:
        """Start attempts at deliveries that are due; return the seconds until the next check."""
        paused_s = self._paused_until - self._steady()
        if paused_s > 0:
            return min(CHECK_S, paused_s)
        free = self._most_at_once() - len(self._tasks)
        if free <= 0:
            return CHECK_S  # the end of an attempt wakes the courier
        now = self._wall()
        found, next_try_at = await self._journal.read(partial(self._find_due, now=now, limit=free + len(self._tasks)))
        under_way = {delivery.id for delivery in self._tasks.values()}
        for delivery in [each for each in found if each.id not in under_way][:free]:
            task = asyncio.create_task(self._attempt(delivery), name=f"hook {self._name} {delivery.event.number}")
            self._tasks[task] = delivery
        # The next check finds deliveries that became due since `now`.
        return CHECK_S if next_try_at is None else min(CHECK_S, max(0.01, next_try_at - self._wall()))

    def _find_due(self, connection: Connection, now: float, limit: int) -> tuple[list[Delivery], float | None]:
        least_tried = self._failures > 0
        found = deliveries.due(connection, self._name, now, limit, least_tried=least_tried)
        return found, deliveries.next_try_at(connection, self._name, now)

    def _most_at_once(self) -> int:
        if self._failures:
            return 1  # until the receiver responds again
        return RUNS_AT_ONCE if self._hook().command else REQUESTS_AT_ONCE

    async def _attempt(self, delivery: Delivery) -> Sent:
        try:
            return await self._send(self._hook(), delivery)
        except Exception as error:  # it would end the daemon
            log.exception("hook.bug", hook=self._name, number=delivery.event.number)
            return Sent(f"a bug in temwatch; please report it: {type(error).__name__}: {printable(str(error))}")

    async def _wait(self, timeout_s: float) -> None:
        """Wait until an attempt has ended, more events are queued, or the next check is due."""
        woken = asyncio.create_task(self.wake.wait())
        try:
            await asyncio.wait([woken, *self._tasks], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()

    # --- outcomes

    async def _record_ended(self) -> None:
        ended = {task: self._tasks.pop(task) for task in [task for task in self._tasks if task.done()]}
        if not ended:
            return
        now = self._wall()
        sent = [(delivery, task.result()) for task, delivery in ended.items()]
        delivered = [delivery.id for delivery, outcome in sent if outcome.is_delivered]
        failures = [self._failure(delivery, outcome, now) for delivery, outcome in sent if not outcome.is_delivered]
        self._note_answers([outcome for _, outcome in sent])
        expired = self._failures > 0 and any(failure.is_dead for failure in failures)
        problem = failures[0].problem if failures else ""

        def record(connection: Connection) -> int:
            deliveries.record(connection, delivered, failures)
            before = now - GIVE_UP_S
            return deliveries.give_up_older(connection, self._name, before, problem) if expired else 0

        dead = await self._journal.write(record) + sum(failure.is_dead for failure in failures)
        self._report(sent, failures, dead)

    def _failure(self, delivery: Delivery, outcome: Sent, now: float) -> Failure:
        chance = random.random()  # noqa: S311  jitter
        wait_s = delay_s(delivery.attempts + 1, chance, is_unavailable=outcome.is_unavailable, is_gone=outcome.is_gone)
        return Failure(delivery.id, outcome.problem, now + wait_s, is_given_up(delivery.queued_at, now))

    def _note_answers(self, outcomes: list[Sent]) -> None:
        if any(not outcome.is_unavailable for outcome in outcomes):
            self._failures, self._paused_until = 0, 0.0
        else:
            self._failures += 1
            self._paused_until = self._steady() + pause_s(self._failures)

    def _report(self, sent: list[tuple[Delivery, Sent]], failures: list[Failure], dead: int) -> None:
        for delivery, outcome in sent:
            self._count(self._name, "delivered" if outcome.is_delivered else "failed")
            facts = {"hook": self._name, "type": str(delivery.event.kind), "subject": delivery.event.subject}
            if outcome.is_delivered:
                log.info("hook.delivered", **facts, attempt=delivery.attempts + 1)
            else:
                log.warning("hook.failed", **facts, attempt=delivery.attempts + 1, problem=outcome.problem)
        for _ in range(dead):
            self._count(self._name, "dead")
        if dead:
            hint = "repair the receiver, then `temwatch notify list` and `temwatch notify retry ID`"
            log.error("hook.given_up", hook=self._name, events=dead, problem=failures[0].problem, hint=hint)
