"""Results of each microscope's montages since a time."""

from dataclasses import dataclass, field

from daemon.journal.tables.rows import UNFINISHED_STATES
from daemon.journal.transaction import Connection

_COMPLETE = (
    "SELECT watch, scope, count(*), coalesce(sum(tile_count), 0) FROM montages"
    " WHERE complete_at >= ? AND complete_at IS NOT NULL GROUP BY watch, scope"
)
_NOW = (
    "SELECT watch, scope, sum(state = 'failed'), sum(state <> 'failed') FROM montages"  # noqa: S608  constant text
    f" WHERE state IN ('failed', {UNFINISHED_STATES}) GROUP BY watch, scope"
)
_VERDICTS = (
    "SELECT watch, montages.scope, verdicts.verdict, count(*) FROM verdicts JOIN montages ON id = montage_id"
    " WHERE judged_at >= ? AND verdicts.verdict IS NOT NULL GROUP BY watch, montages.scope, verdicts.verdict"
)


@dataclass(slots=True)
class Day:
    """Results of one microscope of a watch."""

    watch: str
    scope: str
    """Empty where it is not known."""
    complete: int = 0
    """Montages that became COMPLETE since the time."""
    tiles: int = 0
    """Tiles of these montages."""
    failed: int = 0
    """Montages that are FAILED now."""
    unfinished: int = 0
    """Unfinished montages."""
    verdicts: dict[str, int] = field(default_factory=dict)
    """Number of montages judged since the time, by the rules' verdict."""


def days_since(connection: Connection, at: float) -> list[Day]:
    """Return the results since a time, ordered by watch and scope.

    Parameters
    ----------
    at : seconds since 1970 UTC.
    """
    days: dict[tuple[str, str], Day] = {}

    def day(watch: str, scope: str | None) -> Day:
        return days.setdefault((watch, scope or ""), Day(watch, scope or ""))

    for watch, scope, complete, tiles in connection.execute(_COMPLETE, (at,)):
        day(watch, scope).complete, day(watch, scope).tiles = complete, tiles
    for watch, scope, failed, unfinished in connection.execute(_NOW):
        day(watch, scope).failed, day(watch, scope).unfinished = failed, unfinished
    for watch, scope, verdict, count in connection.execute(_VERDICTS, (at,)):
        day(watch, scope).verdicts[verdict] = count
    return [days[key] for key in sorted(days)]
