"""A change of the journal that a person asks for: made here, or by the daemon that uses the journal."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from daemon.commands.daemon_client import ask
from daemon.config.files import read_token
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.system.locks import JournalHeld, lock_journal, owner_note
from handlers.errors import Fault, SettingsFault
from handlers.text import printable

Outcome = TypeVar("Outcome")


class NotFoundByDaemon(Fault):
    """The daemon answered 404."""


async def change_journal(
    settings: Settings,
    change: Callable[[Journal], Awaitable[Outcome]],
    page: str,
    request: BaseModel,
    outcome_of: Callable[[dict[str, Any]], Outcome],
) -> Outcome:
    """Return the outcome of a change.

    Parameters
    ----------
    change : makes the change where no daemon uses the journal.
    page : path on the daemon that makes the same change.
    request : what is sent to that page.
    outcome_of : makes the outcome of the daemon's answer.

    Raises
    ------
    Fault
        If there is no journal, or if the daemon that uses it does not answer or refuses.
    """
    path = settings.journal.path
    try:
        with lock_journal(path):
            if not path.exists():
                raise SettingsFault("journal.path", f"{printable(path)} does not exist", "nothing was recorded yet")
            async with Journal(path) as journal:
                return await change(journal)
    except JournalHeld as held:
        return outcome_of(await _ask_daemon(settings, page, request, held))


async def _ask_daemon(settings: Settings, page: str, request: BaseModel, held: JournalHeld) -> dict[str, Any]:
    url = owner_note(settings.journal.path)
    if not url:
        raise held
    token = read_token(settings.http)
    answer = await asyncio.to_thread(ask, f"{url}{page}", request.model_dump(mode="json"), token)
    if answer is None:
        raise Fault(url, "the daemon does not answer", "try again when it is ready")
    status, content = answer
    if status != 200:
        kind = NotFoundByDaemon if status == 404 else Fault
        raise kind(url, f"the daemon answered {status}: {content.get('error', content)}")
    return content
