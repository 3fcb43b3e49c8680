"""Deliver sightings to the receiver; keep each one until the receiver has accepted it."""

from collections.abc import Awaitable, Callable

from daemon.montages.sighting import Sighting
from daemon.watching.roots import Reason
from handlers.errors import Fault, Waiting

OnSighting = Callable[[Sighting], Awaitable[object]]
"""Receives a sighting. The root waits until it returns. After a Fault the next pass delivers the sighting again."""


class HandOver:
    """Undelivered sightings of one root; the latest of each path."""

    def __init__(self, on_sighting: OnSighting) -> None:
        self._on_sighting = on_sighting
        self._undelivered: dict[str, Sighting] = {}
        self._fault: Fault | None = None

    def __len__(self) -> int:
        return len(self._undelivered)

    def add(self, path: str, sighting: Sighting) -> None:
        """Queue a sighting; it replaces an earlier one of the same path."""
        self._undelivered[path] = sighting

    async def deliver(self) -> None:
        """Attempt to deliver every sighting once, in the order of file names."""
        self._fault = None
        for path in sorted(self._undelivered, key=lambda each: (each.rpartition("/")[2], each)):
            try:
                await self._on_sighting(self._undelivered[path])
            except Fault as fault:
                self._fault = fault
                if fault.waiting_helps is Waiting.ALWAYS:
                    break  # the journal's disk is full or gone: other sightings would fail, too
            else:
                del self._undelivered[path]

    def reason(self) -> Reason | None:
        """Return why sightings are undelivered; None if there are none."""
        if not self._undelivered or self._fault is None:
            return None
        return Reason("undelivered", f"{len(self._undelivered)} metafiles wait: {self._fault}")
