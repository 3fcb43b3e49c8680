"""`temwatch reload`: has the running daemon read its configuration again."""

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
"""How long `temwatch reload` waits for a reload to end."""
POLL_S = 0.1


class ReloadRefused(Fault):
    """The daemon keeps the configuration that it has."""


def reload(settings: Settings) -> None:
    """Have the running daemon reload its configuration; returns once that is in force.

    Raises
    ------
    ReloadRefused
        If there is no daemon, or it refuses the file.
    """
    found = next(((url, told) for url in daemon_urls(settings) if (told := fetch(f"{url}/api/reload"))), None)
    pid = _daemon_pid(settings)
    if found is None or pid is None or "asked" not in found[1]:
        problem = f"no daemon of this configuration answers at {' or '.join(daemon_urls(settings))}"
        hint = "start it; after a change of [http] or [journal] restart it"
        raise ReloadRefused("reload", problem, hint)
    url, before = found
    os.kill(pid, signal.SIGHUP)
    told = _answer(url, int(before["asked"]))
    if told is None:
        raise ReloadRefused("reload", f"the daemon has not answered for {ANSWER_S:g} s", "see its log")
    if told["problems"]:
        raise ConfigError(tuple(map(str, told["problems"])))


def _daemon_pid(settings: Settings) -> int | None:
    """The process that systemd says, or that owns the journal."""
    said = os.environ.get("MAINPID", "")
    return int(said) if said.isdecimal() else journal_owner(settings.journal.path)


def _answer(url: str, asked_before: int) -> dict[str, Any] | None:
    """What became of the reload that was asked for after this many others."""
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        told = fetch(f"{url}/api/reload")
        if told is not None and told.get("answered", 0) > asked_before:
            return told
        time.sleep(POLL_S)
    return None
