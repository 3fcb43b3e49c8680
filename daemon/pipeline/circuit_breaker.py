"""When work is sent to render-ws: freely, not at all, or one piece to try whether it works again. Pure.

A service that is away is asked for a sign of life, ever more rarely; one that gives it is tried with one piece of real
work, since a service may answer pings and fail all else. Only when that has worked, everything goes on.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
BROKEN_IN_A_ROW = 3
"""Different pieces of work that fail inside with no success between: it is the service, although it can read."""
UNTRIED_S = 60.0
"""Without any work to try, a service that gives signs of life counts as working after this time."""


class Phase(StrEnum):
    """What may be sent."""

    CLOSED = "closed"
    """Everything, within the usual limits."""
    OPEN = "open"
    """Nothing but a probe when it is due."""
    HALF_OPEN = "half-open"
    """One piece of work at a time."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """What is known of the service. Times are seconds of one monotonic clock."""

    phase: Phase = Phase.CLOSED
    outage: int = 0
    """Number of the last outage; 0 before the first."""
    openings: int = 0
    """How often it was opened in this outage."""
    due_at: float = 0.0
    """OPEN: when the next probe is due. HALF_OPEN: when it closes, should no work come."""
    trial: Hashable | None = None
    """The piece of work under way while HALF_OPEN."""
    fails_work: bool = False
    """Whether the outage began with such work: a trial that fails then is no fault of its own."""
    has_failed_at_work: bool = False
    """Whether in this outage it gave signs of life and failed all the same."""
    broken: frozenset[Hashable] = frozenset()
    """Work that failed inside the service since some last succeeded."""

    @property
    def may_pass(self) -> bool:
        """Whether a piece of work may be sent now."""
        return self.phase is Phase.CLOSED or (self.phase is Phase.HALF_OPEN and self.trial is None)

    @property
    def seems_well(self) -> bool:
        """Whether nothing speaks against the service."""
        return self.phase is Phase.CLOSED or (self.phase is Phase.HALF_OPEN and not self.has_failed_at_work)


def opening_delay_s(openings: int, chance: float) -> float:
    """Seconds until the next probe, doubling from 1 s to 30 s with a quarter of jitter.

    >>> opening_delay_s(1, 0.5), opening_delay_s(3, 0.5), opening_delay_s(100, 0.5)
    (1.0, 4.0, 30.0)
    """
    return float(min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(openings - 1, 30)) * (0.75 + 0.5 * chance))


def begun(circuit: Circuit, work: Hashable) -> Circuit:
    """The circuit once a piece of work was sent."""
    return replace(circuit, trial=work) if circuit.phase is Phase.HALF_OPEN else circuit


def cancelled(circuit: Circuit, work: Hashable) -> Circuit:
    """... once one ended that says nothing of the service."""
    return replace(circuit, trial=None) if circuit.trial == work else circuit


def worked(circuit: Circuit) -> Circuit:
    """... once one succeeded."""
    return Circuit(outage=circuit.outage)


def failed(circuit: Circuit, work: Hashable, now: float, chance: float, *, is_away: bool) -> Circuit:
    """... once one failed.

    Parameters
    ----------
    is_away : the service does not answer, or cannot even read; else the work itself may be the cause.
    """
    broken = circuit.broken if is_away else circuit.broken | {work}
    circuit = replace(circuit, broken=broken)
    if circuit.phase is Phase.CLOSED:
        fails_work = not is_away and len(broken) >= BROKEN_IN_A_ROW
        if not (is_away or fails_work):
            return circuit
        return _opened(replace(circuit, fails_work=fails_work), now, chance, at_work=fails_work)
    if circuit.phase is Phase.OPEN or not (is_away or circuit.trial == work):
        return circuit
    if is_away or circuit.fails_work:
        return _opened(circuit, now, chance, at_work=True)
    return replace(worked(circuit), broken=broken)


def silent(circuit: Circuit, now: float, chance: float) -> Circuit:
    """... once a probe got no answer."""
    return _opened(circuit, now, chance, at_work=circuit.has_failed_at_work)


def answered(circuit: Circuit, now: float) -> Circuit:
    """... once a probe was answered: a sign of life, no more."""
    if circuit.phase is Phase.OPEN and now >= circuit.due_at:
        return replace(circuit, phase=Phase.HALF_OPEN, trial=None, due_at=now + UNTRIED_S)
    if circuit.phase is Phase.HALF_OPEN and circuit.trial is None and now >= circuit.due_at:
        return worked(circuit)
    return circuit


def _opened(circuit: Circuit, now: float, chance: float, *, at_work: bool) -> Circuit:
    openings = circuit.openings + 1
    return replace(
        circuit,
        phase=Phase.OPEN,
        outage=circuit.outage + (circuit.phase is Phase.CLOSED),
        openings=openings,
        due_at=now + opening_delay_s(openings, chance),
        trial=None,
        has_failed_at_work=at_work,
    )
