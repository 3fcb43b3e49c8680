"""Run commands in a pseudo-terminal of a given width, and render its screen."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.acceptance import warm

SCREENS = Path(__file__).parent / "screens"
_CONTROL = re.compile(r"\x1b\[(\?)?([\d;]*)([A-Za-z])|([\r\n\b])|([^\x1b\r\n\b]+)|\x1b.?")


class Session:
    """A command that runs in a pseudo-terminal.

    Parameters
    ----------
    columns : width of the terminal.
    """

    def __init__(
        self, arguments: list[str], columns: int, cwd: Path, env: Mapping[str, str] | None = None, lines: int = 60
    ) -> None:
        self._output = bytearray()
        self._master, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        without = ("COLUMNS", "LINES", "NO_COLOR", "TEMWATCH_CONFIG")
        environment = {key: value for key, value in os.environ.items() if key not in without}
        environment |= {"TERM": "xterm", "TZ": "UTC", "PYTHONPATH": str(SCREENS.parents[1]), **(env or {})}
        with open(terminal, "rb", buffering=0) as device:  # noqa: PTH123  it has a descriptor and no path
            self.process = warm.start(arguments, device, device, cwd, environment, device)

    def press_ctrl_c(self) -> None:
        """Interrupt all processes of the command, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait_for(self, is_there: Callable[[str], bool], timeout_s: float = 60.0) -> str:
        """Wait until the screen fulfils a condition; return the screen."""
        deadline = time.monotonic() + timeout_s
        while not is_there(self.screen()):
            left = deadline - time.monotonic()
            assert left > 0, f"not within {timeout_s:g} s; the screen:\n{self.screen()}"
            if not self._read(min(left, 0.2)) and self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}; the screen:\n{self.screen()}")
        return self.screen()

    def end(self, timeout_s: float = 60.0) -> tuple[int, str]:
        """Wait until the command ends; return its exit code and the last screen."""
        deadline = time.monotonic() + timeout_s
        while self._read(0.2) or self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"not ended within {timeout_s:g} s; the screen:\n{self.screen()}")
        os.close(self._master)
        return self.process.wait(), self.screen()

    def _read(self, timeout_s: float) -> bool:
        """Read output, if there is any within the time; return whether there was."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # EIO: no process has the terminal open
            return False
        self._output += piece
        return bool(piece)

    def screen(self) -> str:
        return screen_of(self._output.decode(errors="replace"))


def run_in_terminal(arguments: list[str], columns: int, cwd: Path, **options: object) -> tuple[int, str]:
    """Run a command that ends by itself; return its exit code and the last screen."""
    return Session(arguments, columns, cwd, **options).end()  # type: ignore[arg-type]


def screen_of(output: str) -> str:
    """Return the lines that a terminal shows after an output. Colours are removed; cursor moves and erasures apply.

    >>> screen_of("50 %\\r\\x1b[2K\\x1b[32m100 %\\x1b[0m\\r\\n")
    '100 %\\n'
    """
    lines: list[list[str]] = [[]]
    row = column = 0
    for found in _CONTROL.finditer(output):
        _, parameters, command, control, text = found.groups()
        count = int(parameters) if parameters and parameters.isdigit() else 0
        if control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines.extend([] for _ in range(row + 1 - len(lines)))
        elif control == "\b":
            column = max(0, column - 1)
        elif command == "A":
            row = max(0, row - (count or 1))
        elif command == "H":
            row = column = 0
        elif command == "J" and count == 2:
            lines = [[]]
            row = column = 0
        elif command == "K":
            lines[row] = [] if count == 2 else lines[row][:column]
        elif text:
            line = lines[row]
            line.extend(" " * (column - len(line)))
            line[column : column + len(text)] = text
            column += len(text)
    return "\n".join("".join(line).rstrip() for line in lines)


def assert_screen(name: str, screen: str) -> None:
    """Compare a screen with the expected one; with TEMWATCH_WRITE_SCREENS=1 write it first."""
    expected = SCREENS / f"{name}.txt"
    text = screen.strip("\n") + "\n"
    if os.environ.get("TEMWATCH_WRITE_SCREENS") == "1":
        expected.write_text(text, encoding="utf-8")
    assert text == expected.read_text(encoding="utf-8")
