"""`temwatch notify test|list|retry|drop|silence`: deliveries to hooks, messages to people, silences of alerts."""

import asyncio
import getpass
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import aiohttp

from daemon.commands.journal_change import change_journal
from daemon.commands.parse_request import parse_request
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.notify.alerts.addresses import read_addresses, send
from daemon.notify.alerts.rules import Severity
from daemon.notify.alerts.silences import SilenceRequest, silence_line
from daemon.notify.alerts.silences import silence as silence_in
from daemon.notify.delivery_requests import MAX_LISTED, DeliveryRequest, Listed, act, listed
from daemon.notify.hooks.attempt import attempt
from daemon.notify.hooks.cloud_event import event_for_test
from daemon.system.locks import JournalHeld, lock_journal
from handlers.errors import Fault, SettingsFault
from handlers.text import printable

NAMES_OF_ACTIONS = {"retry": "retried", "drop": "dropped"}


def request_for(action: Literal["retry", "drop"], ids: Sequence[int]) -> DeliveryRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    return parse_request(DeliveryRequest, {"action": action, "ids": tuple(ids)}, {"ids": "ID"})


async def send_test(settings: Settings, say: Callable[[str], None]) -> int:
    """Send a test message to each address and a test event to each hook; return the exit code.

    Raises
    ------
    Fault
        If there is neither an address nor a hook, or the addresses cannot be read.
    """
    path = settings.alerts.urls_file
    if path is None and not settings.hook:
        problem = "is not set, and there is no [[hook]], so there is nothing to test"
        raise SettingsFault("alerts.urls_file", problem, "docs/alerts.md and docs/hooks.md show how")
    refused = 0 if path is None else await _test_addresses(path, say)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        for hook in settings.hook:
            event_id = secrets.token_hex(16)
            body = event_for_test(event_id, time.time(), socket.gethostname())
            sent = await attempt(session, hook, event_id, body)
            refused += not sent.is_delivered
            say(f"hook {hook.label}: {sent.problem or 'accepted the event'}")
    return 1 if refused else 0


async def _test_addresses(path: Path, say: Callable[[str], None]) -> int:
    """Send a test message to each address; return how many did not accept it."""
    text = "`temwatch notify test` was run: messages about this temwatch arrive here."
    refused = 0
    for number, address in enumerate(await asyncio.to_thread(read_addresses, path), start=1):
        try:
            await asyncio.to_thread(send, address, number, "a test message", text, Severity.INFO)
        except Fault as fault:
            refused += 1
            say(str(fault))
        else:
            say(f"alerts.urls_file: address {number} accepted the message")
    return refused


def silence_for(kind: str, watch: str, subject: str, hours: float, reason: str) -> SilenceRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    by = getpass.getuser()[:100] if "LOGNAME" in os.environ or "USER" in os.environ else ""
    about = {"for_s": hours * 3600, "by": by, "reason": reason}
    values = {"kind": kind or None, "watch": watch, "subject": subject, **about}
    return parse_request(SilenceRequest, values, {"kind": "KIND", "for_s": "--hours"})


async def silence(settings: Settings, request: SilenceRequest, say: Callable[[str], None]) -> None:
    """Begin or end a silence, through the daemon if it runs; print the active silences. Raises Fault as `change`."""
    outcome = await change_journal(
        settings, lambda journal: silence_in(journal, request), "/api/alerts/silence", request, lambda answer: answer
    )
    for row in outcome["silences"]:
        say(silence_line(row))
    if not outcome["silences"]:
        say("no silence is active")


async def list_waiting(settings: Settings) -> Listed:
    """Return deliveries, undelivered messages and silences of the journal. Raises Fault if it cannot be read."""
    path = settings.journal.path
    if not path.exists():
        raise SettingsFault("journal.path", f"{printable(path)} does not exist", "nothing was recorded yet")
    try:
        with lock_journal(path):
            async with Journal(path) as journal:  # migrates a journal of an older version
                return await listed(journal)
    except JournalHeld:
        async with Journal(path, read_only=True) as journal:
            return await listed(journal)


def waiting_lines(waiting: Listed) -> list[str]:
    """Return the lines that `temwatch notify list` prints."""
    lines = delivery_lines(waiting.deliveries)
    for row in waiting.messages:
        about = f"written {row['made_at']}, accepted by {row['taken']} addresses"
        lines.append(f"message {row['message']}  {printable(row['alert'])}  {about}")
    return lines + [silence_line(row) for row in waiting.silences]


def delivery_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines about deliveries."""
    if not rows:
        return ["no event waits for a hook"]
    lines = []
    for row in rows:
        state = "given up" if row["is_dead"] else f"attempts: {row['attempts']}, next at {row['next_try_at']}"
        lines.append(
            f"{row['id']:>6}  {row['hook']}  {row['kind']}  {row['subject']}  queued {row['queued_at']}, {state}"
        )
        if row["problem"]:
            lines.append(f"        {printable(row['problem'])}")
    if len(rows) == MAX_LISTED:
        lines.append(f"only the first {MAX_LISTED} are shown")
    return lines


async def change(settings: Settings, request: DeliveryRequest, say: Callable[[str], None]) -> int:
    """Retry or drop deliveries, through the daemon if it runs; return the exit code.

    Raises
    ------
    Fault
        If there is no journal, or if the daemon that uses it does not answer or refuses.
    """
    outcome = await change_journal(
        settings, lambda journal: act(journal, request), "/api/notify", request, lambda answer: answer
    )
    for done in outcome["done"]:
        say(f"{NAMES_OF_ACTIONS[request.action]}   {done}")
    for unknown in outcome["unknown"]:
        say(f"unknown   {unknown}: it was delivered or dropped, or never existed")
    return 1 if outcome["unknown"] else 0
