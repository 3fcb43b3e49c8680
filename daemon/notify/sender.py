"""Delivery of messages to all addresses, each in its own thread, so that a dead service delays no other."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from daemon.notify.messages import Message
from daemon.system.threads import in_thread
from handlers.errors import Fault

SEND_S = 60.0
"""Time-out of one message to one address."""
AGAIN_S = 60.0
"""Pause of an address after it refused a message."""

Send = Callable[[str, int, Message], None]
"""Sends a message to an address with a number. Blocking; raises Fault."""


Taken = dict[str, set[int]]
"""Numbers of the addresses that took a message, by its id."""


@dataclass(slots=True)
class _Walk:
    """A message on its way to an address."""

    message_id: str
    outcome: asyncio.Future[None]


class Sender:
    """Delivers messages. At most one thread works for an address; after a failure the address pauses."""

    def __init__(self, send: Send, wall: Callable[[], float]) -> None:
        self._send = send
        self._wall = wall
        self._walks: dict[int, _Walk] = {}
        self._again_at: dict[int, float] = {}
        self.problems: dict[int, str] = {}
        """Why an address did not take its last message, by its number."""

    async def deliver(self, messages: Sequence[Message], addresses: Sequence[str]) -> Taken:
        """Try each message at each address that has not taken it, in order; return which took which."""
        taken: Taken = {}
        for number in [number for number in self.problems if number > len(addresses)]:
            del self.problems[number]
        async with asyncio.TaskGroup() as group:
            for number, address in enumerate(addresses, start=1):
                group.create_task(self._deliver_to(number, address, messages, taken), name=f"alert address {number}")
        return taken

    async def _deliver_to(self, number: int, address: str, messages: Sequence[Message], taken: Taken) -> None:
        if number in self._walks and not await self._end_walk(number, taken):  # left by a former round
            return
        for message in messages:
            if number in message.taken or number in taken.get(message.id, ()):
                continue
            if self._wall() < self._again_at.get(number, 0.0):
                return
            work = partial(self._send, address, number, message)
            self._walks[number] = _Walk(message.id, in_thread(work, f"alert address {number}"))
            if not await self._end_walk(number, taken):
                return

    async def _end_walk(self, number: int, taken: Taken) -> bool:
        """Return whether the message under way to an address was taken."""
        walk = self._walks[number]
        done, _ = await asyncio.wait([walk.outcome], timeout=SEND_S)
        if not done:  # its outcome counts in a later round
            self.problems[number] = f"address {number} has not taken a message within {SEND_S:g} s"
            return False
        del self._walks[number]
        error = walk.outcome.exception()
        if error is None:
            taken.setdefault(walk.message_id, set()).add(number)
            self.problems.pop(number, None)
            return True
        self._again_at[number] = self._wall() + AGAIN_S
        self.problems[number] = str(error) if isinstance(error, Fault) else type(error).__name__
        return False
