"""Handle signals until the event loop does. Without a handler, most signals end the process without a message."""

import contextlib
import faulthandler
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
"""Signals of crashes in compiled code: faulthandler prints the Python traceback."""
HARMLESS = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGPIPE, signal.SIGXFSZ),  # Python raises an OSError in their place
)
"""Signals that do not end a Python process."""
DEADLY = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *HANDLED, *FAULTS, *HARMLESS}
"""Signals that the daemon does not use and whose default action ends the process."""


class FirstSignals:
    """Signal handlers for the time in which modules are imported and the configuration is read.

    SIGTERM and SIGINT end the process at once with exit code 0: no work has begun. The event loop replaces the
    handlers of SIGTERM, SIGINT and SIGHUP; the others stay.
    """

    def __init__(self) -> None:
        self.has_received_sighup = False
        """Whether SIGHUP was received: the configuration may have changed after it was read."""
        self._has_terminal = has_terminal()

    def handle(self) -> None:
        """Install the handlers. Must be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in DEADLY:
            signal.signal(number, _die)
        if sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__.fileno())  # prints a traceback when compiled code crashes

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        _write_line(f"received {_name(number)} while starting: stopping")
        os._exit(0)  # imported code may catch an exception, or replace it, as pydantic's does

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._has_terminal and not has_terminal():
            self._stop(number, frame)
        self.has_received_sighup = True


def has_terminal() -> bool:
    """Whether standard input is an open terminal."""
    return os.isatty(0)


def _die(number: int, frame: FrameType | None) -> None:
    """Print the signal's name, then end the process by the signal's default action."""
    _write_line(f"received {_name(number)}, which the daemon does not handle: exiting")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals between the first and the last
        return f"signal {number}"


def _write_line(line: str) -> None:
    """Write a line without buffering: the signal may interrupt a print that holds the stream's lock."""
    with contextlib.suppress(OSError):
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), f"temwatch: {line}\n".encode())
