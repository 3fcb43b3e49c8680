"""Alerts: checks the daemon's facts every few seconds, and sends messages to people; the journal stores both."""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from daemon.config.settings import Settings
from daemon.journal import alerts as rows
from daemon.journal.journal import Journal
from daemon.journal.outbox import last_number
from daemon.notify.addresses import read_addresses, send
from daemon.notify.alert_state import AlertState
from daemon.notify.alerting import AlertKind, Condition, Draft, Severity
from daemon.notify.digest import digest_text
from daemon.notify.heartbeat import beat
from daemon.notify.messages import Message, given_up, message_of, on_their_way
from daemon.notify.observer import OUTBOX, Observer, Sight
from daemon.notify.sender import AGAIN_S, Send, Sender
from daemon.notify.silences import is_silent
from daemon.pipeline.health import Facts
from handlers.errors import Fault

log = structlog.get_logger()

LOOK_S = 10.0
SAVE_S = 10.0
ID_BYTES = 4
DIGEST_CONDITION = Condition(AlertKind.DIGEST, "", "digest", "")


class Alerting:
    """Sends messages about what is wrong, until cancelled. A message that cannot be delivered is only a warning.

    A message is committed together with the alerts that it reports, and delivered afterwards. So `kill -9` loses no
    message, and repeats only a message whose delivery was not recorded yet, with the same id.

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
        """Why an address did not take the last message; empty if each did."""
        return self._file_problem or next(iter(self._sender.problems.values()), "")

    async def run(self) -> None:
        """Check the conditions and deliver messages, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(beat(lambda: self._settings().alerts.heartbeat_url, self._facts), name="heartbeat")
            group.create_task(self._deliver_on(), name="alert messages")
            while True:
                if self._settings().alerts.urls_file is not None:
                    await _survive(self.look)
                await asyncio.sleep(LOOK_S)

    async def register(self) -> None:
        """Let alerts begin with the next event. Await it before the first event that they must report."""
        state = await self._opened()
        if self._settings().alerts.urls_file is not None and OUTBOX not in state.notes:
            self._state = state.noting({OUTBOX: await self._journal.read(last_number)})
            await self._save()

    async def look(self) -> None:
        """Look once, and write the messages that are due."""
        state = await self._opened()
        sight = await self._observer.observe(state.notes, self._wall())
        # Nothing is awaited from here to the assignment: the delivery changes the messages, too.
        after = self._after(self._at(state), sight)
        lost = given_up(after.messages, sight.at)
        self._state = replace(after, messages=tuple(each for each in after.messages if each not in lost))
        for message in lost:
            log.error("alert.given_up", title=message.title, message=message.id, hint="try `temwatch notify test`")
        await self._save()
        self._written.set()

    def _after(self, state: AlertState, sight: Sight) -> AlertState:
        """Return the state after a look."""

        def is_silenced(condition: Condition) -> bool:
            return is_silent(condition, sight.silences)

        after = state.look(
            sight.wrong,
            sight.at,
            self._settings().alerts.repeat_s,
            lambda draft: self._message(draft, sight.at),
            is_silenced,
            sight.unknown,
        )
        if sight.since is not None and not is_silenced(DIGEST_CONDITION):
            text = digest_text(sight.since, sight.days, sight.facts, after.alerts, sight.silences)
            draft = Draft(DIGEST_CONDITION.group, Severity.INFO, (DIGEST_CONDITION.key,), (text,))
            after = after.with_message(self._message(draft, sight.at))
        return after.noting(sight.notes)

    def _message(self, draft: Draft, now: float) -> Message:
        return message_of(draft, secrets.token_hex(ID_BYTES), now, self._host)

    async def _opened(self) -> AlertState:
        if self._state is None:
            kept = AlertState.of(await self._journal.read(rows.load))
            if self._state is None:  # the other task was not first
                self._state = self._saved = kept
        return self._state

    def _at(self, state: AlertState) -> AlertState:
        """Return the present state."""
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

    async def _deliver_on(self) -> None:
        """Deliver new messages at once, and retry the others, until cancelled."""
        while True:
            self._written.clear()
            if self._settings().alerts.urls_file is not None:
                await _survive(self.deliver)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._written.wait()

    async def deliver(self) -> None:
        """Try once to deliver the messages that the journal has stored, or cannot store."""
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
        before = self._at(state)
        after = on_their_way(before.messages, taken, len(addresses))
        self._state = replace(before, messages=after)
        await self._save()
        _log_delivered(before.messages, after)


async def _survive(work: Callable[[], Awaitable[None]]) -> None:
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
