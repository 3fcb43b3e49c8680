"""Delays between attempts at a delivery, and when it is given up. Pure."""

GIVE_UP_S = 86_400.0
"""A delivery is given up if an attempt fails this long after the event was queued."""
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 3600.0
MAX_PAUSE_S = 60.0
"""Longest pause between attempts at a hook whose receiver does not respond."""


def delay_s(attempts: int, chance: float, *, is_unavailable: bool = False, is_gone: bool = False) -> float:
    """Return the seconds until the next attempt.

    Parameters
    ----------
    attempts : number of failed attempts, including this one.
    chance : random number from 0 to 1. It spreads the delay by 10 %, so that deliveries do not coincide.
    is_unavailable : whether the receiver did not respond. Then the delay stays short, because the whole hook is paused.
    is_gone : whether it responded 410 Gone. Then the delay is the longest one at once.

    >>> [delay_s(attempts, 0.5) for attempts in (1, 2, 5, 30)]
    [1.0, 2.0, 16.0, 3600.0]
    """
    max_s = MAX_PAUSE_S if is_unavailable else MAX_DELAY_S
    grown_s = max_s if is_gone else min(max_s, FIRST_DELAY_S * 2.0 ** min(attempts - 1, 20))
    return grown_s * (0.9 + 0.2 * chance)


def pause_s(failures: int) -> float:
    """Return the seconds for which a hook is paused after consecutive attempts without a response.

    >>> [pause_s(failures) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return min(MAX_PAUSE_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))


def is_given_up(queued_at: float, now: float) -> bool:
    """Whether a delivery is given up after an attempt that has failed now. Times are seconds since 1970 UTC."""
    return now - queued_at >= GIVE_UP_S
