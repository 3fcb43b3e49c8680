"""Which montages may start their next step now: in order of acquisition, within limits, not before their time. Pure."""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from daemon.montages.states import Step


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A step that a montage waits for."""

    acquired: str
    """Sorts by acquisition time."""
    montage_id: int
    step: Step = field(compare=False)
    watch: str = field(compare=False)


class Schedule:
    """Tickets waiting, delayed and taken. A montage has at most one.

    Parameters
    ----------
    limits : how many montages of one watch may be in each step at once. Of each watch: where the file server of one
        has died, its montages hang in their steps, and those of the others must not wait for them.
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
        """Puts a ticket in line, in place of any that its montage had there."""
        self.remove(ticket.montage_id)
        ticket = replace(ticket)  # a new object: entries of the former one are known by not being this one
        self._known[ticket.montage_id] = ticket
        heapq.heappush(self._delayed, (not_before, ticket))

    def end_delay(self, montage_id: int) -> None:
        """Make a montage due now."""
        ticket = self._known.get(montage_id)
        if ticket is not None and montage_id not in self._taken:
            self.add(ticket)

    def remove(self, montage_id: int) -> None:
        """Takes a montage out, wherever it stands. Entries left in the heaps are passed over when they come up."""
        self._known.pop(montage_id, None)
        self._taken.pop(montage_id, None)

    def is_waiting(self, montage_id: int) -> bool:
        """Whether a montage has a ticket in line that has not been taken."""
        return montage_id in self._known and montage_id not in self._taken

    def is_current(self, ticket: Ticket) -> bool:
        """Whether this very ticket stands for its montage, which is not in line again or taken out."""
        return self._known.get(ticket.montage_id) is ticket

    def finish(self, ticket: Ticket) -> None:
        """Ends a taken ticket, unless its montage is in line again already."""
        if self.is_current(ticket):
            self.remove(ticket.montage_id)

    def take(
        self, now: float, is_open: Callable[[Step, str], bool], may_start: Callable[[Ticket], bool]
    ) -> list[Ticket]:
        """Tickets that start now, the oldest first; each counts against its limit until it is removed or added again.

        Parameters
        ----------
        is_open : whether a step of a watch may be started at all. It is asked before each ticket, so that a step that
            waits for a service costs the same with one ticket and with 100,000.
        may_start : whether this ticket may start; one that may not does not hold up those behind it.
        """
        while self._delayed and self._delayed[0][0] <= now:
            ticket = heapq.heappop(self._delayed)[1]
            if self._known.get(ticket.montage_id) is ticket:
                heapq.heappush(self._ready[ticket.step, ticket.watch], ticket)
        lines = sorted((line[0], key) for key, line in self._ready.items() if line)
        return [ticket for _, key in lines for ticket in self._take_of(key, is_open, may_start)]

    def _take_of(
        self, key: tuple[Step, str], is_open: Callable[[Step, str], bool], may_start: Callable[[Ticket], bool]
    ) -> list[Ticket]:
        line = self._ready[key]
        room = self._limits[key[0]] - sum((ticket.step, ticket.watch) == key for ticket in self._taken.values())
        started: list[Ticket] = []
        passed_over: list[Ticket] = []
        while line and len(started) < room and is_open(*key):
            ticket = heapq.heappop(line)
            if self._known.get(ticket.montage_id) is not ticket:
                continue
            (started if may_start(ticket) else passed_over).append(ticket)
        for ticket in passed_over:
            heapq.heappush(line, ticket)
        self._taken.update((ticket.montage_id, ticket) for ticket in started)
        return started

    def next_time(self) -> float | None:
        """When the first delayed ticket becomes ready; None if there is none."""
        while self._delayed and self._known.get(self._delayed[0][1].montage_id) is not self._delayed[0][1]:
            heapq.heappop(self._delayed)
        return self._delayed[0][0] if self._delayed else None
