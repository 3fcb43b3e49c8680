"""`temwatch dismiss`: dismiss FAILED montages, through the daemon if it runs."""

from collections.abc import Callable, Sequence

from daemon.commands.journal_change import change_journal
from daemon.commands.parse_request import parse_request
from daemon.config.settings import Settings
from daemon.pipeline.requests.dismissal import DismissRequest
from daemon.pipeline.requests.dismissal import dismiss as dismiss_in


def request_for(ids: Sequence[int], reason: str) -> DismissRequest:
    """Return the request for the arguments of the command line. Raises NotSelectable for invalid ones."""
    return parse_request(DismissRequest, {"ids": ids, "reason": reason}, {"ids": "ID"})


async def dismiss(settings: Settings, request: DismissRequest, say: Callable[[str], None]) -> int:
    """Dismiss montages and print the outcome of each; return the exit code.

    Raises
    ------
    Fault
        If there is no journal, or if the daemon that uses it does not answer or refuses.
    """
    outcomes = await change_journal(
        settings,
        lambda journal: dismiss_in(journal, request),
        "/api/dismiss",
        request,
        lambda answer: list(answer["montages"]),
    )
    for outcome in outcomes:
        name = outcome["metafile"] or f"montage {outcome['id']}"
        say(f"dismissed   {name}" if outcome["dismissed"] else f"refused     {name}: {outcome['note']}")
    return 0 if all(outcome["dismissed"] for outcome in outcomes) else 1
