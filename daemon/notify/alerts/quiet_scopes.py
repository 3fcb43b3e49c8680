"""Detect microscopes that send no section during an open session. Pure: the time is an argument."""

import statistics
from collections.abc import Collection, Iterator
from itertools import pairwise

from daemon.journal.tables.section_times import SectionTimes
from daemon.montages.announcements import utc_text
from daemon.notify.alerts.rules import AlertKind, Condition

SECTIONS = 20
"""Number of the last sections whose median interval is the usual interval."""
MIN_SECTIONS = 5
"""Fewest sections that give a usual interval."""
TIMES = 3
MIN_S = 1800.0
"""A microscope is quiet after `TIMES` its usual interval, but not before `MIN_S`."""
ACQUIRED_S = 10.0
"""Shortest usual interval of an acquisition. Sections that arrive faster are a copy of an older session."""
SESSION_S = 12 * 3600.0
"""No metafile marks the end of a session. A session ends after this time without a section, or after twice the time
after which the microscope is quiet, whichever is longer."""


def quiet_scopes(times: SectionTimes, now: float, watches: Collection[str]) -> Iterator[Condition]:
    """Yield a condition for each microscope that is quiet in an open session.

    Parameters
    ----------
    watches : names of the watches whose directory can be accessed now.
    """
    for (watch, scope), sections in sorted(times.of_scopes.items()):
        last = sections[-SECTIONS:]
        if watch not in watches or len(last) < MIN_SECTIONS:
            continue
        usual_s = statistics.median(later - earlier for earlier, later in pairwise(last))
        limit_s = max(MIN_S, TIMES * usual_s)
        quiet_s = now - max(last[-1], times.of_unread.get(watch, 0.0))
        if usual_s >= ACQUIRED_S and limit_s <= quiet_s < max(SESSION_S, 2 * limit_s):
            name = scope or watch
            text = f"{name} has sent no section since {utc_text(last[-1])[11:16]} UTC; its usual interval is "
            yield Condition(AlertKind.SCOPE_QUIET, watch, name, text + f"{usual_s / 60:.1f} min", scope)
