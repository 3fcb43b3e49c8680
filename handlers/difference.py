"""A difference that a verification found: its kind, its subject, and the step that repairs it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

INGEST: Final = "ingest"
MIPMAPS: Final = "mipmaps"
APPLY: Final = "apply"
REPLAY: Final = "replay it"


class Kind(StrEnum):
    """The kind of a difference."""

    METAFILE_GONE = "metafile_gone"
    METAFILE_CHANGED = "metafile_changed"
    NOT_CHECKED = "not_checked"
    """The file or stack could not be read, so its state is unknown."""
    STACK_MISSING = "stack_missing"
    STACK_STATE = "stack_state"
    PATH_BUILDER = "path_builder"
    TILE_MISSING = "tile_missing"
    TILE_ELSEWHERE = "tile_elsewhere"
    TILE_DIFFERS = "tile_differs"
    """Another size, transform, intensity range or layout than was put."""
    TRANSFORM_DIFFERS = "transform_differs"
    URL_MISSING = "url_missing"
    URL_DIFFERS = "url_differs"
    URL_DEAD = "url_dead"
    LEVEL_MISSING = "level_missing"
    LEVEL_BROKEN = "level_broken"
    SOURCE_GONE = "source_gone"
    SOURCE_CHANGED = "source_changed"


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a COMPLETE montage and the files and stacks as they are now."""

    kind: Kind
    tile_id: str | None
    """None if the difference does not concern a single tile."""
    where: str
    """The file or stack that differs."""
    what: str
    """The problem, with the found and the expected values."""
    hint: str
    """What an operator can do."""
    start: str | None
    """The step from which a replay repairs it: INGEST, MIPMAPS or APPLY; None if no replay repairs it."""
