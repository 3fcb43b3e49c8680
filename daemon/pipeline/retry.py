"""When a step that failed is tried again: (fault, attempt, chance) -> seconds, or never. Pure."""

from dataclasses import dataclass, replace

from handlers.errors import Fault, ImageChanging, Waiting

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 300.0
CHANGING_DELAY_S = 15.0
"""The longest delay while an image is being written: it costs one read, and its writer may end at any moment."""
LIMITED_ATTEMPTS = 5
"""Attempts granted to faults that waiting may or may not help. Those that outages cost do not count."""
CRASHES_BEFORE_PARKING = 10
"""Attempts that began, made no progress and never ended: the montage is what kills the process."""


def retry_delay_s(fault: Fault, attempt: int, chance: float) -> float | None:
    """Seconds until the next attempt, doubling from 1 s to 300 s with a quarter of jitter; None to give up.

    Parameters
    ----------
    fault : what ended the attempt.
    attempt : 1 for the first. For a fault that waiting may or may not help: of those that ended with such a fault.
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
    longest_s = CHANGING_DELAY_S if isinstance(fault, ImageChanging) else LONGEST_DELAY_S
    plain: float = min(longest_s, FIRST_DELAY_S * 2 ** min(attempt - 1, 30))
    return plain * (0.75 + 0.5 * chance)


@dataclass(frozen=True, slots=True)
class _Tried:
    limited: int = 0
    """Attempts that ended with a fault that waiting may or may not help."""
    outage: int = 0
    """The last outage in which it failed."""
    outages: int = 0
    """In how many it failed."""


class Tries:
    """What montages' attempts at their present step came to. In memory: a restart grants attempts anew."""

    def __init__(self) -> None:
        self._tried: dict[int, _Tried] = {}
        self._late: set[int] = set()

    def delay_s(self, montage_id: int, fault: Fault, attempt: int, chance: float) -> float | None:
        """Seconds until the next attempt; None to give up.

        Parameters
        ----------
        attempt : all attempts at the step.
        """
        if fault.waiting_helps is not Waiting.LIMITED:
            return retry_delay_s(fault, attempt, chance)
        tried = self._tried.get(montage_id, _Tried())
        self._tried[montage_id] = tried = replace(tried, limited=tried.limited + 1)
        return retry_delay_s(fault, tried.limited, chance)

    def delay_in_outage_s(self, montage_id: int, outage: int, pause_s: float, chance: float) -> float:
        """Seconds until the next attempt of a montage that failed in an outage, which is not its fault.

        It is tried at once when the outage is over. One that fails in one outage after the other may be the cause of
        them: it then waits long, and others go first.

        Parameters
        ----------
        outage : its number.
        pause_s : until the service is asked next.
        """
        tried = self._tried.get(montage_id, _Tried())
        if tried.outage != outage:
            tried = replace(tried, outage=outage, outages=tried.outages + 1)
            self._tried[montage_id] = tried
        if tried.outages <= LIMITED_ATTEMPTS:
            self._late.add(montage_id)
        # Longer than until the next probe: the next piece of work that is tried is another one, if there is one.
        plain_s = LONGEST_DELAY_S if tried.outages > LIMITED_ATTEMPTS else FIRST_DELAY_S + 2 * pause_s
        return plain_s * (0.75 + 0.5 * chance)

    def after_outage(self) -> tuple[int, ...]:
        """Montages that wait for the end of the outage alone; each is told once."""
        late, self._late = tuple(self._late), set()
        return late

    def forget(self, montage_id: int) -> None:
        """The montage made progress, or FAILED."""
        self._tried.pop(montage_id, None)
        self._late.discard(montage_id)
