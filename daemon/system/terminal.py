"""Width of a terminal, and lines wrapped to it. Output into a file or pipe is not wrapped."""

import os
import shutil
from typing import TextIO

from handlers.text import fitted

NARROWEST = 40
"""Fewest columns that lines are wrapped to."""
INDENT = "    "
"""Indentation of the second and further lines of a message."""


def width_of(stream: TextIO | None) -> int | None:
    """Return the columns of a stream's terminal; None if it is no terminal. $COLUMNS has precedence.

    Parameters
    ----------
    stream : None if it was closed before the process began, as by `>&-`.
    """
    if stream is None or not stream.isatty():
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # no real terminal
        columns = 0
    if "COLUMNS" in os.environ or not columns:
        columns = shutil.get_terminal_size().columns
    return max(columns, NARROWEST)


def message(line: str, stream: TextIO | None) -> str:
    """Return a message wrapped to the stream's terminal; unchanged if the stream is no terminal."""
    width = width_of(stream)
    return line if width is None else "\n".join(fitted(line, width, rest=INDENT))
