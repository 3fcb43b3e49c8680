"""Sightings on their way to the receiver: kept until it takes them."""

from collections.abc import Awaitable, Callable

from daemon.montages.sighting import Sighting
from daemon.watching.roots import Reason
from handlers.errors import Fault, Waiting

OnSighting = Callable[[Sighting], Awaitable[object]]
"""Receives a sighting. The root waits until it returns. After a Fault the next pass offers the sighting again."""


class HandOver:
    """The sightings of one root that the receiver has not taken yet; the latest of each path."""

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
        """Offer every sighting once, in the order of file names."""
        self._fault = None
        for path in sorted(self._undelivered, key=lambda each: (each.rpartition("/")[2], each)):
            try:
                await self._on_sighting(self._undelivered[path])
            except Fault as fault:
                self._fault = fault
                if fault.waiting_helps is Waiting.ALWAYS:
                    break  # the journal's disk is full or gone: the other sightings would fail too
            else:
                del self._undelivered[path]

    def reason(self) -> Reason | None:
        """Why sightings wait; None if none do."""
        if not self._undelivered or self._fault is None:
            return None
        return Reason("undelivered", f"{len(self._undelivered)} metafiles wait: {self._fault}")
