"""Sending messages to people by apprise, whose addresses are in a file that is closed to others. Blocking."""

import importlib
from pathlib import Path
from typing import Any

from handlers.errors import Fault, SettingsFault, StorageFault
from handlers.secret_file import read_secret
from handlers.text import printable

_HINT = 'pip install "temwatch[alerts]"'


def read_addresses(path: Path, key: str = "alerts.urls_file") -> list[str]:
    """Return the addresses of a file, without comments. Raises SettingsFault, which shows none of them."""
    lines = [line.strip() for line in read_secret(path, key).splitlines()]
    addresses = [line for line in lines if line and not line.startswith("#")]
    if not addresses:
        raise SettingsFault(key, f"{path} holds no address", "write one address of apprise a line there")
    return addresses


def open_sender(path: Path) -> Any:
    """Return apprise with all addresses. Raises SettingsFault if it is not installed or refuses an address."""
    try:
        apprise = importlib.import_module("apprise")
    except ImportError as error:
        raise SettingsFault("alerts.urls_file", f"apprise is not installed: {error}", _HINT) from error
    sender = apprise.Apprise(
        asset=apprise.AppriseAsset(app_id="temwatch", app_desc="temwatch", app_url="", async_mode=False)
    )
    for number, address in enumerate(read_addresses(path), start=1):
        if not sender.add(address):
            problem = f"{path}: address {number} is not one of apprise"
            raise SettingsFault("alerts.urls_file", problem, "compare it with apprise's list of services")
    return sender


def send(path: Path, title: str, body: str, *, is_good: bool = False) -> None:
    """Send a message to every address.

    Raises
    ------
    Fault
        If the addresses cannot be used, or a service did not take the message.
    """
    sender = open_sender(path)
    try:
        done = sender.notify(
            title=f"temwatch: {printable(title)}",
            body="\n".join(map(printable, body.splitlines())),
            notify_type="success" if is_good else "warning",
        )
    except Exception as error:  # of any of a hundred plugins
        raise _undelivered(f"{type(error).__name__}") from error
    if not done:
        raise _undelivered("a service did not take it; apprise's own log lines say which")


def _undelivered(why: str) -> Fault:
    return StorageFault("alerts", f"a message could not be delivered: {why}", "try `temwatch notify test`")
