"""The width of a terminal, and lines that fit it. What is piped into a file or program is not wrapped."""

import os
import shutil
from typing import TextIO

from handlers.text import fitted

NARROWEST = 40
"""Columns below which lines are not made to fit."""
INDENT = "    "
"""Before the second and all further lines of one message."""


def width_of(stream: TextIO) -> int | None:
    """Return the columns of the terminal that a stream is; None if it is none. COLUMNS has precedence."""
    if not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no real terminal
        columns = 0
    if "COLUMNS" in os.environ or not columns:
        columns = shutil.get_terminal_size().columns
    return max(columns, NARROWEST)


def message(line: str, stream: TextIO) -> str:
    """Return a message in lines that fit the stream's terminal; in a pipe, as one line."""
    width = width_of(stream)
    return line if width is None else "\n".join(fitted(line, width, rest=INDENT))
