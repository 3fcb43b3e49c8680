"""Work queue: montages that wait for a step, and the tasks of running steps."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from daemon.montages.records import Montage
from daemon.montages.states import STEP_OF_STATE, Step
from daemon.pipeline.order.schedule import Schedule, Ticket

LIMITS: Mapping[Step, int] = {Step.SETTLE: 4, Step.INGEST: 4, Step.MIPMAPS: 3, Step.APPLY: 4}
"""Largest number of montages of one watch in each step. Several make mipmaps, so that the last tiles of one montage do
not leave workers idle."""
POLL_S = 1.0
"""Interval of checks while tickets wait for a condition that does not wake the queue, such as an inaccessible
directory."""
IDLE_S = 3600.0
"""Interval of checks otherwise."""


class WorkQueue:
    """Tickets and tasks; a montage has at most one of each.

    Parameters
    ----------
    clock : monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._schedule = Schedule(LIMITS)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.changed = asyncio.Event()

    def __contains__(self, montage_id: int) -> bool:
        return montage_id in self._schedule or montage_id in self._tasks

    def __len__(self) -> int:
        """Return the number of tickets, including those of running steps."""
        return len(self._schedule)

    @property
    def running(self) -> int:
        """Number of montages in a step now."""
        return len(self._tasks)

    # --- tickets

    def enqueue(self, montage: Montage, delay_s: float = 0.0) -> None:
        """Enqueue the next step of an unfinished montage."""
        self.add(Ticket(montage.acquired, montage.id, STEP_OF_STATE[montage.state], montage.watch), delay_s)

    def add(self, ticket: Ticket, delay_s: float = 0.0) -> None:
        """Add a ticket; it replaces an earlier one of its montage."""
        self._schedule.add(ticket, self._clock() + delay_s)
        self.changed.set()

    def is_waiting(self, montage_id: int) -> bool:
        """Whether a montage has a ticket whose step has not begun."""
        return self._schedule.is_waiting(montage_id)

    def delay_s(self, montage_id: int) -> float | None:
        """Return the seconds until the montage's step is due; None if it is not delayed."""
        not_before = self._schedule.not_before(montage_id)
        delay_s = 0.0 if not_before is None else not_before - self._clock()
        return delay_s if delay_s > 0 else None

    def is_current(self, ticket: Ticket) -> bool:
        """Whether a taken ticket was neither replaced nor removed."""
        return self._schedule.is_current(ticket)

    def end_delays(self, montage_ids: Iterable[int]) -> None:
        """Make waiting montages due now, in order of acquisition."""
        for montage_id in montage_ids:
            self._schedule.end_delay(montage_id)

    def take(self, is_open: Callable[[Step, str], bool], may_start: Callable[[Ticket], bool]) -> list[Ticket]:
        """Return the tickets whose steps begin now, as `Schedule.take`."""
        return self._schedule.take(self._clock(), is_open, may_start)

    def next_time(self) -> float | None:
        """Return when the first delayed ticket becomes due; None if no ticket is delayed."""
        return self._schedule.next_time()

    def pause_s(self) -> float:
        """Return the seconds until tickets may become due or may start."""
        next_time = self.next_time()
        due_in_s = IDLE_S if next_time is None else max(0.0, next_time - self._clock())
        return min(due_in_s, POLL_S) if len(self._schedule) > len(self._tasks) else due_in_s

    # --- tasks

    def is_running(self, montage_id: int) -> bool:
        """Whether a step of the montage runs."""
        return montage_id in self._tasks

    def begin(self, ticket: Ticket, task: asyncio.Task[None]) -> None:
        """Register the task of a taken ticket."""
        self._tasks[ticket.montage_id] = task

    def end(self, ticket: Ticket, task: asyncio.Task[None] | None = None) -> bool:
        """Remove a ticket and its task; return False if they were removed before.

        Parameters
        ----------
        task : a task that has ended; None if the calling task is that of the montage.
        """
        if task is not None and self._tasks.get(ticket.montage_id) is not task:
            return False
        self._schedule.finish(ticket)
        del self._tasks[ticket.montage_id]
        self.changed.set()
        return True

    async def cancel(self, montage_id: int) -> None:
        """Remove the ticket of a montage, cancel its step and wait until the step has ended."""
        self._schedule.remove(montage_id)
        task = self._tasks.get(montage_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def cancel_all(self) -> None:
        """Cancel all running steps; the journal knows where to resume."""
        for task in self._tasks.values():
            task.cancel()
