"""`temwatch verdict`: record a person's decision about a montage, through the daemon if it runs."""

from collections.abc import Callable

from daemon.commands.journal_change import NotFoundByDaemon, change_journal
from daemon.commands.parse_request import parse_request
from daemon.config.settings import Settings
from daemon.pipeline.requests.decision import DecisionRequest
from daemon.pipeline.requests.decision import decide as decide_in
from handlers.text import printable


def request_for(verdict: str, by: str, note: str) -> DecisionRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    return parse_request(DecisionRequest, {"verdict": verdict, "by": by, "note": note})


async def decide(settings: Settings, montage_id: int, request: DecisionRequest, say: Callable[[str], None]) -> int:
    """Record a decision and print the effective verdict; return the exit code.

    Raises
    ------
    Fault
        If there is no journal, or if the daemon that uses it does not answer or refuses.
    """
    try:
        answer = await change_journal(
            settings,
            lambda journal: decide_in(journal, montage_id, request),
            f"/api/montages/{montage_id}/verdict",
            request,
            lambda answer: answer,
        )
    except NotFoundByDaemon:
        answer = None
    if answer is None:
        say(f"montage {montage_id}: no such montage; `temwatch status` shows ids")
        return 1
    say(f"{answer['verdict'] or 'not judged yet'}: {printable(answer['metafile'])}")
    return 0
