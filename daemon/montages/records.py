"""What the journal keeps, as values: montages, faults, outcomes of attempts. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from daemon.montages.states import MontageState
from handlers.errors import Evidence, Fault
from handlers.identity import FileIdentity


class Outcome(StrEnum):
    """How an attempt ended."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    """What it needs is not there yet."""
    STOPPED = "stopped"
    """The daemon was asked to stop."""
    CRASHED = "crashed"
    """The process died in it."""


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault as the journal and the web show it."""

    kind: str
    subject: str
    problem: str
    hint: str

    @classmethod
    def of(cls, fault: Fault) -> Self:
        return cls(type(fault).__name__, fault.subject, fault.problem, fault.hint)

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Montage:
    """One row of the journal: a metafile of one content."""

    id: int
    watch: str
    metafile: Path
    digest: str | None
    identity: FileIdentity
    """What stat said when the file was last noticed."""
    acquired: str
    """File name; sorts by acquisition time."""
    state: MontageState
    failed_in: MontageState | None
    z: float | None
    raw_stack: str | None
    """owner/project/stack."""
    mipmapped_stack: str | None
    tile_count: int | None
    findings: tuple[str, ...]
    fault: FaultRecord | None
    waiting_for: str | None
    attempt: int
    crashes: int
    noticed_at: float
    changed_at: float
    complete_at: float | None

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks it is written to, each once."""
        return tuple(dict.fromkeys(name for name in (self.raw_stack, self.mipmapped_stack) if name))


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling found out about a montage."""

    digest: str
    z: float
    raw_stack: str
    mipmapped_stack: str
    tile_ids: tuple[str, ...]
    findings: tuple[str, ...]


class Overtaken(Exception):  # noqa: N818  handled by looking anew
    """A metafile was noticed anew while it was looked at: what the look found says nothing of what it holds now."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the metafile of a NOTICED montage: what it was about, and what was read."""

    montage_id: int
    noticed: FileIdentity
    """The montage's identity in the journal when the look began."""
    read: FileIdentity | None = None
    """Of the file that was read: it may be newer than the last sighting. None if nothing was read."""
    digest: str | None = None
    """sha256 of what was read."""


@dataclass(frozen=True, slots=True)
class Rival:
    """Another metafile's montage that has to do with one that settles."""

    montage: Montage
    shared: tuple[str, ...]
    """Tile ids that both name for the same stack and z, ascending; a tile belongs to one montage. Empty for one of the
    same content, or of the same file, that has not settled."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """A montage that FAILED, or is IGNORED, because of a file."""

    montage_id: int
    watch: str
    metafile: Path
    evidence: Evidence
    """The file that has to change before it is taken up again."""


@dataclass(frozen=True, slots=True)
class Settling:
    """How the journal took the outcome of a look."""

    kept: int
    """The montage that stands for the content; another than the one looked at if the same content was known before."""
    superseded: tuple[Montage, ...] = ()
    """Montages that go no further, as they were before: contents that are gone from the path, or moved to it."""
    is_known: bool = False
    """The content had settled before: nothing is to be done."""
    rivals: tuple[Rival, ...] = ()
    """What has to be looked at first. If there are any, nothing was recorded."""
