"""`temwatch reload`: make the running daemon read its configuration again."""

import os
import signal
import time
from typing import Any

from daemon.commands.daemon_client import daemon_urls, fetch
from daemon.config.errors import ConfigError
from daemon.config.settings import Settings
from daemon.system.locks import journal_owner
from handlers.errors import Fault

ANSWER_S = 60.0
"""How long a reload may take."""
POLL_S = 0.1


class ReloadRefused(Fault):
    """The daemon keeps its present configuration."""


def reload(settings: Settings) -> None:
    """Make the running daemon reload its configuration; return when the new one is in force.

    Raises
    ------
    ReloadRefused
        If no daemon answers, or it does not finish the reload in time.
    ConfigError
        If the daemon refuses the file.
    """
    urls = daemon_urls(settings.http, settings.journal.path)
    found = next(((url, answer) for url in urls if (answer := fetch(f"{url}/api/reload"))), None)
    pid = _daemon_pid(settings)
    if found is None or pid is None or "asked" not in found[1]:
        problem = f"no daemon of this configuration answers at {' or '.join(urls)}"
        hint = "start it; after a change of [http] or [journal] restart it"
        raise ReloadRefused("reload", problem, hint)
    url, before = found
    os.kill(pid, signal.SIGHUP)
    result = _wait_for_result(url, int(before["asked"]))
    if result is None:
        raise ReloadRefused("reload", f"the daemon has not answered for {ANSWER_S:g} s", "see its log")
    if result["problems"]:
        raise ConfigError(tuple(map(str, result["problems"])))


def _daemon_pid(settings: Settings) -> int | None:
    """Return the process that systemd names, else the process that holds the journal."""
    named = os.environ.get("MAINPID", "")
    return int(named) if named.isdecimal() else journal_owner(settings.journal.path)


def _wait_for_result(url: str, requested_before: int) -> dict[str, Any] | None:
    """Return the result of the first reload that ends after this many requests; None after `ANSWER_S`."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        answer = fetch(f"{url}/api/reload")
        if answer is not None and answer.get("answered", 0) > requested_before:
            return answer
        time.sleep(POLL_S)
    return None
