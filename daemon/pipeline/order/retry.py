"""Retry delays of failed steps: (fault, attempt, chance) -> seconds, or None to give up. Pure."""

from dataclasses import dataclass, replace

from handlers.errors import Fault, ImageChanging, Waiting

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 300.0
CHANGING_DELAY_S = 15.0
"""Longest delay while an image is being written. An attempt costs only one read."""
LIMITED_ATTEMPTS = 5
"""Attempts for faults for which waiting may not help. Attempts that failed because of an outage do not count."""
CRASHES_BEFORE_PARKING = 10
"""Number of consecutive attempts in which the process died, after which the montage is FAILED."""


def retry_delay_s(fault: Fault, attempt: int, chance: float) -> float | None:
    """Return the seconds until the next attempt, doubling from 1 s to 300 s with 25 % jitter; None to give up.

    Parameters
    ----------
    fault : fault that ended the attempt.
    attempt : number of the failed attempt, from 1. With Waiting.LIMITED, only attempts with such faults count.
    chance : random number in [0, 1), so that montages that failed together are retried at different times.

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
    max_s = CHANGING_DELAY_S if isinstance(fault, ImageChanging) else MAX_DELAY_S
    plain: float = min(max_s, FIRST_DELAY_S * 2 ** min(attempt - 1, 30))
    return plain * (0.75 + 0.5 * chance)


@dataclass(frozen=True, slots=True)
class _Tried:
    limited: int = 0
    """Number of attempts that ended with a fault for which waiting may not help."""
    outage: int = 0
    """Number of the last outage in which the montage failed."""
    outages: int = 0
    """Number of outages in which the montage failed."""


class Tries:
    """Failed attempts of montages at their present step. They are kept in memory only: a restart resets the counts."""

    def __init__(self) -> None:
        self._tried: dict[int, _Tried] = {}
        self._await_outage_end: set[int] = set()

    def delay_s(self, montage_id: int, fault: Fault, attempt: int, chance: float) -> float | None:
        """Return the seconds until the next attempt; None to give up.

        Parameters
        ----------
        attempt : number of all attempts at the step.
        """
        if fault.waiting_helps is not Waiting.LIMITED:
            return retry_delay_s(fault, attempt, chance)
        tried = self._tried.get(montage_id, _Tried())
        self._tried[montage_id] = tried = replace(tried, limited=tried.limited + 1)
        return retry_delay_s(fault, tried.limited, chance)

    def delay_in_outage_s(self, montage_id: int, outage: int, pause_s: float, chance: float) -> float:
        """Return the seconds until the next attempt of a montage that failed because of an outage.

        `after_outage` ends the delay early. A montage that fails in consecutive outages may cause them, so it gets the
        longest delay and others are attempted first.

        Parameters
        ----------
        outage : number of the outage.
        pause_s : seconds until the next probe.
        chance : random number in [0, 1), for jitter.
        """
        tried = self._tried.get(montage_id, _Tried())
        if tried.outage != outage:
            tried = replace(tried, outage=outage, outages=tried.outages + 1)
            self._tried[montage_id] = tried
        if tried.outages <= LIMITED_ATTEMPTS:
            self._await_outage_end.add(montage_id)
        # Longer than the time until the next probe, so that the next trial is another montage, if there is one.
        plain_s = MAX_DELAY_S if tried.outages > LIMITED_ATTEMPTS else FIRST_DELAY_S + 2 * pause_s
        return plain_s * (0.75 + 0.5 * chance)

    def after_outage(self) -> tuple[int, ...]:
        """Return the montages that waited for the end of the outage, and remove them."""
        waiting, self._await_outage_end = tuple(self._await_outage_end), set()
        return waiting

    def forget(self, montage_id: int) -> None:
        """Drop the attempts of a montage that made progress or FAILED."""
        self._tried.pop(montage_id, None)
        self._await_outage_end.discard(montage_id)
