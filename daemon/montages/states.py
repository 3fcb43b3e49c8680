"""The state machines of a montage and of a stack, as tables. Pure: no clock, file, socket or task.

    NOTICED -> SETTLED -> INGESTED -> MIPMAPPED -> APPLIED -> COMPLETE
       any but COMPLETE -> FAILED        any -> SUPERSEDED        NOTICED -> IGNORED
       FAILED -> the state it failed in (retried)
       MIPMAPPED, APPLIED, COMPLETE -> INGESTED (images changed: mipmaps of these are made again)
       FAILED, COMPLETE, SUPERSEDED -> SETTLED, INGESTED, MIPMAPPED or, never settled, NOTICED (replayed)
       FAILED, IGNORED, SUPERSEDED -> NOTICED (renoticed: the metafile is looked at anew)
       NOTICED -> what stacks and files prove (rebuilt)

Waiting for another attempt is not a state: a montage stays where it is until its step succeeds.
"""

import math
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
    IMAGES_CHANGED = "images_changed"
    """Images changed after their mipmaps were made, which are made again; the detail names them."""
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
    (_S.MIPMAPPED, _E.IMAGES_CHANGED): _S.INGESTED,
    (_S.APPLIED, _E.IMAGES_CHANGED): _S.INGESTED,
    (_S.COMPLETE, _E.IMAGES_CHANGED): _S.INGESTED,
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
    """Nothing waits for it to be closed."""
    HELD = "held"
    """Montages write to it, or are about to."""
    QUIET = "quiet"
    """Nobody holds it; it closes when it has been quiet for long enough."""
    CLOSING = "closing"
    """render-ws derives its bounds and statistics."""


CLOSE_SPACING = 10
"""A stack that never gets quiet is open for at least so many times the duration of its last close."""


@dataclass(frozen=True, slots=True)
class Closing:
    """When a stack is closed; seconds."""

    after_s: float
    """Since somebody last held it."""
    at_latest_s: float = 0.0
    """Since something began to wait for the close, held or not; 0: never."""


@dataclass(frozen=True, slots=True)
class StackUse:
    """The keeper's view of one stack.

    Times are seconds of one monotonic clock.
    """

    holders: int = 0
    """Steps that write to it, or keep it from being closed while they prepare to."""
    writers: int = 0
    """Holders that write now."""
    touched_at: float = 0.0
    """When a holder last let go, or a close last ended."""
    wanted_at: float | None = None
    """Since when something waits for the stack to be closed."""
    wanted_again_at: float | None = None
    """The same for what came during a close, which may not have seen it."""
    closing_since: float | None = None
    closed_at: float = 0.0
    """When a close last ended, well or not."""
    close_took_s: float = 0.0
    not_before: float = 0.0
    """When a close that failed may be tried again."""

    @property
    def phase(self) -> StackPhase:
        """What the keeper does with the stack now."""
        if self.closing_since is not None:
            return StackPhase.CLOSING
        if self.holders:
            return StackPhase.HELD
        return StackPhase.IDLE if self.wanted_at is None else StackPhase.QUIET


def hold(use: StackUse) -> StackUse:
    """One more holder."""
    return replace(use, holders=use.holders + 1)


def release(use: StackUse, now: float) -> StackUse:
    """One holder fewer."""
    return replace(use, holders=use.holders - 1, touched_at=now)


def begin_writing(use: StackUse) -> StackUse:
    """One of the holders writes from now on."""
    return replace(use, writers=use.writers + 1)


def end_writing(use: StackUse) -> StackUse:
    """One of the writers holds on without writing."""
    return replace(use, writers=use.writers - 1)


def want_closed(use: StackUse, now: float) -> StackUse:
    """The stack once something waits for its being closed."""
    if use.phase is StackPhase.CLOSING:
        return use if use.wanted_again_at is not None else replace(use, wanted_again_at=now)
    if use.wanted_at is not None:
        return use
    return replace(use, wanted_at=now, touched_at=now)


def begin_closing(use: StackUse, now: float) -> StackUse:
    """The stack while render-ws completes it."""
    return replace(use, closing_since=now)


def end_closing(use: StackUse, now: float, *, closed: bool, again_in_s: float = 0.0) -> StackUse:
    """The stack after a close. If it failed, what waited for it goes on waiting."""
    assert use.closing_since is not None
    return replace(
        use,
        touched_at=now,
        wanted_at=use.wanted_again_at if closed else use.wanted_at,
        wanted_again_at=None,
        closing_since=None,
        closed_at=now,
        close_took_s=now - use.closing_since,
        not_before=now + again_in_s,
    )


def closes_in(use: StackUse, now: float, closing: Closing) -> float | None:
    """Seconds until the stack is to be closed: 0 when it is due, None while nothing tells when.

    Writers that are there when it is due are let finish; see `writers`.
    """
    if use.wanted_at is None or use.phase is StackPhase.CLOSING:
        return None
    at = math.inf if use.holders else use.touched_at + closing.after_s
    if closing.at_latest_s:
        spaced_at = use.closed_at + CLOSE_SPACING * use.close_took_s
        at = min(at, max(use.wanted_at + closing.at_latest_s, spaced_at))
    at = max(at, use.not_before)
    return None if at == math.inf else max(0.0, at - now)
