"""Whether the disks that mipmaps are written to can take more: looked at while work goes on, not only before it.

A directory that took mipmaps carries a mark, an empty file. Where the mark is missing later, the directory is not the
same one: its mount is gone, and what were written there would fill the disk below.
"""

import asyncio
import contextlib
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import structlog

from daemon.config.mipmap_settings import MipmapSettings
from daemon.config.settings import Settings
from daemon.config.writable import nearest, refusal
from daemon.journal.journal import Journal
from daemon.pipeline.health import Disk
from daemon.system.threads import in_thread
from handlers.errors import StorageFault, storage_fault
from handlers.text import distinct_byte_sizes

log = structlog.get_logger()

MARK = ".temwatch"
"""Name of the empty file in a directory that took mipmaps."""
BUSY_S = 1.0
"""Between looks while mipmaps are made, or are waited for; the reserve has to last for so long."""
IDLE_S = 10.0
STUCK_S = 10.0
"""A look that takes longer is stuck: the file server does not answer."""
FIRST_LOOK_S = 5.0
"""The start waits no longer for the first look."""


class Halt(asyncio.Event):
    """Set as soon as no further tile is to be begun: the disk cannot take more, or the daemon stops."""

    fault: StorageFault | None = None
    """What was wrong with the disk when it was set first; it may be usable again since. None if the daemon stops."""


