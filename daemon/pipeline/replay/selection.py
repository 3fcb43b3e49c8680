"""Select montages, and plan the action of a replay on each. Pure: no file or journal.

The commands `replay`, `verify`, `manifest` and `quality` and `POST /api/replay` use the same selection.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED, MontageState, Step, replay_start
from handlers.identity import FileIdentity

MAX_PATHS = 5_000
"""Largest number of paths in one selection."""

_MAGIC = re.compile(r"[*?\[]")
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_since(text: str, now: datetime) -> datetime:
    """Return the time of a text: "2h" or "3d" before now, an ISO 8601 date, or a date with a time.

    A time without a zone is in the zone of `now`; a date means its midnight. Raises ValueError for any other text, and
    for a time in the future.

    >>> from datetime import UTC
    >>> noon = datetime(2026, 7, 2, 12, tzinfo=UTC)
    >>> parse_since("36h", noon).isoformat(), parse_since("2026-07-01", noon).isoformat()
    ('2026-07-01T00:00:00+00:00', '2026-07-01T00:00:00+00:00')
    """
    try:
        if ago := _AGO.fullmatch(text.strip()):
            return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        moment = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time: expected 2h or 3d (before now), a date such as 2026-07-01, or 2026-07-01T18:30, "
            "in local time unless a zone follows, as in 2026-07-01T18:30+02:00"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=now.tzinfo)
    if moment > now:
        raise ValueError(f"{text!r} is in the future: it is {now.isoformat(timespec='seconds')} now")
    return moment


def _absolute(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not an absolute path")
    return text


def _since(text: str) -> str:
    parse_since(text, datetime.now().astimezone())
    return text


Finite = Annotated[float, Field(allow_inf_nan=False)]


class Selection(BaseModel):
    """Montages by path, z, state and time. All given fields must match; one of several paths or z is sufficient."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    paths: tuple[Annotated[str, AfterValidator(_absolute)], ...] = Field((), max_length=MAX_PATHS)
    """Metafiles, directories (with all metafiles below them) and globs; absolute paths."""
    z: tuple[Finite, ...] = Field((), max_length=MAX_PATHS)
    state: Literal["failed", "complete", "dismissed", "all"] | None = None
    """all: every state except SUPERSEDED, IGNORED and DISMISSED. None: FAILED, and directly given metafiles in any
    state."""
    since: Annotated[str, AfterValidator(_since)] | None = None
    """Montages that changed state since then, and unknown metafiles that were written since then."""


class ReplayRequest(Selection):
    """A selection and how to replay it: the body of `POST /api/replay`."""

    start: Literal["ingest", "mipmaps", "apply"] = Field("ingest", alias="from")
    """The first step that is repeated."""
    dry_run: bool = False
    """Whether the planned actions are reported only."""

    @property
    def step(self) -> Step:
        """The first step that is repeated."""
        return Step(self.start)


@dataclass(frozen=True, slots=True)
class Place:
    """One path of a selection, with symbolic links resolved."""

    path: str
    """A metafile, a directory, or a glob."""
    is_glob: bool

    def covers(self, path: str) -> bool:
        """Whether this place is the path or a directory above it, or a glob that matches one of them.

        In a glob, `*` and `?` match within a name, and `**` matches any number of directories.

        >>> Place("/data/*/2017*", True).covers("/data/temca2/20170502/_metadata_1.json")
        True
        >>> Place("/data/a", False).covers("/data/ab/x.json"), Place("/d/**/x.json", True).covers("/d/x.json")
        (False, True)
        """
        if not self.is_glob:
            return path == self.path or path.startswith(self.path.rstrip("/") + "/")
        parts = Path(self.path).parts
        reached = _past_stars(parts, {0})
        for name in Path(path).parts:
            if len(parts) in reached:
                return True
            reached = _past_stars(parts, {each for at in reached for each in _following(parts, at, name)})
        return len(parts) in reached

    @property
    def stem(self) -> str:
        """The path, or the part of a glob before the first wildcard."""
        if not self.is_glob:
            return self.path
        parts = Path(self.path).parts
        first = next(index for index, part in enumerate(parts) if _MAGIC.search(part))
        return str(Path(*parts[:first]))


def is_glob(text: str) -> bool:
    """Whether a text contains a wildcard."""
    return bool(_MAGIC.search(text))


def _following(parts: Sequence[str], at: int, name: str) -> Iterable[int]:
    if at < len(parts):
        if parts[at] == "**":
            yield at
        elif fnmatchcase(name, parts[at]):
            yield at + 1


def _past_stars(parts: Sequence[str], reached: set[int]) -> set[int]:
    """Add the position after each `**`, which may match no directory at all."""
    found = set(reached)
    for at in sorted(reached):
        while at < len(parts) and parts[at] == "**":
            at += 1  # noqa: PLW2901
            found.add(at)
    return found


