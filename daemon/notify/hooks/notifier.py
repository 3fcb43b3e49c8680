"""Notifier: queue the events of the outbox for the configured hooks, and run a courier for each hook."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial

import aiohttp

from daemon.config.hook_settings import HookSettings
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import deliveries, outbox
from daemon.journal.tables.deliveries import Delivery, HookCounts
from daemon.notify.hooks.attempt import attempt
from daemon.notify.hooks.cloud_event import cloud_event_body
from daemon.notify.hooks.courier import Count, Courier
from daemon.notify.hooks.send_request import Sent
from daemon.pipeline.health import HookFacts

KEPT_S = 7 * 86_400.0
"""Age at which delivered events are deleted."""
DEAD_KEPT_S = 30 * 86_400.0
"""Age at which events that were given up are deleted."""
PRUNE_EVERY_S = 3600.0


class Notifier:
    """Delivers events until cancelled. A slow or dead receiver delays only its own events.

    Parameters
    ----------
    settings : returns the present configuration; `adopt` is called after it changed.
    count : counts outcomes of deliveries.
    wall : seconds since 1970 UTC.
    steady : monotonic clock, seconds.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        count: Count,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._count = count
        self._wall = wall
        self._steady = steady
        self._host = socket.gethostname()
        self._couriers: dict[str, tuple[Courier, asyncio.Task[None]]] = {}
        self._adopted = asyncio.Event()
        """Set when the configuration has changed."""
        self._queued = 0
        """Events up to this number are queued."""
        self._left: Mapping[str, HookCounts] = {}
        """What hooks have not taken, by their names, as it was until the write `_left_until`."""
        self._left_until: asyncio.Event | None = None

    def _hooks(self) -> dict[str, HookSettings]:
        return {hook.label: hook for hook in self._settings().hook}

    async def register(self) -> None:
        """Start new hooks at the next event. Await this before the first event that they must receive."""
        names = tuple(self._hooks())
        await self._journal.write(lambda connection: deliveries.register(connection, names))

    async def adopt(self) -> None:
        """Apply a changed configuration."""
        await self.register()
        self._adopted.set()

    def wake(self) -> None:
        """Make all couriers check their deliveries at once."""
        for courier, _ in self._couriers.values():
            courier.wake.set()

    async def run(self) -> None:
        """Queue and deliver events, and delete old ones."""
        session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        async with session, asyncio.TaskGroup() as group:
            self._couriers.clear()
            prune_at = self._steady()
            while True:
                self._adopted.clear()
                written = self._journal.next_write
                await self._match_couriers(group, session)
                await self._queue()
                if self._steady() >= prune_at:
                    prune_at = self._steady() + PRUNE_EVERY_S
                    await self._prune()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, prune_at - self._steady())):
                        await (written if self._couriers else self._adopted).wait()

    async def _match_couriers(self, group: asyncio.TaskGroup, session: aiohttp.ClientSession) -> None:
        """Start couriers of new hooks and end those of removed hooks."""
        hooks = self._hooks()
        for name in [name for name in self._couriers if name not in hooks]:
            _, task = self._couriers.pop(name)
            task.cancel()
            await asyncio.wait([task])
        for name in [name for name in hooks if name not in self._couriers]:
            courier = Courier(
                name,
                partial(self._hook, name, hooks[name]),
                self._journal,
                partial(self._send, session),
                self._count,
                wall=self._wall,
                steady=self._steady,
            )
            self._couriers[name] = courier, group.create_task(courier.run(), name=f"hook {name}")

    def _hook(self, name: str, before: HookSettings) -> HookSettings:
        """Return the present settings of a hook; the former ones if it was removed meanwhile."""
        return self._hooks().get(name, before)

    async def _send(self, session: aiohttp.ClientSession, hook: HookSettings, delivery: Delivery) -> Sent:
        body = cloud_event_body(delivery.event, self._host)
        return await attempt(session, hook, delivery.event.event_id, body)

    async def _queue(self) -> None:
        """Queue new events for every hook that wants them."""
        hooks = self._hooks()
        if not hooks or (last := await self._journal.read(outbox.last_number)) <= self._queued:
            return
        wants = {name: hook.wants for name, hook in hooks.items()}
        while await self._journal.write(lambda connection: deliveries.queue(connection, wants, self._wall())):
            pass
        self._queued = last
        self.wake()

    async def facts(self) -> tuple[HookFacts, ...]:
        """Return the delivery counts of each hook, including removed hooks with undelivered events."""
        left = await self._count_left()
        now = self._wall()
        return tuple(_facts(name, left.get(name), now) for name in sorted({*self._hooks(), *left}))

    async def _count_left(self) -> Mapping[str, HookCounts]:
        """Return what hooks have not taken. Only a write changes it, so it is read once after each."""
        until = self._journal.next_write
        if until is not self._left_until:
            self._left, self._left_until = await self._journal.read(deliveries.counts), until
        return self._left

    async def _prune(self) -> None:
        now = self._wall()
        while await self._journal.write(
            lambda connection: deliveries.prune(connection, now - KEPT_S, now - DEAD_KEPT_S)
        ):
            pass


def _facts(name: str, counts: HookCounts | None, now: float) -> HookFacts:
    if counts is None:
        return HookFacts(name, 0, 0, None, "")
    oldest_s = None if counts.oldest_queued_at is None else max(0.0, now - counts.oldest_queued_at)
    return HookFacts(name, counts.waiting, counts.dead, oldest_s, counts.problem or "")
