"""Alerts: looks at the daemon's facts every few seconds, and tells people what is wrong; the journal remembers it."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

import aiohttp
import structlog

from daemon.config.settings import Settings
from daemon.journal import alerts as rows
from daemon.journal.journal import Journal
from daemon.notify.alerting import Alert, AlertKind, Condition, Key, Message, delivered, due, observe
from daemon.notify.conditions import WORKERS_LOST_S, Observed, Waiting, conditions
from daemon.notify.messages import send
from daemon.pipeline.health import Facts, reasons_not_ready
from handlers.errors import Fault

log = structlog.get_logger()

LOOK_S = 10.0
SEND_S = 60.0
"""Time-out of one message."""
AGAIN_S = 60.0
"""Pause after a message that could not be delivered."""
HEARTBEAT_S = 60.0
ANSWER_S = 10.0
SAVE_S = 10.0


class Alerting:
    """Tells people what is wrong, until cancelled. A message that cannot be delivered is a warning and stops nothing.

    Parameters
    ----------
    settings : returns the present configuration.
    facts : returns the facts that readiness depends on.
    wall : seconds since 1970 UTC.
    deliver : sends title and body; the last argument says whether it is good news. Raises Fault.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        facts: Callable[[], Awaitable[Facts]],
        *,
        wall: Callable[[], float] = time.time,
        deliver: Callable[[str, str, bool], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._wall = wall
        self._deliver = deliver or self._send
        self._alerts: dict[Key, Alert] | None = None
        self._saved: dict[Key, Alert] = {}
        self._deaths: deque[tuple[float, int]] = deque()
        self._deaths_before = 0
        self._send_again_at = 0.0
        self.problem = ""
        """Why the last message was not delivered; empty if it was."""

    async def run(self) -> None:
        """Look, and tell, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat(), name="heartbeat")
            while True:
                if self._settings().alerts.urls_file is not None:
                    await self.look()
                await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once, and send the messages that are due."""
        if self._alerts is None:
            self._alerts = self._saved = dict(map(_alert, await self._journal.read(rows.load)))
        now = self._wall()
        self._alerts = observe(self._alerts, conditions(await self._observed(now)), now)
        await self._save()
        if now < self._send_again_at:
            return
        for message in due(self._alerts, now, self._settings().alerts.repeat_s):
            if not await self._tell(message):
                self._send_again_at = now + AGAIN_S
                return
            self._alerts = delivered(self._alerts, message, now)
            await self._save()

    async def _observed(self, now: float) -> Observed:
        facts = await self._facts()
        before = {watch.name: now - watch.arrival_timeout_s / 2 for watch in self._settings().watch}
        failed = await self._journal.read(rows.failed_montages)
        late = await self._journal.read(lambda connection: rows.late_montages(connection, before))
        return Observed(
            facts,
            [Waiting(*each) for each in failed],
            [Waiting(*each) for each in late],
            self._workers_lost(now, facts.worker_deaths),
        )

    def _workers_lost(self, now: float, deaths: int) -> int:
        """Return how many workers died in the last minutes."""
        self._deaths.append((now, deaths))
        while self._deaths[0][0] < now - WORKERS_LOST_S:
            _, self._deaths_before = self._deaths.popleft()
        return deaths - self._deaths_before

    async def _save(self) -> None:
        """Store what changed. While the journal cannot be written, memory has to do."""
        assert self._alerts is not None
        after = dict(self._alerts)
        changed = [_row(alert) for key, alert in after.items() if self._saved.get(key) != alert]
        gone = [(str(kind), watch, subject) for kind, watch, subject in self._saved.keys() - after.keys()]
        if self._journal.fault is not None or not (changed or gone):
            return
        try:
            async with asyncio.timeout(SAVE_S):
                await self._journal.write(lambda connection: rows.save(connection, changed, gone))
        except TimeoutError:
            return
        self._saved = after

    async def _tell(self, message: Message) -> bool:
        """Send a message; return whether it was delivered."""
        try:
            async with asyncio.timeout(SEND_S):
                await self._deliver(message.title, message.body, message.is_over)
        except TimeoutError:
            self.problem = f"a message was not delivered within {SEND_S:.0f} s"
        except Fault as fault:
            self.problem = str(fault)
        else:
            self.problem = ""
            log.info("alert.sent", kind=str(message.kind), watch=message.watch, over=message.is_over)
            return True
        log.warning("alert.undelivered", kind=str(message.kind), problem=self.problem)
        return False

    async def _send(self, title: str, body: str, is_good: bool) -> None:
        path = self._settings().alerts.urls_file
        assert path is not None
        await asyncio.to_thread(send, path, title, body, is_good=is_good)

    async def _beat(self) -> None:
        """Ask the heartbeat's address every minute while the daemon is ready."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            while True:
                url = self._settings().alerts.heartbeat_url
                if url is not None and not reasons_not_ready(await self._facts()):
                    await _ask(session, url)
                await asyncio.sleep(HEARTBEAT_S)


async def _ask(session: aiohttp.ClientSession, url: str) -> None:
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=ANSWER_S)) as response:
            if response.status >= 400:
                log.warning("heartbeat.refused", status=response.status)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        log.warning("heartbeat.unanswered", problem=type(error).__name__)


def _alert(row: rows.Row) -> tuple[Key, Alert]:
    kind, watch, subject, text, since, sent_at, ended_at = row
    alert = Alert(Condition(AlertKind(kind), watch, subject, text), since, sent_at, ended_at)
    return alert.condition.key, alert


def _row(alert: Alert) -> rows.Row:
    condition = alert.condition
    return (
        str(condition.kind), condition.watch, condition.subject, condition.text,
        alert.since, alert.sent_at, alert.ended_at,
    )  # fmt: skip
