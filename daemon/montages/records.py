"""Records of the journal as values: montages, faults, outcomes of attempts, results of settling. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from daemon.montages.states import MontageState
from handlers.errors import Evidence, Fault
from handlers.identity import FileIdentity


class Outcome(StrEnum):
    """Outcome of an attempt."""

    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    """A precondition is missing: a file, or mipmaps that were deleted."""
    STOPPED = "stopped"
    """The daemon stopped, or the montage was superseded or replayed during the step."""
    CRASHED = "crashed"
    """The process died during the attempt."""


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """A fault as the journal stores it and the web shows it."""

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
    """One row of the journal: a metafile with one content."""

    id: int
    watch: str
    metafile: Path
    digest: str | None
    identity: FileIdentity
    """Identity of the file when it was last noticed."""
    acquired: str
    """Name of the metafile; sorts by acquisition time."""
    state: MontageState
    failed_in: MontageState | None
    """State in which it failed; None if it has not failed. A COMPLETE montage keeps COMPLETE here when dismissed."""
    z: float | None
    """Place of the section in the stack; None until it settles, like the following values up to tile_count."""
    raw_stack: str | None
    """owner/project/stack."""
    mipmapped_stack: str | None
    tile_count: int | None
    findings: tuple[str, ...]
    """Warnings from the metafile's check, and changes of images, one sentence each."""
    fault: FaultRecord | None
    """Fault of the last attempt, while the montage is FAILED or waits for a retry."""
    waiting_for: str | None
    """What it waits for although nothing failed, or why it was ignored or dismissed; one sentence."""
    attempt: int
    """Number of attempts at the present step, including a running one."""
    crashes: int
    """Number of attempts at the present step during which the process died, since its last progress."""
    noticed_at: float
    """Seconds since 1970 UTC, like the following times."""
    changed_at: float
    """When the state last changed."""
    complete_at: float | None
    """When it became COMPLETE; None in other states."""
    section_id: str | None = None
    """Section id of the tiles; None until it settles, and for a montage that settled in an older version."""
    bounds: tuple[float, float, float, float] | None = None
    """Smallest x and y, largest x and y of the tiles in stack coordinates, pixels. None as for section_id."""
    output_dir: str | None = None
    """Directory of the mipmaps. None as for section_id."""
    scope: str | None = None
    """Name of the microscope in the header; None until the header is read, and if it has none."""
    tape: str | None = None
    """Name of the tape in the header; None as for scope."""
    verdict: str | None = None
    """Effective verdict on its quality: pass, review, fail or re-image; None until there is one."""

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks that the montage is written to, without duplicates."""
        return tuple(dict.fromkeys(name for name in (self.raw_stack, self.mipmapped_stack) if name))


@dataclass(frozen=True, slots=True)
class Settled:
    """Values of a montage that settling derives from its metafile."""

    digest: str
    z: float
    raw_stack: str
    mipmapped_stack: str
    tile_ids: tuple[str, ...]
    findings: tuple[str, ...]
    raw_fields: str | None = None
    """Header fields in the name of the raw stack, with their values, as JSON; None if the name contains none."""
    mipmapped_fields: str | None = None
    """The same for the mipmapped stack."""
    section_id: str | None = None
    bounds: tuple[float, float, float, float] | None = None
    output_dir: str | None = None
    """This and the two fields above: see `Montage`."""
    scope: str | None = None
    """Name of the microscope in the header."""
    tape: str | None = None
    """Name of the tape in the header."""


class StaleInspection(Exception):  # noqa: N818  not an error: the metafile is inspected again
    """The metafile was noticed again during its inspection, so the result is about a former content."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One inspection of the metafile of a NOTICED montage: which identity was expected, which content was read."""

    montage_id: int
    noticed: FileIdentity
    """Identity of the metafile in the journal when the inspection began."""
    read: FileIdentity | None = None
    """Identity of the file that was read; it may be newer than `noticed`. None if nothing was read."""
    digest: str | None = None
    """SHA-256 of the content that was read."""
    events_before: int | None = None
    """Number of the last event before other montages were compared with this one; None if none are compared."""


@dataclass(frozen=True, slots=True)
class Rival:
    """The montage of another metafile that has tiles, content or the file itself in common with a settling montage."""

    montage: Montage
    shared: tuple[str, ...]
    """Tile ids that both metafiles have in the same stack and z, ascending. Empty for a rival that has the same
    content, is the same file, or is another acquisition of the same slice."""


@dataclass(frozen=True, slots=True)
class Namesake:
    """A montage in the same stack although its header has another value in a field of the stack's name."""

    montage: Montage
    stack: str
    field: str
    own_value: str
    other_value: str


@dataclass(frozen=True, slots=True)
class AwaitedFile:
    """A file that has to change before a FAILED or IGNORED montage is retried."""

    montage_id: int
    watch: str
    metafile: Path
    evidence: Evidence
    """The file with its identity when the montage failed or was ignored."""


@dataclass(frozen=True, slots=True)
class SettleResult:
    """Result of recording an inspection in the journal."""

    kept: int
    """Id of the montage that represents the content. It is not the inspected montage if the content was known."""
    superseded: tuple[Montage, ...] = ()
    """Superseded montages as they were before: their content is gone from the path, or was moved to it."""
    is_known: bool = False
    """Whether the content had settled before, so that no work follows."""
    rivals: tuple[Rival, ...] = ()
    """Montages whose metafiles have to be inspected first. If there are any, nothing was recorded."""
    namesake: Namesake | None = None
    """Montage of the same stack with other header values. If there is one, nothing was recorded."""
