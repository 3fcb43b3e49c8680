"""Output of commands. Every line is made printable, whatever a file name or render-ws contains."""

import io
import json
import os
import sys
from typing import Any, TextIO

from daemon.system.terminal import message
from handlers.text import printable, printable_lines


def accept_any_text() -> None:
    """Let standard output and standard error take any text: a path may hold bytes that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def say(line: str) -> None:
    """Print a message. On a terminal it is wrapped; in a pipe it is one line."""
    _write(sys.stdout, message(printable(line), sys.stdout) + "\n")


def complain(line: str) -> None:
    """Print a message on standard error, as `say` does."""
    _write(sys.stderr, message(printable(line), sys.stderr) + "\n")


def hint(line: str) -> None:
    """Print one line on standard error. It contains a command to paste, so it is never wrapped."""
    _write(sys.stderr, printable(line) + "\n")


def say_lines(text: str) -> None:
    """Print lines, each with its line break."""
    _write(sys.stdout, printable_lines(text))


def say_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII."""
    _write(sys.stdout, json.dumps(value, indent=2) + "\n")


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # as in `temwatch status >&-`
        return
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # the rest is flushed again at the end
        if isinstance(error, BrokenPipeError) or stream is sys.stderr:
            raise
        complain(f"standard output: could not be written: {error.strerror or error}")
        sys.exit(1)
