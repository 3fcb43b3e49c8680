"""Whether the events of a root tell the truth: measured by what scans find that no event had announced. No clock."""

from collections import deque
from collections.abc import Iterator, Set

LIES_TO_FALL = 3
"""Passes with unannounced metafiles, among the last OUTCOMES, after which a root's events are not believed."""
OUTCOMES = 10
"""Outcomes remembered; this many announced ones in a row, and events are believed again."""
ANNOUNCEMENTS_KEPT = 10_000


class EventReliability:
    """Compares what events announced with what scans found. Times are seconds of one monotonic clock.

    Parameters
    ----------
    grace_s : how long after a find its event may still come; watchdog itself holds some back for half a second, and
        more when it is flooded.
    """

    def __init__(self, grace_s: float) -> None:
        self.found_by_event = 0
        self.found_only_by_scan = 0
        self.is_lying = False
        """Whether events have been missing too often to be relied on."""
        self._grace_s = grace_s
        self._announced: dict[str, float] = {}
        self._awaited: dict[str, tuple[float, bool]] = {}
        self._outcomes: deque[bool] = deque(maxlen=OUTCOMES)
        self._excused_until = float("-inf")

    def announce(self, path: str, now: float) -> None:
        """An event named a metafile."""
        if self._awaited.pop(path, None):
            self._told()
        elif len(self._announced) < ANNOUNCEMENTS_KEPT:
            self._announced[path] = now

    def announce_trees(self, directories: Set[str]) -> None:
        """Events named new directories: what was found in them counts as announced."""
        for path in [path for path in self._awaited if not directories.isdisjoint(_above(path))]:
            del self._awaited[path]
            self._told()

    def was_announced(self, path: str) -> bool:
        """Whether an event has named a metafile that is about to be reported by `find`."""
        return path in self._announced

    def find(self, path: str, now: float, *, announced: bool, events_expected: bool) -> None:
        """A scan found a metafile, new or changed.

        Parameters
        ----------
        announced : whether the scan was made because of an event that named it or its directory.
        events_expected : whether its directory is watched, on a file system that tells of every change.
        """
        if self._announced.pop(path, None) is not None or announced:
            self._told()
        else:
            self._awaited.setdefault(path, (now + self._grace_s, events_expected))

    def excuse(self, until: float) -> None:
        """Events are known to have been lost: what only scans find until then is counted, and held against nobody."""
        self._excused_until = max(self._excused_until, until)

    def judge(self, now: float) -> None:
        """Counts what no event announced in time. To be called once per pass: a pass makes at most one lie."""
        late = [(path, expected) for path, (deadline, expected) in self._awaited.items() if deadline <= now]
        for path, _ in late:
            del self._awaited[path]
        self.found_only_by_scan += len(late)
        if any(expected for _, expected in late) and now > self._excused_until:
            self._outcomes.append(False)
            self.is_lying = self.is_lying or self._outcomes.count(False) >= LIES_TO_FALL
        self._announced = {path: at for path, at in self._announced.items() if at > now - self._grace_s}

    def _told(self) -> None:
        self.found_by_event += 1
        self._outcomes.append(True)
        if False not in self._outcomes and len(self._outcomes) == OUTCOMES:
            self.is_lying = False


def _above(path: str) -> Iterator[str]:
    """Directories that a path lies in, the nearest first.

    >>> list(_above("/a/b/c"))
    ['/a/b', '/a']
    """
    while path := path.rpartition("/")[0]:
        yield path
