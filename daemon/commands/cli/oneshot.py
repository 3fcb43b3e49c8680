"""Commands that need no daemon: the import commands, demo, standin."""

import os
import sys
from pathlib import Path
from typing import Any

import click

from daemon.commands.cli.exits import FAILED, exit_with, run_or_exit, settings_or_exit
from daemon.commands.cli.options import config_option
from daemon.commands.cli.output import say
from daemon.commands.imports.command_names import IMPORT_COMMANDS


def _import_command(name: str, summary: str) -> click.Command:
    """Return an import command. Its arguments are parsed like those of asap-modules, not by click."""

    @click.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
        epilog="See --help.",
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        from daemon.commands.imports.start import run

        sys.exit(run(name, arguments))

    return command


import_commands = tuple(_import_command(name, summary) for name, summary in IMPORT_COMMANDS.items())


def require_format(name: str) -> None:
    """End the program if there is no such format."""
    from handlers.acquisition.formats.readers import READERS

    if name not in READERS:
        raise click.BadParameter(f"{name!r} is not one of {', '.join(READERS)}", param_hint="--format")


@click.command("import", short_help="Put tile specs of one file of any format into a stack.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "format_", required=True, help="Format of the file; docs/formats.md lists them.")
@click.option("--stack", required=True, help="Stack; it is created if it does not exist.")
@click.option("--z", required=True, type=float, help="Place of the section in the stack.")
@click.option("--url", help="Address of render-ws. Default: render.url of the configuration.")
@click.option("--owner", help="Owner of the stack. Default: render.owner.")
@click.option("--project", help="Project of the stack. Default: render.project.")
@click.option("--pixel-size", type=float, metavar="NM", help="Pixel size, for formats whose files do not state it.")
@click.option("--close", is_flag=True, help="Make the stack COMPLETE at the end.")
@config_option
def import_file(file: Path, format_: str, config_path: Path | None, **options: Any) -> None:
    """Put the tile specs of one file of any format into a stack, and read them back.

    The configuration is not read if --url, --owner and --project are given. With --url, its login and its path map are
    not used.
    """
    from daemon.commands.import_file import import_into_stack

    require_format(format_)
    where = {key: options.pop(key) for key in ("url", "owner", "project")}
    if None in where.values():
        render = settings_or_exit(config_path).render
        if where["url"] is None:
            options |= {"access": render.access, "path_map": render.paths}
        where = {key: value or getattr(render, key) for key, value in where.items()}
    say(run_or_exit(import_into_stack(file.absolute(), format_, **where, **options)))


@click.command(short_help="Demonstrate temwatch with a simulated microscope.")
@click.option("--sections", default=3, show_default=True, type=click.IntRange(1, 50), help="Sections to image.")
@click.option(
    "--tiles",
    default=24,
    show_default=True,
    type=click.IntRange(4, 3000),
    help="Approximate number of tiles per section.",
)
@click.option("--size", default="1024x1024", show_default=True, metavar="WxH", help="Pixels of a tile.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Watch this directory instead of a simulated microscope.",
)
@click.option("--format", "format_", default="pytemca", show_default=True, help="Format that the microscope writes.")
@click.option(
    "--store",
    default="directory",
    show_default=True,
    type=click.Choice(("directory", "s3")),
    help="Store of the mipmaps: the output directory, or a simulated S3 store, which needs moto.",
)
@click.option("--keep", is_flag=True, help="Keep everything running at the end, and print the addresses.")
@click.option(
    "--output",
    default=Path("demo-output"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of tiles, mipmaps, journal and pictures.",
)
def demo(
    sections: int,
    tiles: int,
    size: str,
    directory: Path | None,
    format_: str,
    store: str,
    keep: bool,
    output: Path,
) -> None:
    """Run a simulated microscope, the daemon and a stand-in for render-ws, each as a process."""
    from daemon.simulator.demonstration.demonstrate import Show, parse_size
    from daemon.simulator.demonstration.processes import forget_site

    forget_site()
    require_format(format_)
    try:
        width, height = parse_size(size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from None
    show = Show(
        sections=sections,
        tiles=tiles,
        width=width,
        height=height,
        directory=directory,
        keep=keep,
        output=output,
        format=format_,
        store=store,
    )
    sys.exit(0 if run_or_exit(show.run()) else FAILED)


@click.command(short_help="Run a stand-in for render-ws, in memory.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
def standin(host: str, port: int) -> None:
    """Run a stand-in for render-ws in memory, until Ctrl-C."""
    from daemon.simulator.standin.server import run_standin

    try:
        run_or_exit(run_standin(host, port))
    except OSError as error:
        problem = f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}"
        exit_with(FAILED, f"--port: {problem} (choose another port, or 0 for any free port)")
