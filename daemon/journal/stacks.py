"""Record the use of stacks and of directories for mipmaps."""

from collections.abc import Collection, Sequence

from daemon.journal.attempts import JournalAttempts
from daemon.journal.tables import outbox, rows
from daemon.journal.transaction import Connection
from daemon.montages.records import Outcome
from handlers.place import Place
from handlers.uris import place_uri


class JournalStacks(JournalAttempts):
    """The journal's records of stacks and directories. Parameters and exceptions: see `Journal`."""

    async def record_closing(
        self, stack: str, montage_ids: Sequence[int], attempts: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Record that a stack was closed for APPLIED montages; return the ids of the montages that became COMPLETE.

        Parameters
        ----------
        attempts : ids of the attempts that closed it, and end with it.
        """
        if not montage_ids:
            return ()

        def work(connection: Connection) -> tuple[int, ...]:
            now = self._clock()
            for attempt in attempts:
                rows.end_attempt(connection, attempt, Outcome.DONE, None, now)
            return rows.record_closing(connection, stack, montage_ids, now)

        return await self.write(work)

    async def open_stack(self, stack: str, watch: str) -> None:
        """Record that a stack is about to be opened for writing, for a montage of a watch."""
        await self.write(lambda connection: outbox.open_stack(connection, stack, watch, self._clock()))

    async def reopen_stack(self, stack: str, watch: str, because: str) -> None:
        """Announce that the daemon reopens a stack that another program has closed."""
        await self.write(lambda connection: outbox.reopen_stack(connection, stack, watch, because, self._clock()))

    async def close_stack(self, stack: str, watch: str, zs: Collection[float]) -> None:
        """Record and announce that a stack is COMPLETE, for montages at these z."""
        await self.write(lambda connection: outbox.close_stack(connection, stack, watch, zs, self._clock()))

    async def forget_stack(self, stack: str) -> None:
        """Record that this daemon no longer has to close a stack."""
        await self.write(lambda connection: outbox.forget_stack(connection, stack))

    async def use_for_mipmaps(self, directory: Place) -> None:
        """Record that mipmaps are about to be written to a directory."""
        values = (place_uri(directory), self._clock())
        await self.write(
            lambda connection: connection.execute("INSERT OR IGNORE INTO mipmap_directories VALUES (?, ?)", values)
        )
