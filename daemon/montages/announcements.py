"""Events about montages and stacks for hooks: their kinds and data. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Self

from daemon.montages.records import Montage
from daemon.montages.states import Event
from handlers.text import printable
from handlers.uris import path_to_uri


class Kind(StrEnum):
    """Type of an announced event."""

    MONTAGE_NOTICED = "montage.noticed"
    """A metafile was found, or is read again."""
    MONTAGE_SETTLED = "montage.settled"
    """The metafile is consistent and all its images have arrived."""
    MONTAGE_INGESTED = "montage.ingested"
    """The tile specs are in the raw stack."""
    MONTAGE_MIPMAPPED = "montage.mipmapped"
    """All levels of all tiles are on disk."""
    MONTAGE_APPLIED = "montage.applied"
    """The tile specs in the output stack contain the levels."""
    MONTAGE_COMPLETE = "montage.complete"
    """The stacks are closed, or the watch does not close stacks."""
    MONTAGE_QC = "montage.qc"
    """The verdict on the montage's quality."""
    MONTAGE_FAILED = "montage.failed"
    """The montage waits for a person, or for a change of the file that caused the fault."""
    MONTAGE_REPEATED = "montage.repeated"
    """Steps are repeated: a retry, a replay, changed images, lost files or tiles."""
    MONTAGE_SUPERSEDED = "montage.superseded"
    """Another montage replaces it: its path has a new content, or its metafile was moved or removed."""
    MONTAGE_IGNORED = "montage.ignored"
    """The watch does not ingest this metafile."""
    MONTAGE_DISMISSED = "montage.dismissed"
    """A person decided that nothing is to be done about a FAILED montage."""
    STACK_CLOSED = "stack.closed"
    """The stack is COMPLETE in render-ws."""
    STACK_REOPENED = "stack.reopened"
    """temwatch writes to a closed stack again: from now on it may be LOADING."""


KIND_OF_EVENT: Mapping[Event, Kind] = {
    Event.NOTICED: Kind.MONTAGE_NOTICED,
    Event.RENOTICED: Kind.MONTAGE_NOTICED,
    Event.SETTLED: Kind.MONTAGE_SETTLED,
    Event.INGESTED: Kind.MONTAGE_INGESTED,
    Event.MIPMAPPED: Kind.MONTAGE_MIPMAPPED,
    Event.APPLIED: Kind.MONTAGE_APPLIED,
    Event.COMPLETED: Kind.MONTAGE_COMPLETE,
    Event.FAILED: Kind.MONTAGE_FAILED,
    Event.SUPERSEDED: Kind.MONTAGE_SUPERSEDED,
    Event.IGNORED: Kind.MONTAGE_IGNORED,
    Event.DISMISSED: Kind.MONTAGE_DISMISSED,
    Event.REPLAYED: Kind.MONTAGE_REPEATED,
    Event.RETRIED: Kind.MONTAGE_REPEATED,
    Event.IMAGES_CHANGED: Kind.MONTAGE_REPEATED,
    Event.MIPMAPS_LOST: Kind.MONTAGE_REPEATED,
    Event.TILES_LOST: Kind.MONTAGE_REPEATED,
    Event.JUDGED: Kind.MONTAGE_QC,
    Event.DECIDED: Kind.MONTAGE_QC,
}
"""Kind of each announced event of the journal. REBUILT and SEEN_AGAIN are not announced: no work was done."""


_DOCSTRINGS: Final = {"use_attribute_docstrings": True}
"""The JSON Schema of the data takes its descriptions from the fields' documentation."""


