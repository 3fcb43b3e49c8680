"""Commands about hooks and alerts: `temwatch notify`."""

import sys
from pathlib import Path
from typing import Literal

import click

from daemon.commands.cli.exits import input_or_exit, run_or_exit, settings_or_exit
from daemon.commands.cli.options import config_option
from daemon.commands.cli.output import say


@click.group(short_help="Test, list, retry and silence messages and events.")
def notify() -> None:
    """Test messages to people and events for hooks; list, retry and drop undelivered ones; silence alerts.

    docs/alerts.md describes messages, docs/hooks.md describes hooks.
    """


@notify.command("list", short_help="List undelivered events and messages.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects.")
@config_option
def list_waiting(as_json: bool, config_path: Path | None) -> None:
    """List undelivered events, undelivered messages and active silences.

    Events wait for a hook or were given up after a day; `retry` and `drop` take their ids. Messages are listed until
    all addresses have accepted them.
    """
    import json

    from daemon.commands import notify as work

    waiting = run_or_exit(work.list_waiting(settings_or_exit(config_path)))
    for line in [json.dumps([*waiting.deliveries, *waiting.messages])] if as_json else work.waiting_lines(waiting):
        say(line)


@notify.command(short_help="Send a test message and a test event.")
@config_option
def test(config_path: Path | None) -> None:
    """Send a test message to every address of alerts.urls_file, and an event of the type "test" to every hook.

    Exit code: 0 all accepted it, 1 one did not, or the addresses cannot be used.
    """
    from daemon.commands.notify import send_test

    sys.exit(run_or_exit(send_test(settings_or_exit(config_path), say)))


@notify.command(short_help="Deliver events at once.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@config_option
def retry(ids: tuple[int, ...], config_path: Path | None) -> None:
    """Deliver events at once, including events that were given up.

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


@notify.command(short_help="Silence alerts for some hours.")
@click.argument("kind", default="")
@click.option("--watch", default="", help="Only alerts about this watch.")
@click.option("--subject", default="", help='Only alerts about this subject, as in "montages/17".')
@click.option("--hours", type=float, required=True, help="Duration; 0 ends a silence of the same alerts.")
@click.option("--reason", default="", help="Reason, stored in the journal.")
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
