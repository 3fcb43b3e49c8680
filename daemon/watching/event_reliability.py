"""Measure whether the events of a root are complete, by the metafiles that only scans find. Has no clock."""

from collections import deque
from collections.abc import Iterator, Set

MISSES_ALLOWED = 3
"""A root's events are unreliable from this many passes with unannounced metafiles among the last OUTCOMES on."""
OUTCOMES = 10
"""Number of remembered outcomes. After this many announced metafiles in a row, events are reliable again."""
ANNOUNCEMENTS_KEPT = 10_000


class EventReliability:
    """Compares metafiles that events announced with metafiles that scans found. Times are seconds of a monotonic clock.

    Parameters
    ----------
    grace_s : time after a scan found a metafile in which its event may still arrive.
    """

    def __init__(self, grace_s: float) -> None:
        self.found_by_event = 0
        self.found_only_by_scan = 0
        self.is_unreliable = False
        """Whether events were missing too often."""
        self._grace_s = grace_s
        self._announced: dict[str, float] = {}
        self._awaited: dict[str, tuple[float, bool]] = {}
        self._outcomes: deque[bool] = deque(maxlen=OUTCOMES)
        self._loss_explained_until = float("-inf")

    def announce(self, path: str, now: float) -> None:
        """Record that an event named a metafile."""
        if self._awaited.pop(path, None):
            self._count_announced()
        elif len(self._announced) < ANNOUNCEMENTS_KEPT:
            self._announced[path] = now

    def announce_trees(self, directories: Set[str]) -> None:
        """Record that events named new directories. Metafiles found in them count as announced."""
        for path in [path for path in self._awaited if not directories.isdisjoint(_above(path))]:
            del self._awaited[path]
            self._count_announced()

    def was_announced(self, path: str) -> bool:
        """Whether an event named a metafile that `find` has not reported yet."""
        return path in self._announced

    def find(self, path: str, now: float, *, announced: bool, events_expected: bool) -> None:
        """Record that a scan found a new or changed metafile.

        Parameters
        ----------
        announced : whether an event that named it or its directory caused the scan.
        events_expected : whether its directory is watched, on a file system that reports every change.
        """
        if self._announced.pop(path, None) is not None or announced:
            self._count_announced()
        else:
            self._awaited.setdefault(path, (now + self._grace_s, events_expected))

    def explain_losses(self, until: float) -> None:
        """Record that events were lost. Metafiles that only scans find until then are no misses."""
        self._loss_explained_until = max(self._loss_explained_until, until)

    def judge(self, now: float) -> None:
        """Count metafiles that no event announced in time. Call this once for each pass: a pass is at most one miss."""
        late = [(path, expected) for path, (deadline, expected) in self._awaited.items() if deadline <= now]
        for path, _ in late:
            del self._awaited[path]
        self.found_only_by_scan += len(late)
        if any(expected for _, expected in late) and now > self._loss_explained_until:
            self._outcomes.append(False)
            self.is_unreliable = self.is_unreliable or self._outcomes.count(False) >= MISSES_ALLOWED
        self._announced = {path: at for path, at in self._announced.items() if at > now - self._grace_s}

    def _count_announced(self) -> None:
        self.found_by_event += 1
        self._outcomes.append(True)
        if False not in self._outcomes and len(self._outcomes) == OUTCOMES:
            self.is_unreliable = False


def _above(path: str) -> Iterator[str]:
    """Yield the directories above a path, the nearest first.

    >>> list(_above("/a/b/c"))
    ['/a/b', '/a']
    """
    while path := path.rpartition("/")[0]:
        yield path
