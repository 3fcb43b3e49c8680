"""The state machines of a montage and of a stack, as tables. Pure: no clock, file, socket or task.

    NOTICED -> SETTLED -> INGESTED -> MIPMAPPED -> APPLIED -> COMPLETE
       any but COMPLETE -> FAILED        any -> SUPERSEDED        NOTICED -> IGNORED
       FAILED -> the state it failed in (retried)
       FAILED, COMPLETE, SUPERSEDED -> SETTLED, INGESTED, MIPMAPPED or, never settled, NOTICED (replayed)
       FAILED, IGNORED, SUPERSEDED -> NOTICED (renoticed: the metafile is looked at anew)
       NOTICED -> what stacks and files prove (rebuilt)

Waiting for another attempt is not a state: a montage stays where it is until its step succeeds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class MontageState(StrEnum):
    """How far a montage has come; each value says what has been done and verified."""

    NOTICED = "noticed"
    """The metafile was seen; nothing of its content is known."""
    SETTLED = "settled"
    """The metafile is whole and consistent, and every image it names is there."""
    INGESTED = "ingested"
    """Its tile specs stand in the raw stack, read back."""
    MIPMAPPED = "mipmapped"
    """Every level of every tile is on disk, read back."""
    APPLIED = "applied"
    """The stack names the levels, read back and compared."""
    COMPLETE = "complete"
    """Its stacks are closed, or need no closing."""
    FAILED = "failed"
    """Waits for a person, or for its cause to go away."""
    SUPERSEDED = "superseded"
    """The same path now holds another content."""
    IGNORED = "ignored"
    """A set that the watch does not ingest, such as lens-correction tiles."""


class Event(StrEnum):
    """What happened to a montage; the journal holds them all, and the state is their fold."""

    NOTICED = "noticed"
    SETTLED = "settled"
    INGESTED = "ingested"
    MIPMAPPED = "mipmapped"
    APPLIED = "applied"
    COMPLETED = "completed"
    FAILED = "failed"
    IGNORED = "ignored"
    SUPERSEDED = "superseded"
    REPLAYED = "replayed"
    """Steps that were done are to be done again; the detail holds the state from which."""
    REBUILT = "rebuilt"
    """A new journal took over what stacks and files prove to be done; the detail holds that state."""
    RETRIED = "retried"
    """A FAILED montage goes on where it failed; the detail holds that state."""
    RENOTICED = "renoticed"
    """The metafile is looked at anew: it changed, came back, or holds again what it had held before."""
    SEEN_AGAIN = "seen_again"
    """The metafile was rewritten with the same content: nothing to do."""
    MIPMAPS_LOST = "mipmaps_lost"
    """Levels that had been made are gone from disk and are to be made again."""
    TILES_LOST = "tiles_lost"
    """Tiles that had been applied are gone from a stack: somebody deleted it, or them. They are put there again."""


class Step(StrEnum):
    """What is to be done next; one step takes a montage from one state to the next."""

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
"""The step that each unfinished state waits for; a state that is not here needs nothing done."""

UNFINISHED = frozenset(STEP_OF_STATE)
HAS_SETTLED = UNFINISHED - {MontageState.NOTICED} | {MontageState.COMPLETE}
"""States of a montage whose tiles are in its stacks, or are on their way there."""
_ORDER = tuple(STEP_OF_STATE)

START_OF_STEP: Mapping[Step, MontageState] = {
    step: state for state, step in STEP_OF_STATE.items() if state not in (MontageState.NOTICED, MontageState.APPLIED)
}
"""The steps that a replay may begin with, and the state in which each begins."""

_S, _E = MontageState, Event
_TABLE: Mapping[tuple[MontageState, Event], MontageState] = {
    (_S.NOTICED, _E.SETTLED): _S.SETTLED,
    (_S.NOTICED, _E.IGNORED): _S.IGNORED,
    (_S.NOTICED, _E.RENOTICED): _S.NOTICED,
    (_S.SETTLED, _E.INGESTED): _S.INGESTED,
    (_S.INGESTED, _E.MIPMAPPED): _S.MIPMAPPED,
    (_S.MIPMAPPED, _E.APPLIED): _S.APPLIED,
    (_S.MIPMAPPED, _E.MIPMAPS_LOST): _S.INGESTED,
    (_S.APPLIED, _E.TILES_LOST): _S.MIPMAPPED,
    (_S.APPLIED, _E.COMPLETED): _S.COMPLETE,
    **{(state, _E.RENOTICED): _S.NOTICED for state in (_S.FAILED, _S.IGNORED, _S.SUPERSEDED)},
    **{(state, _E.FAILED): _S.FAILED for state in UNFINISHED},
    **{(state, _E.SUPERSEDED): _S.SUPERSEDED for state in _S if state is not _S.SUPERSEDED},
    **{(state, _E.SEEN_AGAIN): state for state in _S},
}


_ONTO: Mapping[Event, tuple[frozenset[MontageState], frozenset[MontageState]]] = {
    _E.REPLAYED: (
        frozenset({_S.FAILED, _S.COMPLETE, _S.SUPERSEDED}),
        frozenset({_S.NOTICED, *START_OF_STEP.values()}),
    ),
    _E.REBUILT: (frozenset({_S.NOTICED}), frozenset({_S.INGESTED, _S.MIPMAPPED, _S.APPLIED, _S.COMPLETE})),
}
"""Events that lead to a state they name themselves: from which states, to which."""


class IllegalTransition(ValueError):  # noqa: N818  the state machine's own word
    """An event that cannot happen in the given state: a bug in the caller, never an input's fault."""


