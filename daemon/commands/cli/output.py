"""Output of commands: every line is printable, whatever a file name or render-ws put into it."""

import json
import sys
from typing import Any

import click

from daemon.system.terminal import message
from handlers.text import printable, printable_lines


def say(line: str) -> None:
    """Print a message. On a terminal it is wrapped; in a pipe it is one line."""
    click.echo(message(printable(line), sys.stdout))


def complain(line: str) -> None:
    """Print a message on standard error, in the same way."""
    click.echo(message(printable(line), sys.stderr), err=True)


def hint(line: str) -> None:
    """Print one line on standard error. It holds a command to paste, so it is never wrapped."""
    click.echo(printable(line), err=True)


def say_lines(text: str) -> None:
    """Print lines, each with its line break."""
    click.echo(printable_lines(text), nl=False)


def say_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII."""
    click.echo(json.dumps(value, indent=2))
