"""Records of the watcher: roots and their health."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from daemon.watching.scan import Follower


class WatchMode(StrEnum):
    """How changes in a root are detected. Scans run in every mode."""

    AUTO = "auto"
    """By events, except on network file systems."""
    EVENTS = "events"
    """By events on any file system, until events prove unreliable."""
    POLL = "poll"
    """By scans only: every directory is listed at every interval."""


class RootStatus(StrEnum):
    """State of a root."""

    OPENING = "opening"
    """Its directory is being accessed for the first time."""
    WATCHING = "watching"
    CATCHING_UP = "catching_up"
    """Watched; metafiles that were present at the start are still being delivered."""
    POLLING = "polling"
    """Events are missing or unreliable: new metafiles are found at the next interval."""
    PAUSED = "paused"
    """Suddenly empty. The daemon draws no conclusion; an operator has to check."""
    UNREACHABLE = "unreachable"
    """Cannot be accessed; retried every interval."""


@dataclass(frozen=True, slots=True)
class WatchRoot:
    """A directory that is watched with everything below it."""

    name: str
    """Name in the configuration; unique."""
    directory: Path
    """Absolute path. It may be a symbolic link; links below it are not followed."""
    pattern: str = "_metadata_*.json"
    """Shell pattern of metafile names, without their directory."""
    follow: Callable[[], Follower] | None = None
    """Makes the follower that finds the sections in files with many sections; None: each file is one metafile."""
    mode: WatchMode = WatchMode.AUTO
    scan_interval_s: float = 60.0
    """Time between two passes over directory mtimes. Each pass lists changed and polled directories."""
    full_scan_interval_s: float = 600.0
    """Time between two passes that list every directory."""


@dataclass(frozen=True, slots=True)
class MountMode:
    """Mode in which a mount of a root is watched now."""

    directory: Path
    file_system: str
    """Type in the kernel's notation: ext4, nfs4, fuse.sshfs."""
    mode: WatchMode
    """EVENTS or POLL."""


class Reason(NamedTuple):
    """A problem of a root."""

    code: str
    """Constant while the problem lasts, so that it is logged once."""
    text: str
    """Text for the operator; its numbers may change."""


@dataclass(frozen=True, slots=True)
class RootHealth:
    """Health of a root now."""

    name: str
    directory: Path
    status: RootStatus
    modes: tuple[MountMode, ...]
    """The mount that contains the root, then the mounts below it; empty before the first scan."""
    reasons: tuple[str, ...]
    """Problems, one sentence each."""
    directories_seen: int
    """Includes the root."""
    directories_watched: int
    """Directories that the kernel watches; 0 if it watches none or that cannot be measured."""
    metafiles_seen: int
    found_by_event: int
    """New or changed metafiles that an event announced."""
    found_only_by_scan: int
    """New or changed metafiles that no event announced. Compare with `found_by_event`: it shows how reliable events
    are."""
    overflows: int
    """Overflows of the kernel's event queue."""
    undelivered: int
    """Sightings that the pipeline has not accepted; each pass delivers them again."""
    last_scan_at: float | None
    """End of the last pass, seconds since 1970 UTC; None before the first."""
    last_scan_s: float | None
    """Duration of the last pass, seconds."""
