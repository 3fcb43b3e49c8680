"""Circuit breaker: decide whether work is sent to render-ws freely, not at all, or as one trial. Pure.

While render-ws is unavailable, probes are sent at growing intervals. After a probe was answered, one trial of real work
is sent: a service may answer probes and fail all else. When the trial succeeds, all work is sent again.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
REFUSED_DELAY_S = 300.0
"""Delay between probes while the login is refused, since each one may count towards a lock of the account."""
BROKEN_LIMIT = 3
"""Number of different pieces of work that fail inside the service without a success in between, from which on the
circuit opens: the service can read but fails work."""
IDLE_CLOSE_S = 60.0
"""With no work queued, a successful probe closes the circuit after this time."""


class Phase(StrEnum):
    """Phase of the circuit, which determines the work that may be sent."""

    CLOSED = "closed"
    """All work, within the usual limits."""
    OPEN = "open"
    """Only a probe when it is due."""
    HALF_OPEN = "half-open"
    """One piece of work at a time: the trial."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """State of the circuit. Times are seconds of one monotonic clock."""

    phase: Phase = Phase.CLOSED
    outage: int = 0
    """Number of the last outage; 0 before the first."""
    openings: int = 0
    """Number of openings of the circuit in this outage."""
    due_at: float = 0.0
    """OPEN: when the next probe is due. HALF_OPEN: when the circuit closes without a trial."""
    trial: Hashable | None = None
    """The running trial while HALF_OPEN."""
    fails_work: bool = False
    """Whether failed work began the outage. Then every failed trial reopens the circuit."""
    is_refused: bool = False
    """Whether a refused login opened the circuit last. An accepted login ends such an outage."""
    failed_trial: bool = False
    """Whether the service failed a trial after a successful probe in this outage."""
    broken: frozenset[Hashable] = frozenset()
    """Work that failed inside the service since the last success."""

    @property
    def may_send(self) -> bool:
        """Whether a piece of work may be sent now."""
        return self.phase is Phase.CLOSED or (self.phase is Phase.HALF_OPEN and self.trial is None)

    @property
    def is_available(self) -> bool:
        """Whether the service counts as available."""
        return self.phase is Phase.CLOSED or (self.phase is Phase.HALF_OPEN and not self.failed_trial)


def opening_delay_s(openings: int, chance: float) -> float:
    """Return the seconds until the next probe, doubling from 1 s to 30 s with 25 % jitter.

    >>> opening_delay_s(1, 0.5), opening_delay_s(3, 0.5), opening_delay_s(100, 0.5)
    (1.0, 4.0, 30.0)
    """
    return float(min(MAX_DELAY_S, FIRST_DELAY_S * 2 ** min(openings - 1, 30)) * (0.75 + 0.5 * chance))


def after_begin(circuit: Circuit, work: Hashable) -> Circuit:
    """Return the circuit after a piece of work was sent."""
    return replace(circuit, trial=work) if circuit.phase is Phase.HALF_OPEN else circuit


def after_cancel(circuit: Circuit, work: Hashable) -> Circuit:
    """Return the circuit after a piece of work ended without evidence about the service."""
    return replace(circuit, trial=None) if circuit.trial == work else circuit


def after_success(circuit: Circuit) -> Circuit:
    """Return the circuit after a piece of work succeeded."""
    return Circuit(outage=circuit.outage)


def after_failure(
    circuit: Circuit,
    work: Hashable,
    now: float,
    chance: float,
    *,
    is_unavailable: bool,
    can_read: bool = False,
    is_refused: bool = False,
) -> Circuit:
    """Return the circuit after a piece of work failed.

    Parameters
    ----------
    now : seconds of a monotonic clock.
    chance : random number from 0 to 1, for jitter.
    is_unavailable : whether the service does not respond, or cannot read or write. Otherwise the work itself may be the
        cause.
    can_read : whether an unavailable service can read. It responds to probes, so only a successful trial closes the
        circuit.
    is_refused : whether the login was refused. An accepted login then ends the outage.
    """
    broken = circuit.broken if is_unavailable else circuit.broken | {work}
    circuit = replace(circuit, broken=broken)
    if circuit.phase is Phase.CLOSED:
        fails_work = not is_unavailable and len(broken) >= BROKEN_LIMIT
        if not (is_unavailable or fails_work):
            return circuit
        at_work = fails_work or can_read
        return _opened(replace(circuit, fails_work=fails_work), now, chance, at_work=at_work, is_refused=is_refused)
    if circuit.phase is Phase.OPEN or not (is_unavailable or circuit.trial == work):
        return circuit
    if is_unavailable or circuit.fails_work:
        return _opened(circuit, now, chance, at_work=not is_refused, is_refused=is_refused)
    return replace(after_success(circuit), broken=broken)


def after_failed_probe(circuit: Circuit, now: float, chance: float, *, is_refused: bool = False) -> Circuit:
    """Return the circuit after a probe got no response, or its login was refused."""
    return _opened(circuit, now, chance, at_work=circuit.failed_trial, is_refused=is_refused)


def make_probe_due(circuit: Circuit, now: float) -> Circuit:
    """Return the circuit with the next probe due at once, after something changed that may end the outage."""
    return replace(circuit, due_at=min(circuit.due_at, now)) if circuit.phase is Phase.OPEN else circuit


def after_good_probe(circuit: Circuit, now: float) -> Circuit:
    """Return the circuit after a successful probe."""
    if circuit.phase is Phase.OPEN and now >= circuit.due_at:
        if circuit.is_refused and not circuit.fails_work:
            return after_success(circuit)
        return replace(circuit, phase=Phase.HALF_OPEN, trial=None, due_at=now + IDLE_CLOSE_S)
    if circuit.phase is Phase.HALF_OPEN and circuit.trial is None and now >= circuit.due_at:
        return after_success(circuit)
    return circuit


def _opened(circuit: Circuit, now: float, chance: float, *, at_work: bool, is_refused: bool) -> Circuit:
    openings = circuit.openings + 1
    delay_s = REFUSED_DELAY_S * (0.75 + 0.5 * chance) if is_refused else opening_delay_s(openings, chance)
    return replace(
        circuit,
        phase=Phase.OPEN,
        outage=circuit.outage + (circuit.phase is Phase.CLOSED),
        openings=openings,
        due_at=now + delay_s,
        trial=None,
        is_refused=is_refused,
        failed_trial=at_work,
    )
