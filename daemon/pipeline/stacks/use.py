"""State of a stack's use: holders, writers, close requests, and when a close is due. Pure."""

import math
from dataclasses import dataclass, replace
from enum import StrEnum


class StackPhase(StrEnum):
    """Phase of a stack in the stack keeper."""

    IDLE = "idle"
    """No close is requested."""
    HELD = "held"
    """Steps write to the stack or are about to write."""
    QUIET = "quiet"
    """No step holds the stack; it is closed after the quiet time."""
    CLOSING = "closing"
    """render-ws computes the bounds and statistics of the stack."""


CLOSE_SPACING = 10
"""Shortest time between closes of a stack that is never quiet, as a multiple of its last derivation's duration."""


@dataclass(frozen=True, slots=True)
class CloseRule:
    """When a stack is closed; seconds."""

    after_s: float
    """Quiet time after the last holder released the stack."""
    at_latest_s: float = 0.0
    """Longest time after the request, even if the stack is held; 0: no limit."""


@dataclass(frozen=True, slots=True)
class StackUse:
    """Use of one stack. Times are seconds of one monotonic clock."""

    holders: int = 0
    """Number of steps that write to the stack or prepare to write; they prevent a close."""
    writers: int = 0
    """Number of holders that write now."""
    used_at: float = 0.0
    """When a holder last released the stack, or a close last ended."""
    requested_at: float | None = None
    """When the pending close was requested; None if no close is pending."""
    requested_again_at: float | None = None
    """When the next close was requested during the running one, which may have missed the latest tiles."""
    closing_since: float | None = None
    derived_at: float | None = None
    """When the stack became COMPLETE in the running close; after that its layers are compared."""
    closed_at: float = 0.0
    """When a close last ended, successful or not."""
    derivation_s: float = 0.0
    """Duration of the last close without the comparison, during which steps may write."""
    retry_at: float = 0.0
    """When a failed close may be retried."""

    @property
    def phase(self) -> StackPhase:
        """Present phase of the stack."""
        if self.closing_since is not None:
            return StackPhase.CLOSING
        if self.holders:
            return StackPhase.HELD
        return StackPhase.IDLE if self.requested_at is None else StackPhase.QUIET


def hold(use: StackUse) -> StackUse:
    """Add a holder."""
    return replace(use, holders=use.holders + 1)


def release(use: StackUse, now: float) -> StackUse:
    """Remove a holder."""
    return replace(use, holders=use.holders - 1, used_at=now)


def begin_writing(use: StackUse) -> StackUse:
    """Count one of the holders as a writer."""
    return replace(use, writers=use.writers + 1)


def end_writing(use: StackUse) -> StackUse:
    """Count one of the writers as a mere holder."""
    return replace(use, writers=use.writers - 1)


def request_close(use: StackUse, now: float) -> StackUse:
    """Request a close; an earlier pending request stays."""
    if use.phase is StackPhase.CLOSING:
        return use if use.requested_again_at is not None else replace(use, requested_again_at=now)
    if use.requested_at is not None:
        return use
    return replace(use, requested_at=now, used_at=now)


def begin_closing(use: StackUse, now: float) -> StackUse:
    """Begin the close."""
    return replace(use, closing_since=now)


def end_deriving(use: StackUse, now: float) -> StackUse:
    """Record that the stack is COMPLETE; the close continues with the comparison of its layers."""
    return replace(use, derived_at=now) if use.phase is StackPhase.CLOSING else use


def end_closing(use: StackUse, now: float, *, closed: bool, retry_in_s: float = 0.0) -> StackUse:
    """End the close. If it failed, its request stays pending."""
    assert use.closing_since is not None
    return replace(
        use,
        used_at=now,
        requested_at=use.requested_again_at if closed else use.requested_at,
        requested_again_at=None,
        closing_since=None,
        derived_at=None,
        closed_at=now,
        derivation_s=(now if use.derived_at is None else use.derived_at) - use.closing_since,
        retry_at=now + retry_in_s,
    )


def close_due_in_s(use: StackUse, now: float, rule: CloseRule) -> float | None:
    """Return the seconds until a close is due: 0 if it is due, None if no time is known yet.

    A close may be due while the stack has writers. It begins when they have ended.
    """
    if use.requested_at is None or use.phase is StackPhase.CLOSING:
        return None
    at = math.inf if use.holders else use.used_at + rule.after_s
    if rule.at_latest_s:
        spaced_at = use.closed_at + CLOSE_SPACING * use.derivation_s
        at = min(at, max(use.requested_at + rule.at_latest_s, spaced_at))
    at = max(at, use.retry_at)
    return None if at == math.inf else max(0.0, at - now)


def merge_rules(first: CloseRule, second: CloseRule) -> CloseRule:
    """Return the rule of a stack that two watches write to: the longer quiet time, the earlier latest time.

    >>> merge_rules(CloseRule(5.0, 90.0), CloseRule(1.0, 60.0))
    CloseRule(after_s=5.0, at_latest_s=60.0)
    """
    latest = [rule.at_latest_s for rule in (first, second) if rule.at_latest_s]
    return CloseRule(max(first.after_s, second.after_s), min(latest, default=0.0))
