"""Report the state of the service to systemd."""

import contextlib
import os
import socket
import time
from collections.abc import Mapping

from handlers.text import printable


class SystemdNotifier:
    """Sends the state of the service to systemd; does nothing if systemd did not start it.

    Source: sd_notify(3).
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address  # "@": an abstract socket

    def ready(self) -> None:
        """Report that the service has started, or that a reload has ended."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={printable(' '.join(text.split()))}")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` reports its end."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Report that the service is alive; systemd kills it if it receives no report within WatchdogSec."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.settimeout(1.0)  # a systemd that does not read its socket must not block the event loop
            connection.sendto(state.encode(errors="backslashreplace"), self._address)


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Return the watchdog interval that systemd set, seconds; None if it expects no reports from this process.

    The process should report at half this interval. Source: sd_watchdog_enabled(3).

    >>> watchdog_interval_s({"WATCHDOG_USEC": "60000000"})
    60.0
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or meant_for not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6
