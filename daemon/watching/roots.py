"""Records of the watcher: the roots, and their health."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from daemon.watching.scan import Follower


class WatchMode(StrEnum):
    """Way in which changes of a root are noticed. Scans run in every mode."""

    AUTO = "auto"
    """By events, except on network file systems."""
    EVENTS = "events"
    """By events on any file system, until events prove unreliable."""
    POLL = "poll"
    """By scans alone: every directory is listed at every interval."""


class RootStatus(StrEnum):
    """State of a root."""

    OPENING = "opening"
    """Its directory is accessed for the first time; nothing is known of it yet."""
    WATCHING = "watching"
    CATCHING_UP = "catching_up"
    """Watched; the metafiles that were there at the start are still being handed over."""
    POLLING = "polling"
    """No events, or unreliable ones: new metafiles are found at the next interval."""
    PAUSED = "paused"
    """Suddenly empty. Nothing is concluded from that; a person has to check."""
    UNREACHABLE = "unreachable"
    """Cannot be accessed; retried every interval."""


@dataclass(frozen=True, slots=True)
class WatchRoot:
    """A directory that is watched with everything below it."""

    name: str
    """Name in the configuration; unique."""
    directory: Path
    """Absolute. May be a symbolic link; those below it are not followed."""
    pattern: str = "_metadata_*.json"
    """Shell pattern of metafile names, without their directory."""
    follow: Callable[[], Follower] | None = None
    """Makes what finds the sections in files that hold many; None: each file is one metafile."""
    mode: WatchMode = WatchMode.AUTO
    scan_interval_s: float = 60.0
    """From one pass over directory mtimes to the next; each lists the polled directories."""
    full_scan_interval_s: float = 600.0
    """From one pass that lists every directory to the next."""


@dataclass(frozen=True, slots=True)
class MountMode:
    """Mode in which a mount of a root is watched now."""

    directory: Path
    file_system: str
    """Type as the kernel names it."""
    mode: WatchMode
    """EVENTS or POLL."""


class Reason(NamedTuple):
    """A problem of a root."""

    code: str
    """Stays the same while the problem lasts, so that it is logged once."""
    text: str
    """Text for people; its numbers may change."""


@dataclass(frozen=True, slots=True)
class RootHealth:
    """Health of a root now."""

    name: str
    directory: Path
    status: RootStatus
    modes: tuple[MountMode, ...]
    """The mount that the root lies on, then the mounts below it; empty before the first scan."""
    reasons: tuple[str, ...]
    """Problems, one sentence each."""
    directories_seen: int
    """Includes the root."""
    directories_watched: int
    """Directories that the kernel watches; 0 where it does not, or where that cannot be measured."""
    metafiles_seen: int
    found_by_event: int
    """New or changed metafiles that an event announced."""
    found_only_by_scan: int
    """New or changed metafiles that no event announced. With `found_by_event` it shows how reliable events are."""
    overflows: int
    """Overflows of the kernel's event queue."""
    undelivered: int
    """Sightings that the pipeline did not take; offered again at each pass."""
    last_scan_at: float | None
    """End of the last pass, UNIX time; None before the first."""
    last_scan_s: float | None
    """Duration of the last pass."""
