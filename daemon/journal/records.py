"""What the journal keeps, as values: montages, faults, outcomes of attempts. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from daemon.states import MontageState
from handlers.errors import Fault
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


@dataclass(frozen=True, slots=True)
class Settling:
    """How the journal took a settled metafile."""

    kept: int
    """The montage that goes on; another than the one that settled if the same content was known already."""
    superseded: tuple[int, ...]
    """Montages of the same path with other content, which go no further."""
