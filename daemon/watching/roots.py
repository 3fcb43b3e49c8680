"""What is watched, what is seen, and what is told about it: the records of the watcher."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class WatchMode(StrEnum):
    """Where news of a root comes from. Scans decide in each of them."""

    AUTO = "auto"
    """Events, but on network file systems."""
    EVENTS = "events"
    """Events on any file system, until they prove wrong."""
    POLL = "poll"
    """Scans by name at every interval."""


class RootStatus(StrEnum):
    """How a root is doing."""

    OPENING = "opening"
    """Asked for its directory for the first time; nothing is known of it yet."""
    WATCHING = "watching"
    CATCHING_UP = "catching_up"
    """Watched, and what was there before is still being handed over."""
    POLLING = "polling"
    """No events, or none that can be believed: new metafiles are found at the next interval."""
    PAUSED = "paused"
    """Suddenly empty. Absence means nothing; somebody has to look."""
    UNREACHABLE = "unreachable"
    """Could not be looked at; tried again every interval."""


@dataclass(frozen=True, slots=True)
class WatchRoot:
    """A directory to watch, with everything below it."""

    name: str
    """What the configuration calls it; unique."""
    directory: Path
    """Absolute. May be a symbolic link; those below it are not followed."""
    pattern: str = "_metadata_*.json"
    """Shell pattern of metafile names, without their directory."""
    ignore: tuple[str, ...] = ()
    """Shell patterns of names to leave out."""
    mode: WatchMode = WatchMode.AUTO
    scan_interval_s: float = 60.0
    """From one pass over directory mtimes to the next; polled directories are listed then."""
    full_scan_interval_s: float = 600.0
    """From one pass that lists every directory to the next."""


@dataclass(frozen=True, slots=True)
class MountMode:
    """How one mount of a root is watched now."""

    directory: Path
    file_system: str
    """As the kernel names it."""
    mode: WatchMode
    """EVENTS or POLL."""


class Reason(NamedTuple):
    """Something wrong with a root."""

    code: str
    """Same while the same thing is wrong; what is logged once."""
    text: str
    """For people; numbers in it may change."""


@dataclass(frozen=True, slots=True)
class RootHealth:
    """Everything there is to tell about a root now."""

    name: str
    directory: Path
    status: RootStatus
    modes: tuple[MountMode, ...]
    """The mount that the root lies on, then those below it; empty before the first look."""
    reasons: tuple[str, ...]
    """What is wrong, one sentence each; empty if nothing is."""
    directories_seen: int
    """The root among them."""
    directories_watched: int
    """By the kernel, for events; 0 where it is not asked to or where that cannot be measured."""
    metafiles_seen: int
    found_by_event: int
    """Metafiles, new or changed, that an event announced."""
    found_only_by_scan: int
    """Those that none did. Beside `found_by_event` this measures how much events lie here."""
    overflows: int
    """Times that the kernel's event queue overflowed."""
    undelivered: int
    """Sightings that could not be handed over; tried again at each pass."""
    last_scan_at: float | None
    """End of the last pass, UNIX time; None before the first."""
    last_scan_s: float | None
    """How long it took."""
    scan_running_s: float | None
    """Age of the pass under way, if there is one."""
    scan_directories: int
    """Directories looked at, ever; moves while a pass does."""
