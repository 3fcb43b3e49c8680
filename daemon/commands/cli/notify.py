"""Commands about hooks and alerts: `temwatch notify`."""

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


@notify.command("list", short_help="Show the events and messages that wait or were given up.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
@config_option
def list_waiting(as_json: bool, config_path: Path | None) -> None:
    """Show the events that wait for a hook, and those that were given up after a day, with the id that `retry` and
    `drop` take; then the messages that an address has not taken, and the silences that last."""
    import json

    from daemon.commands import notify as work

    waiting = run_or_exit(work.list_waiting(settings_or_exit(config_path)))
    for line in [json.dumps([*waiting.deliveries, *waiting.messages])] if as_json else work.waiting_lines(waiting):
        say(line)


@notify.command(short_help="Send a test message to people, and a test event to each hook.")
@config_option
def test(config_path: Path | None) -> None:
    """Send a test message to every address of alerts.urls_file, and an event of the type "test" to every hook.

    Exit code: 0 all took it, 1 one did not, or the addresses cannot be used.
    """
    from daemon.commands.notify import send_test

    sys.exit(run_or_exit(send_test(settings_or_exit(config_path), say)))


@notify.command(short_help="Deliver events at once, also those that were given up.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@config_option
def retry(ids: tuple[int, ...], config_path: Path | None) -> None:
    """Deliver events at once, those that were given up as well.

    Exit code: 0 all exist, 1 some do not.
    """
    _change("retry", ids, config_path)


@notify.command(short_help="Drop events, so that they are not delivered.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@config_option
def drop(ids: tuple[int, ...], config_path: Path | None) -> None:
    """Drop events, so that they are not delivered. The later events of the same montage follow.

    Exit code: 0 all exist, 1 some do not.
    """
    _change("drop", ids, config_path)


@notify.command(short_help="Silence some alerts for a while.")
@click.argument("kind", default="")
@click.option("--watch", default="", help="Only about this watch.")
@click.option("--subject", default="", help='Only about this, as in "montages/17".')
@click.option("--hours", type=float, required=True, help="How long; 0 ends a silence of the same alerts.")
@click.option("--reason", default="", help="The reason; kept in the journal.")
@config_option
def silence(kind: str, watch: str, subject: str, hours: float, reason: str, config_path: Path | None) -> None:
    """Silence alerts of a KIND, such as "disk low", for some hours; without KIND, all alerts.

    A condition that lasts longer is reported when its silence ends.
    """
    from daemon.commands.notify import silence as silence_for_a_while
    from daemon.commands.notify import silence_for
    from daemon.system.log import set_up_logging

    settings = settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    request = input_or_exit(lambda: silence_for(kind, watch, subject, hours, reason))
    run_or_exit(silence_for_a_while(settings, request, say))


def _change(action: Literal["retry", "drop"], ids: tuple[int, ...], config_path: Path | None) -> None:
    from daemon.commands.notify import change, request_for
    from daemon.system.log import set_up_logging

    settings = settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    request = input_or_exit(lambda: request_for(action, ids))
    sys.exit(run_or_exit(change(settings, request, say)))
