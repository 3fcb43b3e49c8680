"""`temwatch dismiss`: dismiss FAILED montages, through the daemon if it runs."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ValidationError

from daemon.commands.daemon_client import ask
from daemon.config.files import read_token
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.pipeline.dismissal import DismissRequest
from daemon.pipeline.dismissal import dismiss as dismiss_in
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.selection import problems
from daemon.system.locks import JournalHeld, lock_journal, owner_note
from handlers.errors import Fault, SettingsFault
from handlers.text import printable


def request_for(ids: Sequence[int], reason: str) -> DismissRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    try:
        return DismissRequest.model_validate({"ids": ids, "reason": reason})
    except ValidationError as error:
        key, _, text = problems(error, DismissRequest).partition(": ")
        raise NotSelectable("ID" if key.startswith("ids") else f"--{key}", text) from None


async def dismiss(settings: Settings, request: DismissRequest, say: Callable[[str], None]) -> int:
    """Return the command's exit code; print the outcome of each montage.

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
                outcomes = await dismiss_in(journal, request)
    except JournalHeld as held:
        outcomes = await _dismiss_by_daemon(settings, request, held)
    for outcome in outcomes:
        name = outcome["metafile"] or f"montage {outcome['id']}"
        say(f"dismissed   {name}" if outcome["dismissed"] else f"refused     {name}: {outcome['note']}")
    return 0 if all(outcome["dismissed"] for outcome in outcomes) else 1


async def _dismiss_by_daemon(settings: Settings, request: DismissRequest, held: JournalHeld) -> list[dict[str, Any]]:
    url = owner_note(settings.journal.path)
    if not url:
        raise held
    token = read_token(settings.http)
    answer = await asyncio.to_thread(ask, f"{url}/api/dismiss", request.model_dump(mode="json"), token)
    if answer is None:
        raise Fault(url, "the daemon does not answer", "try again when it is ready")
    status, content = answer
    if status != 200:
        raise Fault(url, f"the daemon answered {status}: {content.get('error', content)}")
    outcomes: list[dict[str, Any]] = content["montages"]
    return outcomes
