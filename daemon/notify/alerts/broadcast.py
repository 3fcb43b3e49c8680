"""Deliver messages to all addresses, each in its own thread, so that a dead service delays only its own messages."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from daemon.notify.alerts.messages import Message
from daemon.system.threads import in_thread
from handlers.errors import Fault

SEND_S = 60.0
"""Time-out of one message to one address."""
RETRY_S = 60.0
"""Pause of an address after it refused a message."""

Send = Callable[[str, int, Message], None]
"""Sends a message to an address with a number. Blocking; raises Fault."""


Taken = dict[str, set[int]]
"""Message id -> numbers of the addresses that accepted it."""


@dataclass(slots=True)
class _Sending:
    """A message that is being sent to an address."""

    message_id: str
    outcome: asyncio.Future[None]


class Sender:
    """Delivers messages with at most one thread for each address. After a failure the address is paused."""

    def __init__(self, send: Send, wall: Callable[[], float]) -> None:
        self._send = send
        self._wall = wall
        self._sendings: dict[int, _Sending] = {}
        self._paused_until: dict[int, float] = {}
        self.problems: dict[int, str] = {}
        """Number of an address -> why it did not accept its last message."""

    async def deliver(self, messages: Sequence[Message], addresses: Sequence[str]) -> Taken:
        """Send each message, in order, to each address that has not accepted it; return the accepted ones."""
        taken: Taken = {}
        for number in [number for number in self.problems if number > len(addresses)]:
            del self.problems[number]
        async with asyncio.TaskGroup() as group:
            for number, address in enumerate(addresses, start=1):
                group.create_task(self._deliver_to(number, address, messages, taken), name=f"alert address {number}")
        return taken

    async def _deliver_to(self, number: int, address: str, messages: Sequence[Message], taken: Taken) -> None:
        if number in self._sendings and not await self._finish(number, taken):  # still running from a former call
            return
        for message in messages:
            if number in message.taken or number in taken.get(message.id, ()):
                continue
            if self._wall() < self._paused_until.get(number, 0.0):
                return
            work = partial(self._send, address, number, message)
            self._sendings[number] = _Sending(message.id, in_thread(work, f"alert address {number}"))
            if not await self._finish(number, taken):
                return

    async def _finish(self, number: int, taken: Taken) -> bool:
        """Wait for the message that is being sent to an address; return whether it was accepted."""
        sending = self._sendings[number]
        done, _ = await asyncio.wait([sending.outcome], timeout=SEND_S)
        if not done:  # a later call records its outcome
            self.problems[number] = f"address {number} has not accepted a message within {SEND_S:g} s"
            return False
        del self._sendings[number]
        error = sending.outcome.exception()
        if error is None:
            taken.setdefault(sending.message_id, set()).add(number)
            self.problems.pop(number, None)
            return True
        self._paused_until[number] = self._wall() + RETRY_S
        self.problems[number] = str(error) if isinstance(error, Fault) else type(error).__name__
        return False
