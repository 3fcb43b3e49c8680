"""A metafile that somebody has found, and what drew attention to it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from handlers.identity import FileIdentity


class FoundBy(StrEnum):
    """What drew attention to a metafile."""

    EVENT = "event"
    SCAN = "scan"
    START = "start"
    """It was there when watching began."""
    REPLAY = "replay"
    """Somebody asked for it."""
    REBUILD = "rebuild"
    """A new journal was made, and it was there."""
    STEP = "step"
    """A step read it, and it held another content than its montage."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A metafile that is new, or whose identity changed. Nothing is known of its content."""

    watch: str
    """Name of the root."""
    path: Path
    identity: FileIdentity
    found_by: FoundBy
