"""Temporary files that dead workers left: looked for in each directory once no job writes there any more.

Only a process of the same machine can know that a writer is dead. So a worker of that machine removes the file; where
there is none, the age of the file decides.
"""

import asyncio
import contextlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from handlers.mipmaps.job import MipmapJob
from handlers.stores.temporary import machine_of, remove_left, temporaries_in
from handlers.workers.cluster.connection import Connection
from handlers.workers.cluster.members import Members
from handlers.workers.cluster.on_worker import remove_left_here

QUIET_S = 2.0
"""A directory without a job for so long is looked at."""
RETRY_S = 15.0
"""Pause between attempts to remove what was found."""
MOST = 4096
"""Directories, and files, that are remembered."""


def directories_of(job: Any) -> frozenset[Path]:
    """Return the directories of this machine in which a job writes files."""
    if not isinstance(job, MipmapJob):
        return frozenset()
    written = [place for _, place in job.outputs] + ([job.level0] if job.stack else [])
    return frozenset(place.parent for place in written if isinstance(place, Path))


class Leftovers:
    """What workers left. All methods run in the executor's event loop."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._in_use: Counter[Path] = Counter()
        self._quiet_since: dict[Path, float] = {}
        self._found: set[str] = set()
        self._tried_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def begin(self, directories: Iterable[Path]) -> None:
        """Note that a job may write in these directories."""
        for directory in directories:
            self._in_use[directory] += 1
            self._quiet_since.pop(directory, None)

    def end(self, directories: Iterable[Path]) -> None:
        """Note that the job is over."""
        for directory in directories:
            self._in_use[directory] -= 1
            if not self._in_use[directory]:
                del self._in_use[directory]
                self._quiet_since[directory] = time.monotonic()
        while len(self._quiet_since) > MOST:
            del self._quiet_since[next(iter(self._quiet_since))]

    def look(self, connection: Connection) -> None:
        """Look at directories that became quiet, and try to remove what was found before. Does not wait for it."""
        now = time.monotonic()
        quiet = [directory for directory, since in self._quiet_since.items() if now - since > QUIET_S]
        is_due = self._found and now - self._tried_at > RETRY_S
        if (quiet or is_due) and not (self._task and not self._task.done()):
            for directory in quiet:
                del self._quiet_since[directory]
            self._tried_at = now
            self._task = asyncio.get_running_loop().create_task(self._tidy(connection, quiet), name="leftovers")

    def stop(self) -> None:
        """Stop looking: the connection is lost."""
        if self._task:
            self._task.cancel()

    async def _tidy(self, connection: Connection, directories: Iterable[Path]) -> None:
        found = await asyncio.to_thread(_temporaries, directories)
        self._found = await asyncio.to_thread(_after_removal, [*self._found, *found][:MOST])
        by_machine: dict[str, list[str]] = defaultdict(list)
        for path in self._found:
            by_machine[machine_of(Path(path).name)].append(path)
        for machine, paths in by_machine.items():
            if address := self._members.on_machine(machine):
                await connection.run(address, remove_left_here, tuple(map(Path, paths)), self._members.paths)
        self._found = await asyncio.to_thread(_existing, self._found)


def _temporaries(directories: Iterable[Path]) -> list[str]:
    found: list[str] = []
    for directory in directories:
        with contextlib.suppress(OSError):  # it was removed, or its mount is gone
            found += temporaries_in(str(directory))
    return found


def _after_removal(paths: Iterable[str]) -> set[str]:
    remove_left(paths)
    return _existing(paths)


def _existing(paths: Iterable[str]) -> set[str]:
    return {path for path in paths if os.path.lexists(path)}
