"""Output disks: check before and during the work whether mipmaps can be written to their directories.

A directory to which mipmaps were written has a marker file. If it is missing later, the mount is gone: writing would
fill the parent disk.
"""

import asyncio
import contextlib
import os
import shutil
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from daemon.config.mipmap_settings import MipmapSettings
from daemon.config.settings import Settings
from daemon.config.writable import nearest_existing, write_problem
from daemon.journal.journal import Journal
from daemon.pipeline.gates.disk_forecast import DiskForecast
from daemon.pipeline.gates.output_stores import (
    MARKER,
    check_store,
    has_object_marker,
    mark_store,
    require_object_marker,
)
from daemon.pipeline.health import Disk
from daemon.system.threads import in_thread
from handlers.errors import StorageFault, StoreFault, reading_hint, storage_fault
from handlers.place import ObjectPlace, Place
from handlers.sharing import Sharing, make_directories
from handlers.text import distinct_byte_sizes

log = structlog.get_logger()

BUSY_S = 1.0
"""Interval of checks while mipmaps are made or wait for a disk. `min_free_bytes` must suffice for this time."""
IDLE_S = 10.0
"""Interval of checks otherwise."""
STUCK_S = 10.0
"""A check that takes longer is stuck: the file server does not answer."""
FIRST_CHECK_S = 5.0
"""Longest wait of the start for the first check."""
RESUMES_HINT = "work resumes automatically"


class Halt(asyncio.Event):
    """Set when no further tile may start: the disk cannot be used, or the daemon stops."""

    fault: StorageFault | None = None
    """First fault of the disk, which may be usable again. None if the daemon stops."""


