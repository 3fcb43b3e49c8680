"""Signals before the event loop handles them: without a handler, most end the process without a word."""

import contextlib
import faulthandler
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)
"""Crashes of compiled code: Python prints where it was."""
HARMLESS = (
    *(signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGPIPE, signal.SIGXFSZ),  # Python raises an OSError in their place
)
"""Signals that end no process of Python."""
DEADLY = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *HANDLED, *FAULTS, *HARMLESS}
"""Signals that the daemon does not use, and that end a process."""


class FirstSignals:
    """Handles signals while modules are imported and the configuration is read.

    SIGTERM and SIGINT end the process at once with exit code 0: nothing has begun. The event loop replaces the handlers
    of SIGTERM, SIGINT and SIGHUP; the others stay.
    """

    def __init__(self) -> None:
        self.has_hung_up = False
        """Whether SIGHUP came: the configuration may have changed after it was read."""
        self._has_terminal = has_terminal()

    def handle(self) -> None:
        """Handle signals from now on. To be called in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGHUP, self._hang_up)
        for number in DEADLY:
            signal.signal(number, _die)
        if sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__.fileno())  # a crash of compiled code prints where it was

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        _say(f"{_name(number)} came while the daemon started: it stops")
        raise SystemExit(0)

    def _hang_up(self, number: int, frame: FrameType | None) -> None:
        if self._has_terminal and not has_terminal():
            self._stop(number, frame)
        self.has_hung_up = True


def has_terminal() -> bool:
    """Whether standard input is an open terminal."""
    return os.isatty(0)


def _die(number: int, frame: FrameType | None) -> None:
    """Say which signal ends the process, and let it end the process."""
    _say(f"{_name(number)} ends the daemon: it has no use for this signal")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals between the first and the last
        return f"signal {number}"


def _say(line: str) -> None:
    """Write a line at once: the stream of a print may be in use when the signal comes."""
    with contextlib.suppress(OSError):
        if sys.__stderr__ is not None:
            os.write(sys.__stderr__.fileno(), f"temwatch: {line}\n".encode())
