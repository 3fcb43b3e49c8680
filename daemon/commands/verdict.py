"""`temwatch verdict`: decide in place of the rules, through the daemon if it runs."""

import asyncio
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from daemon.commands.daemon_client import ask
from daemon.config.files import read_token
from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.pipeline.decision import DecisionRequest
from daemon.pipeline.decision import decide as decide_in
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.selection import problems
from daemon.system.locks import JournalHeld, lock_journal, owner_note
from handlers.errors import Fault, SettingsFault
from handlers.text import printable


def request_for(verdict: str, by: str, note: str) -> DecisionRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    try:
        return DecisionRequest.model_validate({"verdict": verdict, "by": by, "note": note})
    except ValidationError as error:
        key, _, text = problems(error, DecisionRequest).partition(": ")
        raise NotSelectable(f"--{key}", text) from None


async def decide(settings: Settings, montage_id: int, request: DecisionRequest, say: Callable[[str], None]) -> int:
    """Return the command's exit code; print the verdict that counts.

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
                answer = await decide_in(journal, montage_id, request)
    except JournalHeld as held:
        answer = await _decide_by_daemon(settings, montage_id, request, held)
    if answer is None:
        say(f"montage {montage_id}: no such montage; `temwatch status` shows ids")
        return 1
    say(f"{answer['verdict'] or 'not judged yet'}: {printable(answer['metafile'])}")
    return 0


async def _decide_by_daemon(
    settings: Settings, montage_id: int, request: DecisionRequest, held: JournalHeld
) -> dict[str, Any] | None:
    url = owner_note(settings.journal.path)
    if not url:
        raise held
    token = read_token(settings.http)
    answer = await asyncio.to_thread(
        ask, f"{url}/api/montages/{montage_id}/verdict", request.model_dump(mode="json"), token
    )
    if answer is None:
        raise Fault(url, "the daemon does not answer", "try again when it is ready")
    status, content = answer
    if status == 404:
        return None
    if status != 200:
        raise Fault(url, f"the daemon answered {status}: {content.get('error', content)}")
    return dict(content)
