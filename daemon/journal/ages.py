"""Ages of montages, unaffected when the wall clock is set."""

from collections.abc import Callable

Clock = Callable[[], float]

SET_S = 1.0
"""The wall clock counts as set if it has moved by more than this against the steady clock."""


class Ages:
    """Ages of montages in seconds, corrected for steps of the wall clock.

    The journal stores wall-clock times. Ids ascend, so the first id after a step of the clock separates the
    montages that were noticed before it. Their ages are corrected by the step.

    Parameters
    ----------
    wall : seconds since 1970 UTC.
    steady : monotonic clock, seconds.
    """

    def __init__(self, wall: Clock, steady: Clock) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead_s = wall() - steady()
        self._steps: list[tuple[float, int | None]] = []
        """Each step of the clock, seconds, with the last id before it; None until a montage is noticed after it."""

    def begin(self, montage_id: int) -> None:
        """Record that a montage was created now."""
        self._detect_step()
        self._steps = [(step_s, montage_id - 1 if last is None else last) for step_s, last in self._steps]

    def seconds(self, montage_id: int, noticed_at: float) -> float:
        """Return the age of a montage, seconds.

        Parameters
        ----------
        noticed_at : wall-clock time when the montage was noticed, seconds since 1970 UTC.
        """
        self._detect_step()
        set_s = sum(step_s for step_s, last in self._steps if last is None or montage_id <= last)
        return max(0.0, self._wall() - noticed_at - set_s)

    def _detect_step(self) -> None:
        ahead_s = self._wall() - self._steady()
        if abs(ahead_s - self._ahead_s) > SET_S:
            self._steps.append((ahead_s - self._ahead_s, None))
        self._ahead_s = ahead_s
