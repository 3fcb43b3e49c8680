"""Temporary files that dead workers left. Each directory is searched for them when no job writes there any more.

Only a process of the same machine can know that a writer is dead. So a worker of that machine removes the file; if
there is none, the age of the file decides. Directories that have to be searched are kept over a restart of the daemon.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from handlers.mipmaps.job import MipmapJob
from handlers.stores.temporary import machine_of, remove_left, temporaries_in
from handlers.workers.cluster.connection import Connection
from handlers.workers.cluster.members import Members
from handlers.workers.cluster.on_worker import remove_left_here
from handlers.workers.cluster.spare_thread import in_spare_thread
from handlers.workers.cluster.written_directories import Visited

QUIET_S = 2.0
"""Time without a job after which a directory is searched."""
RETRY_S = 15.0
"""Pause between searches of a directory that still holds temporary files, or that cannot be listed."""
MISSING_S = 3600.0
"""A directory that is missing for longer counts as deleted; until then its mount may come back."""
MAX_PATHS = 4096
"""Most directories that are remembered, and most files that are removed at a time."""


def directories_of(job: Any) -> frozenset[Path]:
    """Return the directories of this machine in which a job writes files."""
    if not isinstance(job, MipmapJob):
        return frozenset()
    written = [place for _, place in job.outputs] + ([job.level0] if job.stack else [])
    return frozenset(place.parent for place in written if isinstance(place, Path))


class Leftovers:
    """Temporary files that workers left. All methods run in the executor's event loop.

    Parameters
    ----------
    visited : keeps the directories over a restart.
    """

    def __init__(self, members: Members, visited: Visited) -> None:
        self._members = members
        self._visited = visited
        self._in_use: Counter[Path] = Counter()
        self._quiet_since: dict[Path, float] = dict.fromkeys(visited.read(), time.monotonic())
        self._missing_since: dict[Path, float] = {}
        self._waiting: set[Path] = set()
        """Directories without jobs that were searched and must be searched again."""
        self._tried_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def begin(self, directories: Iterable[Path]) -> None:
        """Note that a job may write in these directories."""
        for directory in directories:
            self._in_use[directory] += 1
            self._forget(directory)

    def end(self, directories: Iterable[Path]) -> None:
        """Note that the job has ended."""
        for directory in directories:
            self._in_use[directory] -= 1
            if not self._in_use[directory]:
                del self._in_use[directory]
                self._quiet_since[directory] = time.monotonic()
        while len(self._quiet_since) > MAX_PATHS:
            self._forget(next(iter(self._quiet_since)))

    def look(self, connection: Connection) -> None:
        """Start to search directories without jobs, also those to be searched again. Does not wait for the end."""
        if self._task and not self._task.done():
            return
        now = time.monotonic()
        is_due = now - self._tried_at > RETRY_S
        if is_due:
            self._tried_at = now
        quiet = {
            directory: since
            for directory, since in self._quiet_since.items()
            if now - since > QUIET_S and (is_due or directory not in self._waiting)
        }
        self._task = asyncio.get_running_loop().create_task(self._tidy(connection, quiet), name="leftovers")

    def stop(self) -> None:
        """Stop searching, because the connection is lost."""
        if self._task:
            self._task.cancel()

    def _forget(self, directory: Path) -> None:
        self._quiet_since.pop(directory, None)
        self._missing_since.pop(directory, None)
        self._waiting.discard(directory)

    async def _tidy(self, connection: Connection, quiet: Mapping[Path, float]) -> None:
        await self._keep()
        if not quiet:
            return
        found = await in_spare_thread(_left_in, quiet)
        if left := [path for paths in found.values() if paths for path in paths][:MAX_PATHS]:
            await self._remove_on_workers(connection, left)
            found |= await in_spare_thread(_left_in, [directory for directory, paths in found.items() if paths])
        for directory, paths in found.items():
            if self._quiet_since.get(directory) == quiet[directory]:  # no job began meanwhile
                self._conclude(directory, paths)
        await self._keep()

    async def _keep(self) -> None:
        await in_spare_thread(self._visited.keep, [*self._in_use, *self._quiet_since])

    async def _remove_on_workers(self, connection: Connection, files: Iterable[Path]) -> None:
        by_machine: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            by_machine[machine_of(path.name)].append(path)
        for machine, paths in by_machine.items():
            if address := self._members.on_machine(machine):
                await connection.run(address, remove_left_here, tuple(paths), self._members.paths)

    def _conclude(self, directory: Path, left: list[Path] | None) -> None:
        """Forget a directory without temporary files; search any other one again."""
        now = time.monotonic()
        if left is not None:
            self._missing_since.pop(directory, None)
        is_missing = left is None and now - self._missing_since.setdefault(directory, now) < MISSING_S
        if left or is_missing:
            self._waiting.add(directory)
        else:
            self._forget(directory)


def _left_in(directories: Iterable[Path]) -> dict[Path, list[Path] | None]:
    """Return the temporary files left in each directory after removal by this machine; None: it cannot be listed."""
    return {directory: _left(directory) for directory in directories}


def _left(directory: Path) -> list[Path] | None:
    try:
        if found := temporaries_in(str(directory)):
            remove_left(found)
            found = temporaries_in(str(directory))
        return list(map(Path, found))
    except OSError:
        return None
