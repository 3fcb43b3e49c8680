"""When a step that failed is tried again: (fault, attempt, chance) -> seconds, or never. Pure."""

from handlers.errors import Fault, Waiting

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
LIMITED_ATTEMPTS = 5
"""Attempts granted to a fault that waiting may or may not help."""
CRASHES_BEFORE_PARKING = 10
"""Attempts that began, made no progress and never ended: the montage is what kills the process."""


def retry_delay_s(fault: Fault, attempt: int, chance: float) -> float | None:
    """Seconds until the next attempt, doubling from 1 s to 300 s with a quarter of jitter; None to give up.

    Parameters
    ----------
    fault : what ended the attempt.
    attempt : 1 for the first.
    chance : a random number in [0, 1), so that montages that failed together do not come back together.

    >>> from handlers.errors import MetafileFault, RenderUnavailable
    >>> retry_delay_s(RenderUnavailable("http://render", "refused"), 3, 0.5)
    4.0
    >>> retry_delay_s(MetafileFault("_metadata_1.json", "no data"), 1, 0.5) is None
    True
    """
    if fault.waiting_helps is Waiting.NEVER:
        return None
    if fault.waiting_helps is Waiting.LIMITED and attempt >= LIMITED_ATTEMPTS:
        return None
    plain: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(attempt - 1, 30))
    return plain * (0.75 + 0.5 * chance)