class MipmapDisks:
    """The directories that mipmaps are written to, each on its own.

    Parameters
    ----------
    on_change : called when one can take mipmaps again.
    """

    def __init__(self, settings: Callable[[], Settings], journal: Journal, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._journal = journal
        self._on_change = on_change
        self._seen: dict[Path, Disk] = {}
        self._used: set[Path] = set()
        self._looks: dict[Path, asyncio.Future[Disk]] = {}
        self._halts: dict[Path, set[Halt]] = defaultdict(set)
        self._stopping = False
        self.looked = asyncio.Event()
        """Every directory was looked at once, or has not answered."""

    # --- what steps ask

    def is_usable(self, directory: Path) -> bool:
        """Whether mipmaps may be written there, by the last look; True where none was taken yet."""
        disk = self._seen.get(directory)
        return disk is None or not disk.problem

    async def require(self, mipmaps: MipmapSettings) -> None:
        """Returns if mipmaps may be written to the directory now; the first time it is made and marked.

        Raises
        ------
        StorageFault
            If its disk has not the free space that is to be kept, is gone, or cannot be written.
        """
        directory = mipmaps.output_dir
        if not await self._is_used(directory):
            await self._begin_to_use(directory)
        await self._look([(directory, mipmaps.min_free_bytes)])
        self.raise_fault(directory)

    async def require_mark(self, directory: Path) -> None:
        """Returns if the directory is the one that took mipmaps, whatever room it has.

        Raises
        ------
        StorageFault
            If it lacks its mark: its mount is gone, and what lies in its place is hidden once the mount is back.
        """
        if await self._is_used(directory) and not await asyncio.to_thread((directory / MARK).exists):
            raise StorageFault(str(directory), _lacks_its_mark(directory), "work goes on by itself")

    def raise_fault(self, directory: Path) -> None:
        """Raises the StorageFault that the last look at the directory found, if it found one."""
        if not self.is_usable(directory):
            raise _fault(self._seen[directory])

    @contextlib.contextmanager
    def working(self, directory: Path) -> Iterator[Halt]:
        """Yield what tells the work on a directory to begin no further tile."""
        halt = Halt()
        if self._stopping:
            halt.set()
        self._halts[directory].add(halt)
        try:
            yield halt
        finally:
            self._halts[directory].discard(halt)

    def stop(self) -> None:
        """No further tile is begun anywhere."""
        self._stopping = True
        for halt in [halt for halts in self._halts.values() for halt in halts]:
            halt.set()

    # --- looking

    async def run(self) -> None:
        """Looks for as long as the daemon runs."""
        while True:
            wanted = self._wanted()
            self._seen = {directory: disk for directory, disk in self._seen.items() if directory in wanted}
            try:
                await self._look(list(wanted.items()), STUCK_S if self.looked.is_set() else FIRST_LOOK_S)
            except Exception:  # it would end the daemon
                log.exception("disk.bug")
            self.looked.set()
            busy = any(self._halts.values()) or not all(map(self.is_usable, wanted))
            await asyncio.sleep(BUSY_S if busy else IDLE_S)

    def _wanted(self) -> dict[Path, int]:
        """Directories, and the bytes to be kept free there."""
        return {watch.mipmaps.output_dir: watch.mipmaps.min_free_bytes for watch in self._settings().watch}

    def facts(self) -> tuple[Disk, ...]:
        """What the last look found."""
        if not self.looked.is_set():
            problem = "has not been looked at yet"
            return tuple(Disk(str(directory), None, needed, problem) for directory, needed in self._wanted().items())
        return tuple(self._seen.values())

    async def _look(self, wanted: list[tuple[Path, int]], timeout_s: float = STUCK_S) -> None:
        for directory, needed_bytes in wanted:
            if directory not in self._looks:
                used = await self._is_used(directory)
                look = partial(look_at, directory, needed_bytes, used=used)
                self._looks[directory] = in_thread(look, f"look at {directory}")
        looks = {directory: self._looks[directory] for directory, _ in wanted if directory in self._looks}
        if looks:
            await asyncio.wait(looks.values(), timeout=timeout_s)
        for directory, needed_bytes in wanted:
            if directory in looks:
                self._take(directory, needed_bytes, looks[directory])

    def _take(self, directory: Path, needed_bytes: int, look: asyncio.Future[Disk]) -> None:
        if look.done():
            self._looks.pop(directory, None)
            found = look.result()
        else:
            found = Disk(str(directory), None, needed_bytes, "does not answer: see that its file server is up")
        before, self._seen[directory] = self._seen.get(directory), found
        if found.problem:
            for halt in self._halts[directory]:
                halt.fault = halt.fault or _fault(found)
                halt.set()
            if before is None or not before.problem:
                log.warning("disk.unusable", directory=str(directory), problem=found.problem)
        elif before is not None and before.problem:
            log.info("disk.usable", directory=str(directory), free_bytes=found.free_bytes)
            self._on_change()

    # --- the mark

    async def _is_used(self, directory: Path) -> bool:
        if directory not in self._used and await self._journal.is_used_for_mipmaps(directory):
            self._used.add(directory)
        return directory in self._used

    async def _begin_to_use(self, directory: Path) -> None:
        await asyncio.to_thread(_mark, directory)
        await self._journal.use_for_mipmaps(directory)


def _fault(disk: Disk) -> StorageFault:
    return StorageFault(disk.directory, disk.problem, "work goes on by itself")


def _mark(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MARK).touch()
    except OSError as error:
        raise storage_fault(str(directory), "use the mipmap directory", error) from error


def look_at(directory: Path, needed_bytes: int, *, used: bool) -> Disk:
    """What a mipmap directory is like now. May block for as long as its file server likes.

    Parameters
    ----------
    used : whether it took mipmaps before, and so must carry its mark.
    """
    try:
        if used and not (directory / MARK).exists():
            return Disk(str(directory), None, needed_bytes, _lacks_its_mark(directory))
        free_bytes = shutil.disk_usage(nearest(directory)).free
        problem = refusal(directory, used=used) or _shortage(free_bytes, needed_bytes)
    except OSError as error:
        return Disk(str(directory), None, needed_bytes, f"cannot be looked at: {error.strerror or error}")
    return Disk(str(directory), free_bytes, needed_bytes, problem)


def _lacks_its_mark(directory: Path) -> str:
    return (
        f"lacks its mark {MARK}, so it is not the directory that took mipmaps: mount that one, "
        f"or, if this one is meant, touch {directory / MARK}"
    )


def _shortage(free_bytes: int, needed_bytes: int) -> str:
    if free_bytes >= needed_bytes:
        return ""
    free, needed = distinct_byte_sizes(free_bytes, needed_bytes)
    return f"has {free} free, less than the {needed} to be kept: free space there"
