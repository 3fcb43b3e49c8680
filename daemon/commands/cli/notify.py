"""Commands about what others are told: `temwatch notify`."""

import sys
from pathlib import Path
from typing import Literal

import click

from daemon.commands.cli.exits import input_or_exit, run_or_exit, settings_or_exit
from daemon.commands.cli.options import config_option
from daemon.commands.cli.output import say


@click.group(short_help="Test messages to people; show and repeat events that hooks have not taken.")
def notify() -> None:
    """Test messages to people; show and repeat events that hooks have not taken.

    docs/alerts.md describes messages, docs/hooks.md hooks.
    """


@notify.command("list", short_help="Show the events that wait or were given up.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
@config_option
def list_waiting(as_json: bool, config_path: Path | None) -> None:
    """Show the events that wait for a hook, and those that were given up after a day, with the id that `retry` and
    `drop` take."""
    import json

    from daemon.commands.notify import delivery_lines, list_deliveries

    rows = run_or_exit(list_deliveries(settings_or_exit(config_path)))
    for line in [json.dumps(rows)] if as_json else delivery_lines(rows):
        say(line)


@notify.command(short_help="Send a test message to people.")
@config_option
def test(config_path: Path | None) -> None:
    """Send a test message to every address of alerts.urls_file.

    Exit code: 0 all services took it, 1 one did not, or the addresses cannot be used.
    """
    from daemon.commands.notify import send_test

    sys.exit(run_or_exit(send_test(settings_or_exit(config_path), say)))


@notify.command(short_help="Deliver events at once, given up ones too.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@config_option
def retry(ids: tuple[int, ...], config_path: Path | None) -> None:
    """Deliver events at once, those that were given up as well.

    Exit code: 0 all exist, 1 some do not.
    """
    _change("retry", ids, config_path)


@notify.command(short_help="Never deliver events.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@config_option
def drop(ids: tuple[int, ...], config_path: Path | None) -> None:
    """Never deliver events. The later events of the same montage follow.

    Exit code: 0 all exist, 1 some do not.
    """
    _change("drop", ids, config_path)


def _change(action: Literal["retry", "drop"], ids: tuple[int, ...], config_path: Path | None) -> None:
    from daemon.commands.notify import change, request_for
    from daemon.system.log import set_up_logging

    settings = settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    request = input_or_exit(lambda: request_for(action, ids))
    sys.exit(run_or_exit(change(settings, request, say)))
