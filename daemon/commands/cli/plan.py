"""The command `plan`: compute the servers for a facility's microscopes."""

import math
import re
import sys
from pathlib import Path
from typing import Any

import click

from daemon.commands.cli.exits import BAD_INPUT, FAILED, exit_with, input_or_exit
from daemon.commands.cli.output import say, say_json, say_lines

MAX_PIXELS = 65_536
"""Largest side of a tile, pixels."""


class OneLine(click.Command):
    """A command that reports invalid input in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; end the program at the first invalid one."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            exit_with(BAD_INPUT, f"temwatch plan: {' '.join(error.format_message().split())} (temwatch plan --help)")


class Positive(click.FloatRange):
    """A finite number above 0."""

    def __init__(self, most: float) -> None:
        super().__init__(min=0, max=most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Refuses NaN, which passes range checks."""
        number = float(super().convert(value, param, ctx))
        return number if math.isfinite(number) else self.fail(f"{number} is not a finite number.", param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Width and height in pixels, as in 5504x5504."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Return width and height."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"([0-9]{1,6})[xX]([0-9]{1,6})", str(value))
        width, height = (int(found[1]), int(found[2])) if found else (0, 0)
        if not (1 <= width <= MAX_PIXELS and 1 <= height <= MAX_PIXELS):
            self.fail(f"{value!r} is not a size such as 5504x5504, each side from 1 to {MAX_PIXELS}.", param, ctx)
        return width, height


DEPTHS = click.Choice(["8", "16"])


@click.command(cls=OneLine, short_help="Compute the servers for a number of microscopes.")
@click.option("--scopes", default=6, show_default=True, type=click.IntRange(1, 10_000), help="Microscopes of one kind.")
@click.option(
    "--tiles-per-s", default=3.07, show_default=True, type=Positive(1e4), help="Rate of one microscope, without pauses."
)
@click.option("--size", default="5504x5504", show_default=True, type=Size(), metavar="WxH", help="Pixels of a tile.")
@click.option("--depth", default="8", show_default=True, type=DEPTHS, help="Bits of a pixel of level 0.")
@click.option("--levels", default=6, show_default=True, type=click.IntRange(1, 12), help="Highest mipmap level.")
@click.option("--level-depth", default="8", show_default=True, type=DEPTHS, help="Bits of a pixel of the levels.")
@click.option(
    "--format",
    "format_",
    default="tif",
    show_default=True,
    type=click.Choice(["tif", "png", "jpg"]),
    help="Format of the levels.",
)
@click.option(
    "--raw",
    default="disk",
    show_default=True,
    type=click.Choice(["disk", "mount"]),
    help="Place of level 0: the server's disk, or a file server.",
)
@click.option(
    "--delay",
    "delay_ms",
    default=1.0,
    show_default=True,
    type=Positive(60_000),
    metavar="MS",
    help="Until the file server with level 0 answers.",
)
@click.option(
    "--store",
    default="disk",
    show_default=True,
    type=click.Choice(["disk", "mount", "object"]),
    help="Place of the levels: the server's disk, a file server or an object store.",
)
@click.option("--cores", default=16.0, show_default=True, type=Positive(1e5), help="Cores of one server.")
@click.option(
    "--disk",
    "disk_mb_s",
    default=2000.0,
    show_default=True,
    type=Positive(1e7),
    metavar="MB/S",
    help="Sustained rate of one server, reading and writing together.",
)
@click.option(
    "--network",
    "network_mb_s",
    default=1250.0,
    show_default=True,
    type=Positive(1e7),
    metavar="MB/S",
    help="Rate of one server in each direction.",
)
@click.option(
    "--measured",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Costs measured on your machine: the output of `python -m benchmarks sustained`.",
)
@click.option("--constants", is_flag=True, help="Also show every constant with its source.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures and constants as JSON.")
def plan(
    size: tuple[int, int],
    depth: str,
    level_depth: str,
    format_: Any,
    measured: Path | None,
    constants: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Compute the load of microscopes on cores, disks and networks, and the number of servers.

    Microscopes are divided among the servers, each with its own daemon and watches. The costs of a tile were measured
    on one machine; --measured uses those of yours. render-ws and the disks of file servers and stores are not included.

    Exit code: 0 there is a plan, 1 one microscope exceeds one server, 2 invalid input.
    """
    from daemon.commands.plan import present
    from daemon.commands.plan.costs import COSTS
    from daemon.commands.plan.load import Facility
    from daemon.commands.plan.measured import read_run
    from daemon.commands.plan.servers import Server
    from daemon.commands.plan.servers import plan as work

    if depth == "8":
        level_depth = "8"
    if format_ == "jpg" and level_depth == "16":
        exit_with(BAD_INPUT, "temwatch plan: --level-depth: jpg has 8 bits (choose tif or png, or 8)")
    server = Server(*(given.pop(key) for key in ("cores", "disk_mb_s", "network_mb_s")))
    facility = Facility(
        width=size[0], height=size[1], depth=_bits(depth), level_depth=_bits(level_depth), format=format_, **given
    )
    run = input_or_exit(lambda: read_run(measured)) if measured else None
    costs = run.costs() if run else COSTS
    found = work(facility, server, costs)
    if as_json:
        say_json(present.as_json(found, costs, run))
    else:
        say_lines("".join(f"{line}\n" for line in present.plan_lines(found)))
        if run:
            say(present.run_line(run, costs))
        if constants:
            say_lines("".join(f"{line}\n" for line in ("", *present.constant_lines(costs))))
    sys.exit(0 if found.servers else FAILED)


def _bits(text: str) -> Any:
    return int(text)
