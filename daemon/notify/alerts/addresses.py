"""Send messages to people with apprise. Their addresses are in a file that other users cannot read. Blocking."""

import importlib
from pathlib import Path
from typing import Any

from daemon.notify.alerts.rules import Severity
from handlers.errors import Fault, SettingsFault, StorageFault
from handlers.secret_file import read_secret
from handlers.text import printable

MAX_ADDRESSES = 50
_HINT = 'pip install "temwatch[alerts]"'


def read_addresses(path: Path, key: str = "alerts.urls_file") -> list[str]:
    """Return the addresses of a file, without comments. Raises SettingsFault, whose text shows no address."""
    lines = [line.strip() for line in read_secret(path, key).splitlines()]
    addresses = [line for line in lines if line and not line.startswith("#")]
    if not addresses:
        raise SettingsFault(key, f"{path} contains no address", "write one apprise address on each line")
    if len(addresses) > MAX_ADDRESSES:
        raise SettingsFault(key, f"{path} contains more than {MAX_ADDRESSES} addresses", "use a mailing list")
    return addresses


def send(address: str, number: int, title: str, body: str, severity: Severity) -> None:
    """Send a message to one address.

    Parameters
    ----------
    number : position of the address in its file, from 1. Faults show it in place of the address.

    Raises
    ------
    Fault
        If the address is invalid, or its service did not accept the message.
    """
    sender = _sender(address, number)
    try:
        done = sender.notify(
            title=f"temwatch: {printable(title)}",
            body="\n".join(map(printable, body.splitlines())),
            notify_type=str(severity),
        )
    except Exception as error:  # noqa: BLE001  one of a hundred plugins raised it; its text may show the address
        raise _undelivered(number, f"failed with {type(error).__name__}") from None
    if not done:
        raise _undelivered(number, "did not accept a message")


def _sender(address: str, number: int) -> Any:
    try:
        apprise = importlib.import_module("apprise")
    except ImportError as error:
        raise SettingsFault("alerts.urls_file", f"apprise is not installed: {error}", _HINT) from error
    sender = apprise.Apprise(
        asset=apprise.AppriseAsset(app_id="temwatch", app_desc="temwatch", app_url="", async_mode=False)
    )
    if not sender.add(address):
        problem = f"address {number} is not an apprise address"
        raise SettingsFault("alerts.urls_file", problem, "compare it with apprise's list of services")
    return sender


def _undelivered(number: int, why: str) -> Fault:
    return StorageFault("alerts.urls_file", f"address {number} {why}", "try `temwatch notify test`")