@dataclass(frozen=True, slots=True)
class StackName:
    """Full name of a stack of render-ws."""

    owner: str
    project: str
    stack: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the stack of `owner/project/stack`."""
        return cls(*name.split("/", 2))


@dataclass(frozen=True, slots=True)
class Bounds:
    """A rectangle in stack coordinates, pixels of level 0."""

    min_x: float
    min_y: float
    max_x: float
    max_y: float


@dataclass(frozen=True, slots=True)
class FaultData:
    """Why a montage failed."""

    __pydantic_config__: ClassVar[dict[str, bool]] = _DOCSTRINGS

    kind: str
    """Name of the kind of fault."""
    subject: str
    """The file, stack or tile concerned."""
    problem: str
    hint: str
    """Advice for a person; may be empty."""


@dataclass(frozen=True, slots=True)
class MontageData:
    """The montage, as the event left it."""

    __pydantic_config__: ClassVar[dict[str, bool]] = _DOCSTRINGS

    montage: int
    """Id in the journal, as `temwatch status` and `/api/montages/{id}` show it."""
    watch: str
    """Name of the watch that found the metafile."""
    state: str
    """State after the event."""
    metafile: str
    """Path of the metafile on the machine of temwatch; unprintable characters are escaped."""
    metafile_uri: str
    """The same as a file URI, exact."""
    z: float | None
    """Place of the section in the stack. Null until the metafile is read, like all values up to output_dir."""
    section_id: str | None
    """Section id of the tiles in render-ws. Also null for a montage that settled in an older version."""
    tiles: int | None
    """Number of tiles."""
    bounds: Bounds | None
    """Smallest rectangle around the tiles, before any lens correction. Also null for a montage that settled in an older
    version."""
    raw_stack: StackName | None
    mipmapped_stack: StackName | None
    """Equal to raw_stack if the raw stack is updated in place."""
    output_dir: str | None
    """Directory that contains the mipmaps, on the machine of temwatch."""
    noticed_at: str
    """Time of the first sighting; ISO 8601, UTC. The same form as the following times."""
    changed_at: str
    """When the state last changed."""
    complete_at: str | None
    """Null while the montage is not COMPLETE."""
    verdict: str | None
    """Verdict of quality control: pass, review, fail or re-image; null if there is none."""
    rules: tuple[str, ...]
    """Rules whose limits are broken; empty for all events but montage.qc."""
    decided_by: str | None
    """Person whose decision montage.qc reports; null if the rules gave the verdict, and for all other events."""
    fault: FaultData | None
    """Why it failed; null for all events but montage.failed."""
    reason: str | None
    """Why it was repeated, superseded, ignored or dismissed, or a person's note; null if unknown."""
    superseded_by: int | None
    """Id of the montage that replaces it; null for all events but montage.superseded."""


@dataclass(frozen=True, slots=True)
class StackData:
    """The stack of an event."""

    __pydantic_config__: ClassVar[dict[str, bool]] = _DOCSTRINGS

    stack: StackName
    watch: str
    """Name of the watch that the stack was opened for."""
    sections: tuple[float, ...]
    """z of each montage that waited for this close, ascending; empty for stack.reopened."""
    reason: str | None
    """Why the stack was reopened, if another program had closed it; otherwise null."""


@dataclass(frozen=True, slots=True)
class Announced:
    """An event of the outbox."""

    number: int
    """Ascends in commit order; never used twice in one journal."""
    event_id: str
    """The same in every delivery; unique over all journals."""
    at: float
    """Seconds since 1970 UTC."""
    kind: Kind
    watch: str
    subject: str
    """The montage or stack: montages/17, stacks/em/v1/s_raw."""
    data: Mapping[str, Any]
    """`MontageData` or `StackData` as JSON values."""


def montage_data(montage: Montage, detail: Mapping[str, Any], *, is_superseded: bool = False) -> MontageData:
    """Return the data of an event about a montage.

    Parameters
    ----------
    montage : the montage after the event.
    detail : detail of the event in the journal.
    is_superseded : whether the event is SUPERSEDED; then the detail's `by` is the superseding montage.
    """
    fault = detail.get("fault")
    reason = detail.get("because") or detail.get("reason") or detail.get("note")
    return MontageData(
        montage=montage.id,
        watch=montage.watch,
        state=str(montage.state),
        metafile=printable(montage.metafile),
        metafile_uri=path_to_uri(montage.metafile),
        z=montage.z,
        section_id=montage.section_id,
        tiles=montage.tile_count,
        bounds=Bounds(*montage.bounds) if montage.bounds else None,
        raw_stack=StackName.parse(montage.raw_stack) if montage.raw_stack else None,
        mipmapped_stack=StackName.parse(montage.mipmapped_stack) if montage.mipmapped_stack else None,
        output_dir=printable(montage.output_dir) if montage.output_dir else None,
        noticed_at=utc_text(montage.noticed_at),
        changed_at=utc_text(montage.changed_at),
        complete_at=None if montage.complete_at is None else utc_text(montage.complete_at),
        verdict=montage.verdict,
        rules=tuple(detail.get("rules", ())),
        decided_by=printable(str(detail["by"])) if "decision" in detail else None,
        fault=FaultData(**{key: printable(text) for key, text in fault.items()}) if fault else None,
        reason=printable(str(reason)) if reason else None,
        superseded_by=detail.get("by") if is_superseded else None,
    )


_NAMES: Final[Mapping[type, tuple[str, ...]]] = {
    each: tuple(field.name for field in fields(each)) for each in (MontageData, StackData, StackName, Bounds, FaultData)
}
"""Names of the fields of each record in the data of an event."""


def data_json(data: MontageData | StackData) -> dict[str, Any]:
    """Return the data of an event as JSON values."""
    json: dict[str, Any] = _json(data)
    return json


def _json(value: Any) -> Any:
    """Return a value as JSON values. `asdict` takes six times as long, since it copies values that cannot change."""
    names = _NAMES.get(type(value))
    return value if names is None else {name: _json(getattr(value, name)) for name in names}


def utc_text(seconds: float) -> str:
    """Return a UNIX time as RFC 3339, UTC.

    >>> utc_text(0.25)
    '1970-01-01T00:00:00.250Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
