"""Sighting of a metafile: its path, its identity, and how it was found."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from handlers.identity import FileIdentity


class FoundBy(StrEnum):
    """Way in which a metafile was found."""

    EVENT = "event"
    SCAN = "scan"
    START = "start"
    """It was present when the watch was opened."""
    REPLAY = "replay"
    """An operator requested it with `temwatch replay`."""
    REBUILD = "rebuild"
    """It was present when a journal was rebuilt."""
    STEP = "step"
    """A step read it and found a content that is not that of its montage."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A metafile that is new, or whose identity changed. Its content has not been read."""

    watch: str
    """Name of the watch."""
    path: Path
    identity: FileIdentity
    found_by: FoundBy
