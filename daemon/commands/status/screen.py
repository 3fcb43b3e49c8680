"""Print the report of `temwatch status` once or repeatedly, fitted to the terminal."""

import shutil
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

import click

from daemon.commands.cli.output import say_lines
from daemon.commands.status.report import Report
from daemon.commands.status.text import View, status_text
from daemon.system.log_lines import safe
from daemon.system.terminal import width_of

FOLLOW_S = 2.0
"""Seconds between two reports of `--follow`."""


def show_report(report: Report, *, watch: str | None, failed: bool, by_cause: bool) -> None:
    """Print a report once. On a terminal its lines are wrapped."""
    say_lines(_text(report, watch=watch, failed=failed, by_cause=by_cause))


def follow_report(read: Callable[[], Report], *, watch: str | None, failed: bool, by_cause: bool) -> NoReturn:
    """Print reports until interrupted. On a terminal each report replaces the previous one."""
    while True:
        text = _text(read(), watch=watch, failed=failed, by_cause=by_cause)
        if sys.stdout.isatty():
            click.clear()
            text = _cut(text, shutil.get_terminal_size().lines)
        say_lines(text)
        sys.stdout.flush()
        time.sleep(FOLLOW_S)


def _text(report: Report, *, watch: str | None, failed: bool, by_cause: bool) -> str:
    now = datetime.now().astimezone()
    return status_text(safe(report), View(now, width_of(sys.stdout), watch=watch, failed=failed, by_cause=by_cause))


def _cut(text: str, height: int) -> str:
    """Cut a text to the height of a terminal, leaving one line for the cursor."""
    lines = text.splitlines()
    if len(lines) < height:
        return text
    more = len(lines) - (height - 2)
    return "\n".join([*lines[: height - 2], f"... and {more} more lines: enlarge the window"]) + "\n"
