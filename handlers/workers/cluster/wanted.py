"""Tasks that no worker can do: by them a scheduler sees that tiles wait here, and an adaptive cluster grows."""

import uuid
from typing import Any

from handlers.workers.cluster.connection import Connection

MOST_WANTED = 128


class Wanted:
    """The tasks of this kind at a scheduler. All methods run in the executor's event loop.

    They have the name of tiles, so that each counts as long as a tile takes.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._remotes: list[Any] = []

    def show(self, connection: Connection, waiting: int) -> None:
        """Have about as many tasks at the scheduler as jobs wait: the next power of two, which seldom changes."""
        number = min(MOST_WANTED, 1 << (waiting - 1).bit_length()) if waiting else 0
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
        """Start again: the connection is lost, and with it the tasks."""
        self._remotes.clear()
