"""Alerts: check the daemon's facts every few seconds and send messages to people. The journal stores both."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import alerts as rows
from daemon.journal.tables.outbox import last_number
from daemon.notify.alerts.addresses import read_addresses, send
from daemon.notify.alerts.broadcast import RETRY_S, Send, Sender
from daemon.notify.alerts.digest import digest_text
from daemon.notify.alerts.heartbeat import send_heartbeats
from daemon.notify.alerts.messages import Message, given_up, message_of, undelivered
from daemon.notify.alerts.observer import OUTBOX, Observation, Observer
from daemon.notify.alerts.rules import AlertKind, Condition, Draft, Severity
from daemon.notify.alerts.silences import is_silent
from daemon.notify.alerts.state import AlertState
from daemon.pipeline.health import Facts
from handlers.errors import Fault

log = structlog.get_logger()

CHECK_S = 10.0
SAVE_S = 10.0
ID_BYTES = 4
DIGEST_CONDITION = Condition(AlertKind.DIGEST, "", "digest", "")


class Alerting:
    """Sends messages about conditions, until cancelled. A message that cannot be delivered is only a warning.

    A message is committed together with the alerts that it reports, and delivered afterwards. A killed process loses no
    message. It repeats only messages whose delivery was not recorded, with the same id.

    Parameters
    ----------
    settings : returns the present configuration.
    facts : returns the facts that readiness depends on.
    wall : seconds since 1970 UTC.
    send : sends a message to an address. Blocking; raises Fault.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        facts: Callable[[], Awaitable[Facts]],
        *,
        wall: Callable[[], float] = time.time,
        send: Send | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._wall = wall
        self._sender = Sender(send or _send, wall)
        self._observer = Observer(settings, journal, facts)
        self._host = socket.gethostname()
        self._state: AlertState | None = None
        self._saved = AlertState()
        self._saving = asyncio.Lock()
        self._written = asyncio.Event()
        self._file_problem = ""

    @property
    def problem(self) -> str:
        """Why an address did not accept its last message; empty if all did."""
        return self._file_problem or next(iter(self._sender.problems.values()), "")

    async def run(self) -> None:
        """Check the conditions and deliver messages, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(
                send_heartbeats(lambda: self._settings().alerts.heartbeat_url, self._facts), name="heartbeat"
            )
            group.create_task(self._run_delivery(), name="alert messages")
            while True:
                if self._settings().alerts.urls_file is not None:
                    await _log_bugs(self.check)
                await asyncio.sleep(CHECK_S)

    async def register(self) -> None:
        """Start alerts at the next event. Await this before the first event that they must report."""
        state = await self._opened()
        if self._settings().alerts.urls_file is not None and OUTBOX not in state.notes:
            self._state = state.with_notes({OUTBOX: await self._journal.read(last_number)})
            await self._save()

    async def check(self) -> None:
        """Observe once, and write the messages that are due."""
        state = await self._opened()
        seen = await self._observer.observe(state.notes, self._wall())
        # Nothing is awaited from here to the assignment, since the delivery task changes the messages, too.
        after = self._after(self._latest(state), seen)
        lost = given_up(after.messages, seen.at)
        self._state = replace(after, messages=tuple(each for each in after.messages if each not in lost))
        for message in lost:
            log.error("alert.given_up", title=message.title, message=message.id, hint="try `temwatch notify test`")
        await self._save()
        self._written.set()

    def _after(self, state: AlertState, seen: Observation) -> AlertState:
        """Return the state after an observation, with the digest if it is due."""

        def is_silenced(condition: Condition) -> bool:
            return is_silent(condition, seen.silences)

        after = state.update(
            seen.wrong,
            seen.at,
            self._settings().alerts.repeat_s,
            lambda draft: self._message(draft, seen.at),
            is_silenced,
            seen.unknown,
        )
        if seen.since is not None and not is_silenced(DIGEST_CONDITION):
            text = digest_text(seen.since, seen.days, seen.facts, after.alerts, seen.silences)
            draft = Draft(DIGEST_CONDITION.group, Severity.INFO, (DIGEST_CONDITION.key,), (text,))
            after = after.with_message(self._message(draft, seen.at))
        return after.with_notes(seen.notes)

    def _message(self, draft: Draft, now: float) -> Message:
        return message_of(draft, secrets.token_hex(ID_BYTES), now, self._host)

    async def _opened(self) -> AlertState:
        if self._state is None:
            kept = AlertState.of(await self._journal.read(rows.load))
            if self._state is None:  # the other task may have loaded it meanwhile
                self._state = self._saved = kept
        return self._state

    def _latest(self, state: AlertState) -> AlertState:
        """Return the present state; the given one if none was assigned yet."""
        return self._state or state

    async def _save(self) -> None:
        """Store the changes. While the journal cannot be written, they stay in memory."""
        async with self._saving:
            state = await self._opened()
            change = state.change_from(self._saved)
            if self._journal.fault is not None or not any(change):
                return
            try:
                async with asyncio.timeout(SAVE_S):
                    await self._journal.write(lambda connection: rows.save(connection, change))
            except TimeoutError:
                return
            self._saved = state

    # --- delivery

    async def _run_delivery(self) -> None:
        """Deliver new messages at once and retry the others, until cancelled."""
        while True:
            self._written.clear()
            if self._settings().alerts.urls_file is not None:
                await _log_bugs(self.deliver)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    await self._written.wait()

    async def deliver(self) -> None:
        """Attempt once to deliver the stored messages; all messages while the journal cannot be written."""
        state = await self._opened()
        stored = {message.id for message in self._saved.messages}
        messages = [each for each in state.messages if each.id in stored or self._journal.fault is not None]
        path = self._settings().alerts.urls_file
        if not messages or path is None:
            return
        problem = self.problem
        try:
            addresses = await asyncio.to_thread(read_addresses, path)
        except Fault as fault:
            addresses, self._file_problem = [], str(fault)
        else:
            self._file_problem = ""
        taken = await self._sender.deliver(messages, addresses)
        if self.problem not in ("", problem):
            log.warning("alert.undelivered", problem=self.problem)
        if not addresses:
            return
        before = self._latest(state)
        after = undelivered(before.messages, taken, len(addresses))
        self._state = replace(before, messages=after)
        await self._save()
        _log_delivered(before.messages, after)


async def _log_bugs(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except Exception:  # it would end the daemon
        log.exception("alerts.bug")


def _log_delivered(before: tuple[Message, ...], after: tuple[Message, ...]) -> None:
    left = {message.id for message in after}
    for message in before:
        if message.id not in left:
            log.info("alert.sent", title=message.title, message=message.id)


def _send(address: str, number: int, message: Message) -> None:
    send(address, number, message.title, message.body, message.severity)
