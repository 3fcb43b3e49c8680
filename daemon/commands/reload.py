"""`temwatch reload`: make the running daemon read its configuration again."""

import os
import signal
import time
from typing import Any

from daemon.commands.daemon_client import fetch, find_daemon
from daemon.config.errors import ConfigError
from daemon.config.settings import Settings
from handlers.errors import Fault

ANSWER_S = 60.0
"""Time-out of a reload."""
POLL_S = 0.1


class ReloadRefused(Fault):
    """The daemon keeps its present configuration."""


def reload(settings: Settings) -> None:
    """Make the running daemon reload its configuration; return after the new one was applied.

    Raises
    ------
    ReloadRefused
        If no daemon responds, or it does not finish the reload in time.
    ConfigError
        If the daemon refuses the file.
    """
    daemon = find_daemon(settings.http, settings.journal.path)
    if not daemon.is_alive and daemon.pid is not None:
        raise ReloadRefused(
            "reload", f"process {daemon.pid} holds the journal and does not answer", daemon.unresponsive_because
        )
    before = fetch(f"{daemon.url}/api/reload") if daemon.is_alive else None
    pid = _pid_of_systemd() or daemon.pid
    if before is None or pid is None or "asked" not in before:
        problem = f"no daemon of this configuration answers at {daemon.url}"
        hint = "start it; after a change of [http] or [journal] restart it"
        raise ReloadRefused("reload", problem, hint)
    os.kill(pid, signal.SIGHUP)
    result = _wait_for_result(daemon.url, int(before["asked"]))
    if result is None:
        raise ReloadRefused("reload", f"the daemon has not answered for {ANSWER_S:g} s", "see its log")
    if result["problems"]:
        raise ConfigError(tuple(map(str, result["problems"])))


def _pid_of_systemd() -> int | None:
    """Return the id of the daemon's process if systemd runs this command as ExecReload=."""
    named = os.environ.get("MAINPID", "")
    return int(named) if named.isdecimal() else None


def _wait_for_result(url: str, requested_before: int) -> dict[str, Any] | None:
    """Return the result of the first reload that ends after this many requests; None after `ANSWER_S`."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        answer = fetch(f"{url}/api/reload")
        if answer is not None and answer.get("answered", 0) > requested_before:
            return answer
        time.sleep(POLL_S)
    return None
