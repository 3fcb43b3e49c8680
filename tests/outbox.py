"""The events in the outbox of a journal."""

from daemon.journal.journal import Journal
from daemon.journal.tables.outbox import COLUMNS, announced_of
from daemon.montages.announcements import Announced


async def announced(journal: Journal, after: int = 0) -> list[Announced]:
    """Return the events after a number, in order."""
    query = f"SELECT {COLUMNS} FROM outbox WHERE number > ? ORDER BY number"
    return await journal.read(lambda connection: [announced_of(row) for row in connection.execute(query, (after,))])
