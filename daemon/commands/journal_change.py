"""Make an operator's change of the journal: in this process, or by the daemon that uses the journal."""

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
    """The daemon responded 404."""


async def change_journal(
    settings: Settings,
    change: Callable[[Journal], Awaitable[Outcome]],
    route: str,
    request: BaseModel,
    outcome_of: Callable[[dict[str, Any]], Outcome],
) -> Outcome:
    """Make a change of the journal; return its outcome.

    Parameters
    ----------
    change : makes the change if no daemon uses the journal.
    route : path of the daemon's POST route for the same change.
    request : body of the POST.
    outcome_of : makes the outcome from the daemon's response.

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
        return outcome_of(await _ask_daemon(settings, route, request, held))


async def _ask_daemon(settings: Settings, route: str, request: BaseModel, held: JournalHeld) -> dict[str, Any]:
    url = owner_note(settings.journal.path)
    if not url:
        raise held
    token = read_token(settings.http)
    answer = await asyncio.to_thread(ask, f"{url}{route}", request.model_dump(mode="json"), token)
    if answer is None:
        raise Fault(url, "the daemon does not answer", "try again when it is ready")
    status, content = answer
    if status != 200:
        kind = NotFoundByDaemon if status == 404 else Fault
        raise kind(url, f"the daemon answered {status}: {content.get('error', content)}")
    return content
