"""Record attempts of steps: their begin before the step starts, their end even if the caller is cancelled."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from daemon.journal.queries import JournalQueries
from daemon.journal.tables import rows
from daemon.journal.transaction import Connection
from daemon.montages.records import Outcome
from daemon.montages.states import Step
from handlers.errors import Fault


class JournalAttempts(JournalQueries):
    """The journal's records of attempts. Parameters and exceptions: see `Journal`."""

    async def begin_attempt(self, montage_id: int, step: Step) -> int:
        """Record that an attempt begins; return its id. A cancelled call records the attempt as STOPPED."""
        return (await self.begin_attempts([montage_id], step))[montage_id]

    async def begin_attempts(self, montage_ids: Sequence[int], step: Step) -> dict[int, int]:
        """Record together that attempts begin; return their ids by montage. See `begin_attempt`."""
        begun: dict[int, int] = {}
        if not montage_ids:
            return begun

        def begin(connection: Connection) -> dict[int, int]:
            begun.update((each, rows.begin_attempt(connection, each, step, self._clock())) for each in montage_ids)
            return begun

        try:
            return await self.write(begin)
        except asyncio.CancelledError:
            # `begin` may still be queued, so `begun` is read only when the writing thread has run it.
            await self.stop_attempts(begun)
            raise

    async def stop_attempts(self, attempts: Mapping[int, int]) -> None:
        """Record attempts as STOPPED unless they have ended.

        Parameters
        ----------
        attempts : montage id -> attempt id.
        """
        await self.write(lambda connection: rows.stop_attempts(connection, attempts, self._clock()))

    async def end_attempt(self, attempt_id: int, outcome: Outcome, fault: Fault | None = None) -> None:
        """Record how an attempt ended."""
        await self.end_attempts([attempt_id], outcome, fault)

    async def end_attempts(self, attempt_ids: Iterable[int], outcome: Outcome, fault: Fault | None = None) -> None:
        """Record together that attempts ended with the same outcome, even if the caller is cancelled meanwhile."""
        ended = tuple(attempt_ids)
        if not ended:
            return

        def end(connection: Connection) -> None:
            for attempt_id in ended:
                rows.end_attempt(connection, attempt_id, outcome, fault, self._clock())

        try:
            await self.write(end)
        except asyncio.CancelledError:
            await self.write(
                end
            )  # a locked journal may have refused the first write; a second end of an attempt is ignored
            raise

    async def count_crashes(self) -> int:
        """Record as CRASHED the attempts that the previous process left open; return their number."""
        return await self.write(lambda connection: rows.count_crashes(connection, self._clock()))
