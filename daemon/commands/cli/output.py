"""What commands write: every line printable, whatever a file name or render-ws put into it."""

import json
from typing import Any

import click

from handlers.text import printable, printable_lines


def say(line: str) -> None:
    """Print one line."""
    click.echo(printable(line))


def complain(line: str) -> None:
    """Print one line on standard error."""
    click.echo(printable(line), err=True)


def say_lines(text: str) -> None:
    """Print lines, each with its line break."""
    click.echo(printable_lines(text), nl=False)


def say_json(value: Any) -> None:
    """Print a value as indented JSON, in ASCII."""
    click.echo(json.dumps(value, indent=2))
