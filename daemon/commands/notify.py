"""`temwatch notify list|retry|drop`: events that hooks have not taken."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from daemon.commands.journal_change import change_journal
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.notify.alerting import Severity
from daemon.notify.messages import read_addresses, send
from daemon.notify.requests import MOST_LISTED, DeliveryRequest, act, listed
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.selection import problems
from daemon.system.locks import JournalHeld, lock_journal
from handlers.errors import Fault, SettingsFault
from handlers.text import printable

NAMES_OF_ACTIONS = {"retry": "retried", "drop": "dropped"}


def request_for(action: Literal["retry", "drop"], ids: Sequence[int]) -> DeliveryRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    try:
        return DeliveryRequest(action=action, ids=tuple(ids))
    except ValidationError as error:
        raise NotSelectable("ID", problems(error, DeliveryRequest).partition(": ")[2]) from None


async def send_test(settings: Settings, say: Callable[[str], None]) -> int:
    """Return the command's exit code; send a test message to people. Raises Fault if there is no address."""
    path = settings.alerts.urls_file
    if path is None:
        raise SettingsFault("alerts.urls_file", "is not set, so nobody is told anything", "docs/alerts.md shows how")
    text = "`temwatch notify test` was run: messages about this temwatch arrive here."
    refused = 0
    for number, address in enumerate(await asyncio.to_thread(read_addresses, path), start=1):
        try:
            await asyncio.to_thread(send, address, number, "a test message", text, Severity.INFO)
        except Fault as fault:
            refused += 1
            say(str(fault))
        else:
            say(f"alerts.urls_file: address {number} took the message")
    return 1 if refused else 0


async def list_deliveries(settings: Settings) -> list[dict[str, Any]]:
    """Return the deliveries that wait or were given up, from the journal. Raises Fault if it cannot be read."""
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


def delivery_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines that `temwatch notify list` prints."""
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
    if len(rows) == MOST_LISTED:
        lines.append(f"only the first {MOST_LISTED} are shown")
    return lines


async def change(settings: Settings, request: DeliveryRequest, say: Callable[[str], None]) -> int:
    """Return the command's exit code; retry or drop deliveries, through the daemon if it runs.

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