class OutputDisks:
    """The output directories of all watches, each checked independently.

    Parameters
    ----------
    on_usable : called when a directory can be written again.
    """

    def __init__(self, settings: Callable[[], Settings], journal: Journal, on_usable: Callable[[], None]) -> None:
        self._settings = settings
        self._journal = journal
        self._on_usable = on_usable
        self._found: dict[Place, Disk] = {}
        self._forecasts: dict[Place, DiskForecast] = defaultdict(DiskForecast)
        self._used: set[Place] = set()
        self._checks: dict[Place, asyncio.Future[Disk]] = {}
        self._outdated: weakref.WeakSet[asyncio.Future[Disk]] = weakref.WeakSet()
        """Checks that began before a tile's fault showed that a store cannot be written. Their results are ignored."""
        self._halts: dict[Place, set[Halt]] = defaultdict(set)
        self._stopping = False
        self.checked = asyncio.Event()
        """Set when the first check of every directory has ended or timed out."""

    # --- for the steps

    def is_usable(self, directory: Place) -> bool:
        """Whether mipmaps may be written there according to the last check; True before the first one."""
        disk = self._found.get(directory)
        return disk is None or not disk.problem

    async def require(self, mipmaps: MipmapSettings) -> None:
        """Check that mipmaps may be written to the directory. The first time, create it and its marker.

        Raises
        ------
        StorageFault
            If the directory is missing or cannot be written, or its disk has less than `min_free_bytes` free.
        """
        directory = mipmaps.output_dir
        if not await self._is_used(directory):
            await self._begin_to_use(directory, mipmaps.sharing())
        await self._check([(directory, _needed_bytes(mipmaps))])
        self.raise_fault(directory)

    async def require_marker(self, directory: Place) -> None:
        """Check that the directory is the one to which mipmaps were written. Its free space does not matter.

        Raises
        ------
        StorageFault
            If its marker is missing.
        """
        if not await self._is_used(directory):
            return
        if isinstance(directory, ObjectPlace):
            await asyncio.to_thread(require_object_marker, directory)
        elif not await asyncio.to_thread(_has_marker, directory):
            raise StorageFault(str(directory), _marker_missing(directory), RESUMES_HINT)

    def raise_fault(self, directory: Place) -> None:
        """Raise the StorageFault of the directory's last check, if there is one."""
        if not self.is_usable(directory):
            raise _fault(self._found[directory])

    @contextlib.contextmanager
    def halt_of(self, directory: Place) -> Iterator[Halt]:
        """Yield an event that is set when no further tile may start in the directory."""
        halt = Halt()
        if self._stopping:
            halt.set()
        self._halts[directory].add(halt)
        try:
            yield halt
        finally:
            self._halts[directory].discard(halt)

    def stop(self) -> None:
        """Start no further tile in any directory."""
        self._stopping = True
        for halt in [halt for halts in self._halts.values() for halt in halts]:
            halt.set()

    # --- checks

    async def run(self) -> None:
        """Check all directories regularly, until cancelled."""
        while True:
            wanted = self._wanted()
            self._found = {directory: disk for directory, disk in self._found.items() if directory in wanted}
            try:
                await self._check(list(wanted.items()), STUCK_S if self.checked.is_set() else FIRST_CHECK_S)
            except Exception:  # it would end the daemon
                log.exception("disk.bug")
            self.checked.set()
            busy = any(self._halts.values()) or not all(map(self.is_usable, wanted))
            await asyncio.sleep(BUSY_S if busy else IDLE_S)

    def _wanted(self) -> dict[Place, int]:
        """Return directory -> bytes to keep free."""
        return {watch.mipmaps.output_dir: _needed_bytes(watch.mipmaps) for watch in self._settings().watch}

    def facts(self) -> tuple[Disk, ...]:
        """Return the results of the last check."""
        writers: dict[Place, list[str]] = defaultdict(list)
        for watch in self._settings().watch:
            writers[watch.mipmaps.output_dir].append(watch.name)
        found = self._found
        if not self.checked.is_set():
            problem = "has not been checked yet"
            found = {place: Disk(str(place), None, needed, problem) for place, needed in self._wanted().items()}
        return tuple(replace(disk, watches=tuple(writers[place])) for place, disk in found.items())

    async def _check(self, wanted: list[tuple[Place, int]], timeout_s: float = STUCK_S) -> None:
        for directory, needed_bytes in wanted:
            if directory not in self._checks:
                used = await self._is_used(directory)
                check = partial(self._checker(directory), directory, needed_bytes, used=used)
                self._checks[directory] = in_thread(check, f"check {directory}")
        checks = {directory: self._checks[directory] for directory, _ in wanted if directory in self._checks}
        if checks:
            await asyncio.wait(checks.values(), timeout=timeout_s)
        for directory, needed_bytes in wanted:
            if directory in checks:
                self._adopt(directory, needed_bytes, checks[directory])

    def _checker(self, directory: Place) -> Callable[..., Disk]:
        """Return the function that checks a directory. A store that failed has to prove that it can be written."""
        if isinstance(directory, ObjectPlace):
            return partial(check_store, is_tried=not self.is_usable(directory))
        return check_directory

    def suspect(self, directory: Place, fault: StoreFault) -> None:
        """Halt the work in an object store after the fault of a tile, until a check proves that it can be used."""
        if (check := self._checks.pop(directory, None)) is not None:
            self._outdated.add(check)  # it may only have read
        problem = f"cannot be used: {fault.problem} ({fault.hint})"
        self._keep(directory, Disk(str(directory), None, 0, problem))

    def _adopt(self, directory: Place, needed_bytes: int, check: asyncio.Future[Disk]) -> None:
        """Keep the result of a check; halt the work if the directory cannot be used."""
        if check in self._outdated:
            return
        if check.done():
            self._checks.pop(directory, None)
            found = self._with_forecast(directory, check.result())
        else:
            server = "the store" if isinstance(directory, ObjectPlace) else "its file server"
            found = Disk(str(directory), None, needed_bytes, f"does not answer: check {server}")
        self._keep(directory, found)

    def _keep(self, directory: Place, found: Disk) -> None:
        before, self._found[directory] = self._found.get(directory), found
        if found.problem:
            for halt in self._halts[directory]:
                halt.fault = halt.fault or _fault(found)
                halt.set()
            if before is None or not before.problem:
                log.warning("disk.unusable", directory=str(directory), problem=found.problem)
        elif before is not None and before.problem:
            log.info("disk.usable", directory=str(directory), free_bytes=found.free_bytes)
            self._on_usable()

    def _with_forecast(self, directory: Place, disk: Disk) -> Disk:
        if disk.free_bytes is None:
            return disk
        forecast = self._forecasts[directory]
        forecast.note(time.monotonic(), disk.free_bytes)
        return replace(disk, full_in_s=forecast.full_in_s(disk.needed_bytes))

    # --- the marker

    async def _is_used(self, directory: Place) -> bool:
        if directory not in self._used and await self._journal.is_used_for_mipmaps(directory):
            self._used.add(directory)
        return directory in self._used

    async def _begin_to_use(self, directory: Place, sharing: Sharing) -> None:
        try:
            await asyncio.to_thread(_mark, directory, sharing)
        except StoreFault as fault:
            self.suspect(directory, fault)
            raise
        await self._journal.use_for_mipmaps(directory)


