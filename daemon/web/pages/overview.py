"""The overview: numbers of each watch and scope, failed sections, and the grid of sections by steps."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from daemon.journal.tables import overview, tallies
from daemon.journal.tables.overview import Filter, Tally
from daemon.journal.tables.rows import Connection
from daemon.montages.records import Montage
from daemon.montages.states import UNFINISHED, MontageState
from daemon.pipeline.health import Facts, waits_of
from daemon.watching.roots import RootHealth
from daemon.web.pages.montage_view import STEPS, view_of

RATE_MINUTES = 10
"""Time over which tiles per minute are averaged."""
HOUR_S = 3600.0
GRID = 300
"""Columns of the grid, and rows of the list below it."""
FAILED = 100
"""Largest number of FAILED montages that are shown."""
TAPES = 500
"""Largest number of tapes that the filter offers."""
WAITS = ("to settle", "to ingest", "to reduce", "to apply", "to close")
"""Headings of the backlog, one for each step."""


@dataclass(frozen=True, slots=True)
class Found:
    """Facts from the journal, of one transaction."""

    tallies: list[Tally]
    completed: Mapping[tuple[str, str], int]
    """(watch, scope) -> sections that became COMPLETE in the last hour."""
    recent: Mapping[tuple[str, str], int]
    """(watch, scope) -> tiles made in the last `RATE_MINUTES`."""
    totals: Mapping[tuple[str, str], int]
    """(watch, scope) -> tiles ever made."""
    tapes: list[str]
    failed: list[Montage]
    montages: list[Montage]
    made: Mapping[int, int]
    """Montage id -> finished tiles, for shown montages whose mipmaps are being made."""
    made_by_scope: Mapping[tuple[str, str], int]
    """(watch, scope) -> finished tiles of montages whose mipmaps are being made."""
    event: int
    """Number of the last event."""


def look_up(connection: Connection, wanted: Filter, now: float) -> Found:
    """Query the facts that the overview shows.

    Parameters
    ----------
    now : seconds since 1970 UTC.
    """
    first_minute = int(now // 60) - RATE_MINUTES + 1
    montages = overview.selected(connection, wanted, GRID)
    being_made = [each.id for each in montages if each.state is MontageState.INGESTED]
    return Found(
        tallies=overview.tallies_of_scopes(connection),
        completed=overview.completed_since(connection, now - HOUR_S),
        recent=tallies.tiles_since(connection, first_minute),
        totals=tallies.tiles_since(connection, 0),
        tapes=overview.tapes(connection, TAPES),
        failed=overview.selected(connection, Filter(state=MontageState.FAILED), FAILED),
        montages=montages,
        made=overview.made_of(connection, being_made),
        made_by_scope=overview.made_by_scope(connection),
        event=overview.last_event(connection),
    )


@dataclass(slots=True)
class Line:
    """Numbers of a watch, or of one of its scopes."""

    watch: str
    scope: str | None
    root: RootHealth | None = None
    """Health of the watch; None for a scope and for a watch that is not configured."""
    by_state: dict[MontageState, int] = field(default_factory=dict)
    tiles_left: int = 0
    """Number of tiles without mipmaps, of settled montages."""
    newest_at: float | None = None
    tiles_per_min: float = 0.0
    sections_per_h: int = 0
    tiles_total: int = 0

    def add(self, tally: Tally) -> None:
        """Add the montages of a state."""
        self.by_state[tally.state] = self.by_state.get(tally.state, 0) + tally.montages
        self.newest_at = max(self.newest_at or 0.0, tally.newest_at)
        if tally.state in (MontageState.SETTLED, MontageState.INGESTED):
            self.tiles_left += tally.tiles

    @property
    def backlog(self) -> list[tuple[str, int]]:
        """Name of each step and number of montages that wait for it or are in it."""
        states = (each for each in MontageState if each in UNFINISHED)
        return [(step, self.by_state.get(state, 0)) for step, state in zip(STEPS, states, strict=True)]

    @property
    def unfinished(self) -> int:
        """Number of unfinished montages."""
        return sum(count for _, count in self.backlog)

    @property
    def empty_in_s(self) -> float | None:
        """Seconds until the backlog is empty at the present rates; None if unknown."""
        if not self.unfinished:
            return 0.0
        by_tiles = 60 * self.tiles_left / self.tiles_per_min if self.tiles_per_min else None
        by_sections = HOUR_S * self.unfinished / self.sections_per_h if self.sections_per_h else None
        return by_tiles if self.tiles_left else by_sections

    def count(self, state: str) -> int:
        """Return the number of montages in a state."""
        return self.by_state.get(MontageState(state), 0)


def lines_of(found: Found, roots: Iterable[RootHealth]) -> list[tuple[Line, list[Line]]]:
    """Return a line for each watch, each with lines for its scopes."""
    lines = {root.name: Line(root.name, None, root) for root in roots}
    scopes: defaultdict[str, dict[str, Line]] = defaultdict(dict)
    for tally in found.tallies:
        line = lines.setdefault(tally.watch, Line(tally.watch, None))
        line.add(tally)
        if tally.scope is not None:
            scopes[tally.watch].setdefault(tally.scope, Line(tally.watch, tally.scope)).add(tally)
    for (watch, scope), target in _targets(lines, scopes):
        target.tiles_per_min += found.recent.get((watch, scope), 0) / RATE_MINUTES
        target.sections_per_h += found.completed.get((watch, scope), 0)
        target.tiles_left -= found.made_by_scope.get((watch, scope), 0)
        target.tiles_total += found.totals.get((watch, scope), 0)
    return [(line, [each for _, each in sorted(scopes.get(name, {}).items())]) for name, line in sorted(lines.items())]


def _targets(
    lines: Mapping[str, Line], scopes: Mapping[str, Mapping[str, Line]]
) -> Iterable[tuple[tuple[str, str], Line]]:
    """Yield each (watch, scope) with a line to which its numbers are added."""
    for watch, line in lines.items():
        for scope in ("", *scopes.get(watch, {})):
            yield (watch, scope), line
        for scope, each in scopes.get(watch, {}).items():
            yield (watch, scope), each


def overview_values(found: Found, facts: Facts, wanted: Filter, now: float) -> dict[str, Any]:
    """Return the values of the template."""
    lines = lines_of(found, facts.roots)
    waits = waits_of(facts)
    shown = [view_of(each, waits.reason_of(each), found.made) for each in found.montages]
    names = sorted({each.scope for _, scopes in lines for each in scopes if each.scope})
    return {
        "lines": lines,
        "disks": facts.disks,
        "crew": facts.crew,
        "render_fault": facts.render_fault,
        "failed": [view_of(each) for each in found.failed],
        "failed_total": sum(line.count("failed") for line, _ in lines),
        "views": shown,
        "steps": STEPS,
        "waits": WAITS,
        "wanted": wanted,
        "watches": [line.watch for line, _ in lines],
        "scopes": names,
        "tapes": found.tapes,
        "states": [str(state) for state in MontageState],
        "older": found.montages[-1].id if len(found.montages) == GRID and not wanted.by_z else None,
        "is_cut": len(found.montages) == GRID,
        "event": found.event,
        "now": now,
    }
