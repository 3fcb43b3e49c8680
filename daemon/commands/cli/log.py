"""Logging of commands that work without the daemon: warnings on standard error, above a progress bar."""

import io
import sys
from typing import Any, TextIO, cast


class CurrentStderr(io.TextIOBase):
    """A stream that writes to the present `sys.stderr`.

    While a progress bar is shown, rich replaces `sys.stderr` by a stream that prints above the bar. A handler with the
    original stream would write into the bar's line. If standard error is a file, lines go to the file itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._first = sys.stderr
        if isinstance(self._first, io.TextIOWrapper):
            self._first.reconfigure(encoding="utf-8", errors="backslashreplace")  # in every locale

    def write(self, text: str) -> int:
        """Write to the present standard error."""
        return (sys.stderr if self.isatty() else self._first).write(text)

    def flush(self) -> None:
        """Flush the present standard error."""
        (sys.stderr if self.isatty() else self._first).flush()

    def isatty(self) -> bool:
        """Whether standard error is a terminal."""
        return self._first.isatty()


def log_warnings(settings: Any) -> None:
    """Write warnings and errors to standard error, in the configured format."""
    from daemon.system.log import set_up_logging

    set_up_logging("warning", settings.log.format, cast("TextIO", CurrentStderr()))