def _needed_bytes(mipmaps: MipmapSettings) -> int:
    """Return the bytes to keep free; 0 for an object store, which does not report free space."""
    return 0 if isinstance(mipmaps.output_dir, ObjectPlace) else mipmaps.min_free_bytes


def _fault(disk: Disk) -> StorageFault:
    return StorageFault(disk.directory, disk.problem, RESUMES_HINT)


def _mark(directory: Place, sharing: Sharing) -> None:
    if isinstance(directory, ObjectPlace):
        mark_store(directory)
        return
    try:
        make_directories(directory, sharing)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        os.close(os.open(directory / MARKER, flags, 0o644))
    except OSError as error:
        raise storage_fault(str(directory), "use the mipmap directory", error) from error


def check_directory(directory: Path, needed_bytes: int, *, used: bool) -> Disk:
    """Return the state of an output directory. Blocks as long as its file server does not answer.

    Parameters
    ----------
    used : whether mipmaps were written to it before; then it must have the marker file.
    """
    try:
        if used and not _has_marker(directory):
            return Disk(str(directory), None, needed_bytes, _marker_missing(directory))
        free_bytes = shutil.disk_usage(nearest_existing(directory)).free
        problem = write_problem(directory, used=used) or shortage(free_bytes, needed_bytes)
    except OSError as error:
        return Disk(
            str(directory), None, needed_bytes, f"cannot be accessed: {error.strerror or error} ({reading_hint(error)})"
        )
    return Disk(str(directory), free_bytes, needed_bytes, problem)


def directory_identity(directory: Path) -> tuple[int, int] | None:
    """Return device and inode of a local directory; None if there is none, or it cannot be accessed. Blocking."""
    try:
        status = directory.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def replaced_fault(directory: Place) -> StorageFault:
    """Return the fault of a directory that another one has replaced while mipmaps were written."""
    return StorageFault(
        str(directory),
        "was mounted, unmounted or replaced while mipmaps were written: they are made again",
        RESUMES_HINT,
    )


def was_used_for_mipmaps(directory: Place) -> bool:
    """Whether a directory or store has the marker of former mipmaps. Raises StoreFault. Blocking."""
    return has_object_marker(directory) if isinstance(directory, ObjectPlace) else _has_marker(directory)


def _has_marker(directory: Path) -> bool:
    """Whether the marker exists as a file. A link does not count, since it may point anywhere."""
    marker = directory / MARKER
    return marker.exists() and not marker.is_symlink()


def _marker_missing(directory: Place) -> str:
    return (
        f"lacks the marker file {MARKER}, so its mount is probably gone: mount it; "
        f"if this directory is the right one, touch {directory / MARKER}"
    )


def shortage(free_bytes: int, needed_bytes: int) -> str:
    """Return why a disk is too full for mipmaps; empty if it is not."""
    if free_bytes >= needed_bytes:
        return ""
    free, needed = distinct_byte_sizes(free_bytes, needed_bytes)
    return f"has {free} free, but min_free_bytes is {needed}: free space there"
