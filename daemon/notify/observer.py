"""Observer: reads all facts that alerts follow from, as of one moment."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from daemon.config.settings import Settings
from daemon.journal import alerts as rows
from daemon.journal.day import Day, days_since
from daemon.journal.differences import Differing, differing
from daemon.journal.file import Connection
from daemon.journal.journal import Journal
from daemon.journal.judged import Broken, broken_after
from daemon.journal.outbox import last_number
from daemon.journal.section_times import SectionTimes, section_times
from daemon.journal.silences import SilenceRow, lasting
from daemon.notify.alerting import AlertKind, Condition
from daemon.notify.conditions import WORKERS_LOST_S, Observed, Waiting, accessible, conditions
from daemon.notify.digest import last_due
from daemon.notify.expiry import Expiry, ending, expiries
from daemon.notify.quiet import quiet_scopes
from daemon.pipeline.health import Facts
from daemon.system.threads import in_thread

OLDEST_S = 86_400.0
"""Older events are not reported, for example after alerts were switched on again."""
EXPIRIES_EVERY_S = 3600.0
EXPIRIES_S = 5.0
"""Longest wait for the certificates; a later observation uses their result."""
OUTBOX = "outbox"
"""Name of the note with the number of the last event of the outbox that was reported."""
DIGEST = "digest"
"""Name of the note with the time of the last digest."""

Notes = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Sight:
    """Result of an observation."""

    at: float
    """Seconds since 1970 UTC."""
    facts: Facts
    wrong: list[Condition]
    unknown: frozenset[tuple[AlertKind, str]]
    """Kinds and watches that could not be checked: their alerts stay as they are."""
    silences: list[SilenceRow]
    notes: Notes
    """To be stored with the messages that follow from this observation."""
    since: float | None = None
    """If a digest is due, the time of the last one."""
    days: list[Day] = field(default_factory=list)
    """Results for the digest."""


class _Read(NamedTuple):
    """Facts from the journal, as of one moment."""

    failed: list[Waiting]
    late: list[Waiting]
    broken: list[Broken]
    position: float
    """Up to which event of the outbox `broken` goes."""
    differing: list[Differing]
    times: SectionTimes
    silences: list[SilenceRow]
    days: list[Day]


def _look_up(
    connection: Connection, now: float, late_before: Mapping[str, float], position: float | None, since: float | None
) -> _Read:
    broken: list[Broken] = []
    if position is None:  # switched on by a reload: alerts begin with the next event
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
        silences=lasting(connection, now),
        days=[] if since is None else days_since(connection, since),
    )


class Observer:
    """Observes the daemon. It keeps the deaths of workers, which the journal does not know.

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

    async def observe(self, notes: Notes, now: float) -> Sight:
        """Return what is wrong now."""
        facts = await self._facts()
        await self._look_for_expiries(now)
        late_before = {watch.name: now - watch.arrival_timeout_s / 2 for watch in self._settings().watch}
        since, digest_at = self._digest(notes.get(DIGEST), now)
        read = await self._journal.read(
            lambda connection: _look_up(connection, now, late_before, notes.get(OUTBOX), since)
        )
        lost = self._workers_lost(now, facts.worker_deaths)
        looked_at = accessible(facts.roots)
        wrong = [
            *conditions(Observed(facts, read.failed, read.late, read.broken, read.differing, lost)),
            *quiet_scopes(read.times, now, looked_at),
            *ending(self._expiries or (), now),
        ]
        unknown = {(AlertKind.SCOPE_QUIET, root.name) for root in facts.roots if root.name not in looked_at}
        if self._expiries is None:
            unknown.add((AlertKind.EXPIRES, ""))
        remembered = {OUTBOX: read.position, DIGEST: digest_at}
        return Sight(now, facts, wrong, frozenset(unknown), read.silences, remembered, since, read.days)

    def _digest(self, last: float | None, now: float) -> tuple[float | None, float]:
        """Return the time of the last digest if one is due, and the time that counts as the last one from now on."""
        at = self._settings().alerts.daily_digest
        if last is None or at is None:
            return None, now if last is None else last
        return (last, now) if last < last_due(now, at) else (None, last)

    def _workers_lost(self, now: float, deaths: int) -> int:
        """Return how many workers died in the last minutes."""
        self._deaths.append((now, deaths))
        while self._deaths[0][0] < now - WORKERS_LOST_S:
            _, self._deaths_before = self._deaths.popleft()
        return deaths - self._deaths_before

    async def _look_for_expiries(self, now: float) -> None:
        """Check certificates and tokens in a thread from time to time, and keep the result."""
        if self._looking is None and (self._expiries_at is None or now - self._expiries_at >= EXPIRIES_EVERY_S):
            render, self._expiries_at = self._settings().render, now
            self._looking = in_thread(lambda: expiries(render), "expiries")
        if self._looking is not None and (await asyncio.wait([self._looking], timeout=EXPIRIES_S))[0]:
            self._expiries = None if self._looking.exception() else self._looking.result()
            self._looking = None
