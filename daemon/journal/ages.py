"""How old montages are, though somebody sets the clock."""

from collections.abc import Callable

Clock = Callable[[], float]

SET_S = 1.0
"""A clock that differs by more than this from a steady one was set."""


class Ages:
    """Ages of montages in seconds: the time that passed, whatever the wall clock was set to meanwhile.

    The journal holds the time that the wall clock showed. A montage that was noticed before the clock was set has the
    smaller id, so the first new id after that tells which ages the step concerns.

    Parameters
    ----------
    wall : seconds since 1970 UTC.
    steady : a clock that nobody sets.
    """

    def __init__(self, wall: Clock, steady: Clock) -> None:
        self._wall = wall
        self._steady = steady
        self._ahead_s = wall() - steady()
        self._steps: list[tuple[float, int | None]] = []
        """By how much the clock was set, and the last id of before; None until a montage is noticed after it."""

    def begin(self, montage_id: int) -> None:
        """This montage is new."""
        self._see_steps()
        self._steps = [(step_s, montage_id - 1 if last is None else last) for step_s, last in self._steps]

    def seconds(self, montage_id: int, noticed_at: float) -> float:
        """Age of a montage that was noticed when the wall clock showed `noticed_at`."""
        self._see_steps()
        set_s = sum(step_s for step_s, last in self._steps if last is None or montage_id <= last)
        return max(0.0, self._wall() - noticed_at - set_s)

    def _see_steps(self) -> None:
        ahead_s = self._wall() - self._steady()
        if abs(ahead_s - self._ahead_s) > SET_S:
            self._steps.append((ahead_s - self._ahead_s, None))
        self._ahead_s = ahead_s