def advance(
    state: MontageState | None,
    event: Event,
    *,
    failed_in: MontageState | None = None,
    onto: MontageState = MontageState.SETTLED,
) -> MontageState:
    """The state that follows.

    Parameters
    ----------
    state : the state before; None for a montage that does not exist yet.
    failed_in : for RETRIED, the state in which the montage failed.
    onto : for REPLAYED and REBUILT, the state that the event names.

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
    if event in _ONTO and state in _ONTO[event][0] and onto in _ONTO[event][1]:
        return onto
    following = None if state is None else _TABLE.get((state, event))
    if following is None:
        raise IllegalTransition(f"{event} cannot happen to a montage that is {state or 'unknown'}")
    return following


def fold(events: Iterable[tuple[Event, MontageState | None]]) -> MontageState | None:
    """The state after a montage's events, each with the state it names (RETRIED, REPLAYED and REBUILT name one)."""
    state: MontageState | None = None
    for event, named in events:
        state = advance(state, event, failed_in=named, onto=named or MontageState.SETTLED)
    return state


def replay_start(state: MontageState, failed_in: MontageState | None, step: Step) -> MontageState:
    """Where a replay from a step begins: there, or where the montage failed if it never came so far.

    >>> replay_start(MontageState.COMPLETE, None, Step.APPLY)
    <MontageState.MIPMAPPED: 'mipmapped'>
    >>> replay_start(MontageState.FAILED, MontageState.NOTICED, Step.APPLY)
    <MontageState.NOTICED: 'noticed'>
    """
    wanted = START_OF_STEP[step]
    if state is MontageState.FAILED and failed_in is not None and _ORDER.index(failed_in) < _ORDER.index(wanted):
        return failed_in
    return wanted


class StackPhase(StrEnum):
    """What the keeper does with a stack."""

    IDLE = "idle"
    """Nothing was written since it was last closed."""
    HELD = "held"
    """Montages are writing to it."""
    QUIET = "quiet"
    """Nobody holds it, but it was written to; it closes when it has been quiet for long enough."""
    CLOSING = "closing"
    """render-ws derives its bounds and statistics."""


@dataclass(frozen=True, slots=True)
class StackUse:
    """The keeper's view of one stack.

    Times are seconds of one monotonic clock.
    """

    phase: StackPhase = StackPhase.IDLE
    holders: int = 0
    touched_at: float = 0.0
    """When a holder last let go, or a close last failed."""
    wanted_again: bool = False
    """A montage asked for a close while one was under way, which may not have seen it."""


def hold(use: StackUse) -> StackUse:
    """One more holder. A stack that is closing takes holders too: their writes will be refused once, and repeated."""
    return StackUse(StackPhase.HELD, use.holders + 1, use.touched_at)


def release(use: StackUse, now: float) -> StackUse:
    """One holder fewer; the last one leaves the stack quiet."""
    holders = use.holders - 1
    return StackUse(StackPhase.HELD if holders else StackPhase.QUIET, holders, now)


def want_closed(use: StackUse, now: float) -> StackUse:
    """The stack once a montage waits for its being closed."""
    if use.phase is StackPhase.IDLE:
        return StackUse(StackPhase.QUIET, 0, now)
    return replace(use, wanted_again=True) if use.phase is StackPhase.CLOSING else use


def begin_closing(use: StackUse) -> StackUse:
    """The stack while render-ws completes it."""
    return StackUse(StackPhase.CLOSING, use.holders, use.touched_at)


def end_closing(use: StackUse, now: float, *, closed: bool) -> StackUse:
    """The stack after a close: idle, or quiet and due again later if it failed; held if somebody came meanwhile."""
    if use.phase is not StackPhase.CLOSING:
        return use
    done = closed and not use.wanted_again
    return StackUse(StackPhase.IDLE if done else StackPhase.QUIET, use.holders, now)


def closes_in(use: StackUse, now: float, close_after_s: float) -> float | None:
    """Seconds until the stack is to be closed: 0 when it is due, None while it is idle, held or closing."""
    if use.phase is not StackPhase.QUIET:
        return None
    return max(0.0, use.touched_at + close_after_s - now)
