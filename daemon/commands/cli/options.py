"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file. Default: $TEMWATCH_CONFIG, else /etc/temwatch/config.toml.",
)


class SelectingCommand(click.Command):
    """A command whose `--z` takes all numbers that follow it: `--z 1050 1051 --state all`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat `--z` before each of its numbers, because click takes one value for each option."""
        spread, after_z = list[str](), False
        for arg in args:
            if after_z and _is_number(arg) and spread[-1] != "--z":
                spread += ["--z", arg]
            else:
                after_z = arg == "--z" or (after_z and spread[-1] == "--z")
                spread.append(arg)
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def selecting(command: Callable[..., None]) -> Callable[..., None]:
    """Add the parameters that select montages."""
    for parameter in (
        click.option(
            "--since",
            metavar="TIME",
            help="Montages whose state changed since TIME: 2h, 3d, a date, or ISO 8601; local time without a zone.",
        ),
        click.option(
            "--state",
            type=click.Choice(["failed", "complete", "dismissed", "all"]),
            help="Montages in this state; all: any state except dismissed.",
        ),
        click.option("--z", "zs", metavar="Z...", type=float, multiple=True, help="Sections at these z values."),
        click.argument("paths", metavar="[PATH]...", nargs=-1),
    ):
        command = parameter(command)
    return command
