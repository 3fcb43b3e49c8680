"""State machine of a montage, as tables. Pure: no clock, file, socket or task.

    NOTICED -> SETTLED -> INGESTED -> MIPMAPPED -> APPLIED -> COMPLETE
       any but COMPLETE -> FAILED        any -> SUPERSEDED        NOTICED -> IGNORED
       FAILED -> the state in which it failed                             (retried)
       MIPMAPPED, APPLIED, COMPLETE -> INGESTED                           (images changed: their mipmaps are made again)
       MIPMAPPED -> INGESTED                                              (mipmap files are missing)
       APPLIED, COMPLETE -> MIPMAPPED                                     (tiles are missing from a stack, or replaced)
       FAILED -> DISMISSED                                                (an operator decided that nothing is done)
       COMPLETE -> DISMISSED                              (its metafile is gone, and another one may replace its tiles)
       FAILED, DISMISSED, COMPLETE, SUPERSEDED -> SETTLED, INGESTED or MIPMAPPED   (replayed; NOTICED if never settled)
       FAILED, DISMISSED, IGNORED, SUPERSEDED -> NOTICED                  (renoticed: the metafile is read again)
       NOTICED -> INGESTED, MIPMAPPED, APPLIED or COMPLETE                (rebuilt: as stacks and files prove)

Waiting for a retry is not a state: a montage keeps its state until the next step succeeds.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum


class MontageState(StrEnum):
    """Progress of a montage; each value states what has been done and verified."""

    NOTICED = "noticed"
    """The metafile was found; its content has not been read."""
    SETTLED = "settled"
    """The metafile is complete and consistent, and every image that it names is present."""
    INGESTED = "ingested"
    """Its tile specs are in the raw stack and were read back."""
    MIPMAPPED = "mipmapped"
    """Every level of every tile is on disk and was read back."""
    APPLIED = "applied"
    """The tile specs in the output stack contain the levels; they were read back and compared."""
    COMPLETE = "complete"
    """Its stacks are closed, or the watch does not close stacks."""
    FAILED = "failed"
    """Waits for an operator, or until the file that caused the failure changes."""
    DISMISSED = "dismissed"
    """It failed, and an operator decided that nothing is to be done; or its metafile is gone, and its tiles may be
    replaced."""
    SUPERSEDED = "superseded"
    """The path holds another content now, or the metafile was moved or removed."""
    IGNORED = "ignored"
    """The watch does not ingest this set, for example lens-correction tiles."""


class Event(StrEnum):
    """Event of a montage. The journal keeps every event; the state is the fold of the events."""

    NOTICED = "noticed"
    SETTLED = "settled"
    INGESTED = "ingested"
    MIPMAPPED = "mipmapped"
    APPLIED = "applied"
    COMPLETED = "completed"
    FAILED = "failed"
    IGNORED = "ignored"
    SUPERSEDED = "superseded"
    DISMISSED = "dismissed"
    """An operator dismissed a FAILED montage, or a COMPLETE one without its metafile; the detail holds the reason."""
    REPLAYED = "replayed"
    """An operator requested that steps are repeated; the detail holds the state to start from."""
    REBUILT = "rebuilt"
    """A rebuilt journal got the state that stacks and files prove; the detail holds that state."""
    RETRIED = "retried"
    """A FAILED montage resumes in the state in which it failed; the detail holds that state."""
    RENOTICED = "renoticed"
    """The metafile is read again: it changed, reappeared, or holds a former content again."""
    SEEN_AGAIN = "seen_again"
    """The metafile was rewritten with the same content: no work follows."""
    MIPMAPS_LOST = "mipmaps_lost"
    """Mipmap files are missing from disk and are made again."""
    IMAGES_CHANGED = "images_changed"
    """Images changed after their mipmaps were made; the mipmaps are made again. The detail lists the images."""
    JUDGED = "judged"
    """The rules of quality control gave a verdict; the detail holds it. The state does not change."""
    DECIDED = "decided"
    """A person replaced the rules' verdict or withdrew that; the detail holds name and note. The state does not
    change."""
    TILES_LOST = "tiles_lost"
    """Applied tiles are missing from a stack because another program deleted them, or were replaced by a late upload of
    a former content. They are put again."""


class Step(StrEnum):
    """Work that takes a montage from one state to the next."""

    SETTLE = "settle"
    INGEST = "ingest"
    MIPMAPS = "mipmaps"
    APPLY = "apply"
    CLOSE = "close"


STEP_OF_STATE: Mapping[MontageState, Step] = {
    MontageState.NOTICED: Step.SETTLE,
    MontageState.SETTLED: Step.INGEST,
    MontageState.INGESTED: Step.MIPMAPS,
    MontageState.MIPMAPPED: Step.APPLY,
    MontageState.APPLIED: Step.CLOSE,
}
"""The next step of each unfinished state; other states need no work."""

UNFINISHED = frozenset(STEP_OF_STATE)
HAS_SETTLED = UNFINISHED - {MontageState.NOTICED} | {MontageState.COMPLETE}
"""States of a montage that owns tiles: they are in its stacks, or will be put there."""
_ORDER = tuple(STEP_OF_STATE)

START_OF_STEP: Mapping[Step, MontageState] = {
    step: state for state, step in STEP_OF_STATE.items() if state not in (MontageState.NOTICED, MontageState.APPLIED)
}
"""Steps with which a replay may start, each with the state in which it starts."""

_S, _E = MontageState, Event
_TABLE: Mapping[tuple[MontageState, Event], MontageState] = {
    (_S.NOTICED, _E.SETTLED): _S.SETTLED,
    (_S.NOTICED, _E.IGNORED): _S.IGNORED,
    (_S.NOTICED, _E.RENOTICED): _S.NOTICED,
    (_S.SETTLED, _E.INGESTED): _S.INGESTED,
    (_S.INGESTED, _E.MIPMAPPED): _S.MIPMAPPED,
    (_S.MIPMAPPED, _E.APPLIED): _S.APPLIED,
    (_S.MIPMAPPED, _E.MIPMAPS_LOST): _S.INGESTED,
    (_S.MIPMAPPED, _E.IMAGES_CHANGED): _S.INGESTED,
    (_S.APPLIED, _E.IMAGES_CHANGED): _S.INGESTED,
    (_S.COMPLETE, _E.IMAGES_CHANGED): _S.INGESTED,
    (_S.APPLIED, _E.TILES_LOST): _S.MIPMAPPED,
    (_S.COMPLETE, _E.TILES_LOST): _S.MIPMAPPED,
    (_S.APPLIED, _E.COMPLETED): _S.COMPLETE,
    (_S.FAILED, _E.DISMISSED): _S.DISMISSED,
    (_S.COMPLETE, _E.DISMISSED): _S.DISMISSED,
    **{(state, _E.RENOTICED): _S.NOTICED for state in (_S.FAILED, _S.DISMISSED, _S.IGNORED, _S.SUPERSEDED)},
    **{(state, _E.FAILED): _S.FAILED for state in UNFINISHED},
    **{(state, _E.SUPERSEDED): _S.SUPERSEDED for state in _S if state is not _S.SUPERSEDED},
    **{(state, event): state for state in _S for event in (_E.SEEN_AGAIN, _E.JUDGED, _E.DECIDED)},
}


_TARGETS: Mapping[Event, tuple[frozenset[MontageState], frozenset[MontageState]]] = {
    _E.REPLAYED: (
        frozenset({_S.FAILED, _S.DISMISSED, _S.COMPLETE, _S.SUPERSEDED}),
        frozenset({_S.NOTICED, *START_OF_STEP.values()}),
    ),
    _E.REBUILT: (frozenset({_S.NOTICED}), frozenset({_S.INGESTED, _S.MIPMAPPED, _S.APPLIED, _S.COMPLETE})),
}
"""Events whose detail holds the next state: allowed states before, allowed states after."""


class IllegalTransition(ValueError):  # noqa: N818  the term of state machines
    """An event that cannot happen in the given state: a bug, or the montage changed while its step ran."""


def advance(
    state: MontageState | None,
    event: Event,
    *,
    failed_in: MontageState | None = None,
    target: MontageState = MontageState.SETTLED,
) -> MontageState:
    """Return the state after an event.

    Parameters
    ----------
    state : the state before; None for a montage that does not exist yet.
    failed_in : for RETRIED, the state in which the montage failed.
    target : for REPLAYED and REBUILT, the state that the event names.

    Raises
    ------
    IllegalTransition
        If the event cannot happen in this state.

    >>> advance(MontageState.SETTLED, Event.INGESTED)
    <MontageState.INGESTED: 'ingested'>
    """
    if state is None and event is Event.NOTICED:
        return MontageState.NOTICED
    if state is MontageState.FAILED and event is Event.RETRIED and failed_in in UNFINISHED:
        return failed_in
    if event in _TARGETS and state in _TARGETS[event][0] and target in _TARGETS[event][1]:
        return target
    following = None if state is None else _TABLE.get((state, event))
    if following is None:
        raise IllegalTransition(f"{event} cannot happen to a montage that is {state or 'unknown'}")
    return following


def fold(events: Iterable[tuple[Event, MontageState | None]]) -> MontageState | None:
    """Return the state after the events of a montage.

    Parameters
    ----------
    events : each with the state in its detail, for RETRIED, REPLAYED and REBUILT; None for all others.
    """
    state: MontageState | None = None
    for event, named in events:
        state = advance(state, event, failed_in=named, target=named or MontageState.SETTLED)
    return state


def replay_start(state: MontageState, failed_in: MontageState | None, step: Step) -> MontageState:
    """Return the state in which a replay starts: that of the step, or the state in which it failed if that is earlier.

    >>> replay_start(MontageState.COMPLETE, None, Step.APPLY)
    <MontageState.MIPMAPPED: 'mipmapped'>
    >>> replay_start(MontageState.FAILED, MontageState.NOTICED, Step.APPLY)
    <MontageState.NOTICED: 'noticed'>
    """
    wanted = START_OF_STEP[step]
    has_failed = state in (MontageState.FAILED, MontageState.DISMISSED)
    if has_failed and failed_in in UNFINISHED and _ORDER.index(failed_in) < _ORDER.index(wanted):
        return failed_in
    return wanted
