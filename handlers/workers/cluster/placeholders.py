"""Placeholder tasks, which no worker can run: they show the scheduler that tiles wait, so an adaptive cluster grows."""

import uuid
from typing import Any

from handlers.workers.cluster.connection import Connection

MAX_WANTED = 128


class Wanted:
    """The placeholder tasks at a scheduler. All methods run in the executor's event loop.

    They are named like tiles, so that the scheduler expects each to take as long as a tile.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._remotes: list[Any] = []

    def show(self, connection: Connection, waiting: int) -> None:
        """Set the number of placeholders to that of waiting jobs, rounded up to a power of two to change seldom."""
        number = min(MAX_WANTED, 1 << (waiting - 1).bit_length()) if waiting else 0
        # A scheduler may fail tasks that wait too long (`distributed.scheduler.no-workers-timeout`).
        self._remotes = [remote for remote in self._remotes if remote.status == "pending"]
        while len(self._remotes) > number:
            connection.release(self._remotes.pop())
        while len(self._remotes) < number:
            remote = connection.submit_for_nobody(f"{self._prefix}-{uuid.uuid4().hex}")
            if remote is None:
                return
            self._remotes.append(remote)

    def forget(self) -> None:
        """Forget the placeholders, which are lost with the connection."""
        self._remotes.clear()
