"""Forecast when a disk is full at the rate of the last hours. Pure."""

from collections import deque

SAMPLE_S = 60.0
"""Shortest time between two samples."""
HOURS_S = 6 * 3600.0
"""Age at which samples are dropped."""
MIN_S = 600.0
"""Shortest time that the samples have to cover for a forecast."""


class DiskForecast:
    """Samples of the free space of one disk.

    >>> forecast = DiskForecast()
    >>> for minute in range(61):
    ...     forecast.note(60.0 * minute, 10**12 - minute * 10**9)
    >>> forecast.full_in_s(kept_free=40 * 10**9) / 3600
    15.0
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def note(self, now: float, free_bytes: int) -> None:
        """Add a sample of the free space.

        Parameters
        ----------
        now : seconds of a monotonic clock.
        """
        if self._samples and now - self._samples[-1][0] < SAMPLE_S:
            return
        self._samples.append((now, free_bytes))
        while now - self._samples[0][0] > HOURS_S:
            self._samples.popleft()

    def full_in_s(self, kept_free: int) -> float | None:
        """Return the seconds until only `kept_free` bytes are free; None if the disk does not fill or is too new."""
        if not self._samples:
            return None
        (first_s, most), (last_s, free) = self._samples[0], self._samples[-1]
        used_bytes = most - free
        if last_s - first_s < MIN_S or used_bytes <= 0:
            return None
        return max(0.0, (free - kept_free) * (last_s - first_s) / used_bytes)