class Action(StrEnum):
    """Action of a replay on a montage."""

    REPLAY = "replay"
    """Its steps are repeated."""
    NOTICE = "notice"
    """Its metafile is noticed as if the watcher had found it now."""
    WAIT = "wait"
    """It is unfinished: the command waits until it has ended."""
    REFUSE = "refuse"
    """It cannot be replayed; the note gives the reason."""


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A metafile on disk."""

    identity: FileIdentity
    digest: str | None
    """None if the file was not read."""
    z: float | None = None
    """z of the content, if z is selected and the journal does not know the file."""
    unreadable: str = ""
    """Why the file could not be read; empty if it could."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A metafile that a selection may match, with its rows in the journal and its file."""

    watch: str
    metafile: Path
    known: tuple[Montage, ...]
    """Its montages in the journal; the content that was sighted last is first."""
    on_disk: OnDisk | None
    """None if the file is gone."""
    named: bool
    """Whether the selection has the metafile's own path, not a directory or a glob."""
    ignored_by: str | None = None
    """Pattern of the watch's `ignore` that matches its name; None if there is none."""

    @property
    def current(self) -> Montage | None:
        """The NOTICED montage, otherwise that of the file's present content, otherwise the newest; None if unknown."""
        digest = self.on_disk.digest if self.on_disk else None
        arriving = [montage for montage in self.known if montage.state is MontageState.NOTICED]
        same = [montage for montage in self.known if digest and montage.digest == digest]
        return next(iter([*arriving, *same, *self.known]), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Plan of a replay for one selected montage."""

    action: Action
    watch: str
    metafile: Path
    montage_id: int | None
    """None if the journal does not know the metafile yet."""
    state: MontageState | None
    z: float | None
    start: MontageState | None
    """State to which the montage is reset; None if it is refused."""
    note: str


def is_selected(candidate: Candidate, selection: Selection, since_s: float | None) -> bool:
    """Whether the selection matches the candidate.

    Parameters
    ----------
    since_s : `selection.since` in seconds since 1970.
    """
    montage = candidate.current
    if montage is None:
        return candidate.on_disk is not None and _fits_unknown(candidate, candidate.on_disk, selection, since_s)
    if selection.z and montage.z not in selection.z:
        return False
    if since_s is not None and montage.changed_at < since_s:
        return False
    return _state_fits(montage.state, selection, named=candidate.named)


def _fits_unknown(candidate: Candidate, on_disk: OnDisk, selection: Selection, since_s: float | None) -> bool:
    if selection.state in ("complete", "dismissed") or (candidate.ignored_by and not candidate.named):
        return False
    if selection.z and on_disk.z not in selection.z:
        return False
    return since_s is None or on_disk.identity.mtime_ns / 1e9 >= since_s


def _state_fits(state: MontageState, selection: Selection, *, named: bool) -> bool:
    if selection.state is None and named:
        return True
    if selection.state == "all":
        return named or state not in (MontageState.SUPERSEDED, MontageState.IGNORED, MontageState.DISMISSED)
    return state is MontageState(selection.state or "failed")


def plan(candidate: Candidate, step: Step) -> Plan:
    """Return the plan for a selected candidate of a replay that starts with a step."""
    montage, on_disk = candidate.current, candidate.on_disk
    if montage is not None and montage.state in UNFINISHED:
        return _plan(candidate, Action.WAIT, montage.state, f"is in progress ({montage.state}); waiting until it ends")
    if on_disk is None:
        return _plan(candidate, Action.REFUSE, None, "the metafile does not exist; copy it back, then replay it")
    if on_disk.unreadable:
        return _plan(candidate, Action.REFUSE, None, on_disk.unreadable)
    if montage is not None and montage.state is MontageState.IGNORED:
        return _plan(candidate, Action.REFUSE, None, f"the watch {candidate.watch} ignores it: {montage.waiting_for}")
    if candidate.ignored_by:
        note = f"the watch {candidate.watch} ignores it: its name matches ignore = {candidate.ignored_by}"
        return _plan(candidate, Action.REFUSE, None, note)
    if montage is None:
        return _plan(candidate, Action.NOTICE, MontageState.NOTICED, "the journal does not know it; it is noticed now")
    if montage.digest not in (None, on_disk.digest):
        note = f"its content differs from the one in the journal ({montage.state}); it is noticed again"
        return _plan(candidate, Action.NOTICE, MontageState.NOTICED, note)
    if montage.state is MontageState.SUPERSEDED:
        note = "has a superseded content again; it is noticed again"
        return _plan(candidate, Action.NOTICE, MontageState.NOTICED, note)
    start = replay_start(montage.state, montage.failed_in, step)
    return _plan(candidate, Action.REPLAY, start, _replay_note(montage, start, step))


def _replay_note(montage: Montage, start: MontageState, step: Step) -> str:
    note = f"is {montage.state}; every step from {step} on is repeated"
    if start is MontageState.NOTICED:
        return f"is {montage.state} and never settled; it starts with the first step"
    if start is montage.failed_in and start is not replay_start(MontageState.COMPLETE, None, step):
        return f"is {montage.state} and never reached {step}; it resumes where it failed ({start})"
    return note


def _plan(candidate: Candidate, action: Action, start: MontageState | None, note: str) -> Plan:
    montage = candidate.current
    # A noticed metafile is a new montage until settling recognises its content.
    known = None if action is Action.NOTICE else montage
    z = montage.z if montage else (candidate.on_disk.z if candidate.on_disk else None)
    return Plan(
        action,
        candidate.watch,
        candidate.metafile,
        known.id if known else None,
        montage.state if montage else None,
        z,
        start,
        note,
    )
