"""Times at which the newest sections of each microscope were noticed."""

from collections import defaultdict
from dataclasses import dataclass, field

from daemon.journal.transaction import Connection

NEWEST = 3000
"""Largest number of montages that are read, over all microscopes."""
_NEWEST = "SELECT watch, scope, z, noticed_at FROM montages ORDER BY id DESC LIMIT ?"


@dataclass(slots=True)
class SectionTimes:
    """Times of the newest sections, seconds since 1970 UTC."""

    of_scopes: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """When each section was first noticed, ascending, by watch and scope; an unknown scope is empty."""
    of_unread: dict[str, float] = field(default_factory=dict)
    """When the newest unread metafile was noticed, by watch. Its microscope is unknown."""


def section_times(connection: Connection) -> SectionTimes:
    """Return the times of the newest sections. A section with several regions has the time of its first region."""
    times = SectionTimes()
    first: defaultdict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for watch, scope, z, noticed_at in connection.execute(_NEWEST, (NEWEST,)):
        if z is None:
            times.of_unread[watch] = max(noticed_at, times.of_unread.get(watch, 0.0))
        else:
            sections = first[watch, scope or ""]
            sections[z] = min(noticed_at, sections.get(z, noticed_at))
    times.of_scopes = {key: sorted(sections.values()) for key, sections in first.items()}
    return times
