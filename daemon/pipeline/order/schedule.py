"""Schedule the next steps of montages in order of acquisition and within limits. Pure."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from daemon.montages.states import Step


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """The next step of a montage."""

    acquired: str
    """Name of the metafile; sorts by acquisition time."""
    montage_id: int
    step: Step = field(compare=False)
    watch: str = field(compare=False)
    not_before: float = field(compare=False, default=0.0)
    """Time of the schedule's clock before which the step does not start."""


class Schedule:
    """Ready, delayed and taken tickets. A montage has at most one.

    Parameters
    ----------
    limits : step -> largest number of montages of one watch in it. Limits are per watch, so a dead file server stalls
        only its own montages.
    """

    def __init__(self, limits: Mapping[Step, int]) -> None:
        self._limits = limits
        self._ready: defaultdict[tuple[Step, str], list[Ticket]] = defaultdict(list)
        self._delayed: list[tuple[float, Ticket]] = []
        self._taken: dict[int, Ticket] = {}
        self._known: dict[int, Ticket] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, montage_id: int) -> bool:
        return montage_id in self._known

    def add(self, ticket: Ticket, not_before: float = 0.0) -> None:
        """Add a ticket; it replaces an earlier one of its montage."""
        self.remove(ticket.montage_id)
        # A new object: heap entries of a replaced ticket are recognized by identity.
        ticket = replace(ticket, not_before=not_before)
        self._known[ticket.montage_id] = ticket
        heapq.heappush(self._delayed, (not_before, ticket))

    def end_delay(self, montage_id: int) -> None:
        """Make a montage due now."""
        ticket = self._known.get(montage_id)
        if ticket is not None and montage_id not in self._taken:
            self.add(ticket)

    def remove(self, montage_id: int) -> None:
        """Remove the ticket of a montage. Its entries stay in the heaps and are skipped later."""
        self._known.pop(montage_id, None)
        self._taken.pop(montage_id, None)

    def not_before(self, montage_id: int) -> float | None:
        """Return the time before which the montage's step does not start; None if it has no step to wait for."""
        return self._known[montage_id].not_before if self.is_waiting(montage_id) else None

    def is_waiting(self, montage_id: int) -> bool:
        """Whether a montage has a ticket that has not been taken."""
        return montage_id in self._known and montage_id not in self._taken

    def is_current(self, ticket: Ticket) -> bool:
        """Whether the ticket was neither replaced nor removed."""
        return self._known.get(ticket.montage_id) is ticket

    def finish(self, ticket: Ticket) -> None:
        """Remove a taken ticket, unless its montage has a new one."""
        if self.is_current(ticket):
            self.remove(ticket.montage_id)

    def take(
        self, now: float, is_open: Callable[[Step, str], bool], may_start: Callable[[Ticket], bool]
    ) -> list[Ticket]:
        """Take the tickets that start now, the oldest first. Each counts against its limit until it is removed.

        Parameters
        ----------
        now : monotonic seconds.
        is_open : whether a step of a watch may be started. It is called before each ticket, so that a step that waits
            for a service costs the same for 1 ticket and for 100,000.
        may_start : whether this ticket may start. If not, later tickets are not blocked.
        """
        while self._delayed and self._delayed[0][0] <= now:
            ticket = heapq.heappop(self._delayed)[1]
            if self._known.get(ticket.montage_id) is ticket:
                heapq.heappush(self._ready[ticket.step, ticket.watch], ticket)
        heaps = sorted((heap[0], key) for key, heap in self._ready.items() if heap)
        return [ticket for _, key in heaps for ticket in self._take_of(key, is_open, may_start)]

    def _take_of(
        self, key: tuple[Step, str], is_open: Callable[[Step, str], bool], may_start: Callable[[Ticket], bool]
    ) -> list[Ticket]:
        heap = self._ready[key]
        room = self._limits[key[0]] - sum((ticket.step, ticket.watch) == key for ticket in self._taken.values())
        started: list[Ticket] = []
        skipped: list[Ticket] = []
        while heap and len(started) < room and is_open(*key):
            ticket = heapq.heappop(heap)
            if self._known.get(ticket.montage_id) is not ticket:
                continue
            (started if may_start(ticket) else skipped).append(ticket)
        for ticket in skipped:
            heapq.heappush(heap, ticket)
        self._taken.update((ticket.montage_id, ticket) for ticket in started)
        return started

    def next_time(self) -> float | None:
        """Return when the first delayed ticket becomes ready; None if no ticket is delayed."""
        while self._delayed and self._known.get(self._delayed[0][1].montage_id) is not self._delayed[0][1]:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None
