"""When a delivery is tried again, and when it is given up. Pure."""

GIVE_UP_S = 86_400.0
"""A delivery whose attempt fails this long after the event was queued is given up."""
FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 3600.0
LONGEST_PAUSE_S = 60.0
"""A hook whose receiver does not answer is tried at least this often."""


def delay_s(attempts: int, chance: float, *, is_away: bool = False, is_gone: bool = False) -> float:
    """Return the seconds until the next attempt.

    Parameters
    ----------
    attempts : failed attempts, this one included.
    chance : a random number from 0 to 1, so that deliveries do not stay in step.
    is_away : whether the receiver did not answer: then the delay stays short, because the hook is paused as a whole.
    is_gone : whether it answered 410: it does not want any more events.

    >>> [delay_s(attempts, 0.5) for attempts in (1, 2, 5, 30)]
    [1.0, 2.0, 16.0, 3600.0]
    """
    longest_s = LONGEST_PAUSE_S if is_away else LONGEST_DELAY_S
    grown_s = longest_s if is_gone else min(longest_s, FIRST_DELAY_S * 2.0 ** min(attempts - 1, 20))
    return grown_s * (0.9 + 0.2 * chance)


def pause_s(failures: int) -> float:
    """Return the seconds for which a hook is left alone after consecutive attempts without an answer.

    >>> [pause_s(failures) for failures in (1, 2, 3, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return min(LONGEST_PAUSE_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 10))


def is_given_up(queued_at: float, now: float) -> bool:
    """Whether a delivery whose attempt has just failed is given up."""
    return now - queued_at >= GIVE_UP_S
