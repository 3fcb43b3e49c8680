"""Observer: read all facts from which alerts follow, at one moment."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import alerts as rows
from daemon.journal.tables.differences import Differing, differing
from daemon.journal.tables.outbox import last_number
from daemon.journal.tables.results import Day, days_since
from daemon.journal.tables.rule_breaks import Broken, broken_after
from daemon.journal.tables.section_times import SectionTimes, section_times
from daemon.journal.tables.silences import SilenceRow, active
from daemon.journal.transaction import Connection
from daemon.notify.alerts.conditions import WORKERS_LOST_S, Observed, Waiting, accessible, conditions
from daemon.notify.alerts.digest import last_due
from daemon.notify.alerts.expiry import Expiry, ending, expiries
from daemon.notify.alerts.quiet_scopes import quiet_scopes
from daemon.notify.alerts.rules import AlertKind, Condition
from daemon.pipeline.health import Facts
from daemon.system.threads import in_thread

OLDEST_S = 86_400.0
"""Age from which on events are not reported, for example after alerts were switched on again."""
EXPIRIES_EVERY_S = 3600.0
EXPIRIES_S = 5.0
"""Longest wait for the certificates. A later observation uses a late result."""
OUTBOX = "outbox"
"""Name of the note with the number of the last event of the outbox that was reported."""
DIGEST = "digest"
"""Name of the note with the time of the last digest."""

Notes = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Observation:
    """Result of an observation."""

    at: float
    """Seconds since 1970 UTC."""
    facts: Facts
    wrong: list[Condition]
    """The present conditions."""
    unknown: frozenset[tuple[AlertKind, str]]
    """Kinds and watches that could not be checked. Their alerts do not change."""
    silences: list[SilenceRow]
    notes: Notes
    """Notes to be stored together with the messages of this observation."""
    since: float | None = None
    """Time of the last digest, if a digest is due; otherwise None."""
    days: list[Day] = field(default_factory=list)
    """Results for the digest."""


class _Read(NamedTuple):
    """Facts from the journal, of one transaction."""

    failed: list[Waiting]
    late: list[Waiting]
    broken: list[Broken]
    position: float
    """Number of the last event of the outbox that `broken` covers."""
    differing: list[Differing]
    times: SectionTimes
    silences: list[SilenceRow]
    days: list[Day]


def _look_up(
    connection: Connection, now: float, late_before: Mapping[str, float], position: float | None, since: float | None
) -> _Read:
    broken: list[Broken] = []
    if position is None:  # switched on by a reload: alerts start at the next event
        position = last_number(connection)
    else:
        broken, position = broken_after(connection, int(position), now - OLDEST_S)
    return _Read(
        failed=[Waiting(*each) for each in rows.failed_montages(connection)],
        late=[Waiting(*each) for each in rows.late_montages(connection, late_before)],
        broken=broken,
        position=position,
        differing=differing(connection),
        times=section_times(connection),
        silences=active(connection, now),
        days=[] if since is None else days_since(connection, since),
    )


class Observer:
    """Observes the daemon. It remembers the deaths of workers, which the journal does not record.

    Parameters
    ----------
    settings : returns the present configuration.
    facts : returns the facts that readiness depends on.
    """

    def __init__(
        self, settings: Callable[[], Settings], journal: Journal, facts: Callable[[], Awaitable[Facts]]
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._deaths: deque[tuple[float, int]] = deque()
        self._deaths_before = 0
        self._expiries: list[Expiry] | None = None
        self._expiries_at: float | None = None
        self._looking: asyncio.Future[list[Expiry] | None] | None = None

    async def observe(self, notes: Notes, now: float) -> Observation:
        """Return the present conditions and the facts behind them.

        Parameters
        ----------
        notes : notes of the last observation.
        now : seconds since 1970 UTC.
        """
        facts = await self._facts()
        await self._check_expiries(now)
        late_before = {watch.name: now - watch.arrival_timeout_s / 2 for watch in self._settings().watch}
        since, digest_at = self._digest(notes.get(DIGEST), now)
        read = await self._journal.read(
            lambda connection: _look_up(connection, now, late_before, notes.get(OUTBOX), since)
        )
        lost = self._workers_lost(now, facts.worker_deaths)
        scanned = accessible(facts.roots)
        wrong = [
            *conditions(Observed(facts, read.failed, read.late, read.broken, read.differing, lost)),
            *quiet_scopes(read.times, now, scanned),
            *ending(self._expiries or (), now),
        ]
        unknown = {(AlertKind.SCOPE_QUIET, root.name) for root in facts.roots if root.name not in scanned}
        if self._expiries is None:
            unknown.add((AlertKind.EXPIRES, ""))
        remembered = {OUTBOX: read.position, DIGEST: digest_at}
        return Observation(now, facts, wrong, frozenset(unknown), read.silences, remembered, since, read.days)

    def _digest(self, last: float | None, now: float) -> tuple[float | None, float]:
        """Return the time of the last digest if a digest is due, otherwise None; and the new value of that time."""
        at = self._settings().alerts.daily_digest
        if last is None or at is None:
            return None, now if last is None else last
        return (last, now) if last < last_due(now, at) else (None, last)

    def _workers_lost(self, now: float, deaths: int) -> int:
        """Return how many workers died in the last `WORKERS_LOST_S`."""
        self._deaths.append((now, deaths))
        while self._deaths[0][0] < now - WORKERS_LOST_S:
            _, self._deaths_before = self._deaths.popleft()
        return deaths - self._deaths_before

    async def _check_expiries(self, now: float) -> None:
        """Check certificates and tokens in a thread every `EXPIRIES_EVERY_S`, and keep the result."""
        if self._looking is None and (self._expiries_at is None or now - self._expiries_at >= EXPIRIES_EVERY_S):
            render, self._expiries_at = self._settings().render, now
            self._looking = in_thread(lambda: expiries(render), "expiries")
        if self._looking is not None and (await asyncio.wait([self._looking], timeout=EXPIRIES_S))[0]:
            self._expiries = None if self._looking.exception() else self._looking.result()
            self._looking = None
