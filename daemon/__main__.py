"""The `temwatch` command. Exit codes: 0 done, 1 the work failed, 2 bad usage or input.

Commands import what they need when they are called, so that `temwatch --help` answers at once.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

T = TypeVar("T")

NOTES_S = 10.0
"""How long `check-config` waits for the directories to answer."""
MOST_ARGUMENTS = 5_000
"""Paths of one selection."""
CONFIG_OPTION = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file. Default: $TEMWATCH_CONFIG, else /etc/temwatch/config.toml.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="temwatch", prog_name="temwatch")
def main() -> None:
    """Watches TEMCA acquisition directories and brings every montage into render-ws, with mipmaps, verified."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold bytes that are not UTF-8


@main.command()
@CONFIG_OPTION
def run(config_path: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    import atexit

    atexit.register(_end_server)  # before multiprocessing is imported, and so after all that it does at the exit
    settings = _settings_or_exit(config_path)
    examination = _begin_ahead(settings)
    from daemon.app import Daemon
    from daemon.config.load import load_settings
    from daemon.system.service import set_up_logging
    from handlers.workers.pool import leave_if_workers_hang

    set_up_logging(settings.log.level, settings.log.format)
    _collect_seldom()
    exit_code = 1
    try:
        _run_or_exit(Daemon(settings, lambda: load_settings(config_path), examination).run())
        exit_code = 0
    finally:
        leave_if_workers_hang(exit_code)


def _begin_ahead(settings: Any) -> Any:
    """Begins what takes time without this process's Python, which has much to import still: the journal's examination,
    which is returned, and the server of worker processes, which imports for itself."""
    from handlers.workers.worker import start_server

    if settings.workers.executor == "processes":
        start_server()
    from daemon.journal.file import examine_ahead

    return examine_ahead(settings.journal.path)


def _end_server() -> None:
    from handlers.workers.worker import end_server

    end_server()


def _collect_seldom() -> None:
    """Has Python look for cycles less often: a section of 20,000 tiles is a million objects, none of them in one."""
    import gc

    gc.freeze()  # what was imported stays
    gc.set_threshold(100_000, 50, 20)


@main.command("check-config")
@CONFIG_OPTION
@click.option("--print-example", is_flag=True, help="Print config.example.toml and exit.")
def check_config(config_path: Path | None, print_example: bool) -> None:
    """Say what would be watched and where it would be written, or what is wrong, key by key."""
    if print_example:
        from daemon.config.load import example_toml

        click.echo(example_toml(), nl=False)
        return
    settings = _settings_or_exit(config_path)
    render = settings.render
    click.echo(f"render-ws  {render.shown_url}  owner {render.owner}, project {render.project}")
    click.echo(f"journal    {settings.journal.path}")
    click.echo(f"http       {settings.http.host}:{settings.http.port}")
    click.echo(f"workers    {settings.workers.executor}, {settings.workers.count or os.cpu_count()} at once")
    for watch in settings.watch:
        stacks, mipmaps = watch.stacks, watch.mipmaps
        click.echo(f"watch {watch.name}")
        click.echo(f"  reads    {watch.directory}, {watch.pattern}, mode {watch.mode}")
        click.echo(f"  z        by rule {watch.z.rule}")
        click.echo(f"  stacks   {stacks.raw} -> {stacks.mipmapped or 'the same, in place'}; close {stacks.close}")
        click.echo(
            f"  mipmaps  {mipmaps.levels} levels, {mipmaps.format}, under {mipmaps.output_dir}; apply {mipmaps.apply}"
        )
    for note in _notes(settings):
        click.echo(f"note {note}")


def _notes(settings: Any) -> list[str]:
    """What a person should know before the daemon runs; a file server that does not answer ends the list."""
    from concurrent.futures import wait

    from daemon.config.load import remarks
    from daemon.system.threads import DaemonThreads

    notes: list[str] = []
    looking = DaemonThreads("notes").submit(lambda: notes.extend(remarks(settings)))
    if wait([looking], timeout=NOTES_S).not_done:
        return [*notes, f"a directory has not answered for {NOTES_S:g} s: see that its file server is up"]
    looking.result()
    return notes


@main.command()
@click.option("--url", help="Where the daemon listens. Default: what the configuration says.")
@CONFIG_OPTION
def health(url: str | None, config_path: Path | None) -> None:
    """Ask the running daemon whether it is ready: exit 0 ready, 1 not ready, 2 unreachable."""
    from daemon.commands.daemon_client import fetch
    from handlers.uris import without_userinfo

    where = url or _http_url(config_path)
    answer = fetch(f"{where.rstrip('/')}/readyz")
    if answer is None or "ready" not in answer:
        click.echo(f"unreachable: no temwatch answers at {without_userinfo(where)}", err=True)
        sys.exit(2)
    click.echo("ready" if answer["ready"] else "not ready")
    for line in [*answer["reasons"], *answer["warnings"]]:
        click.echo(f"  {line}")
    sys.exit(0 if answer["ready"] else 1)


@main.command()
@CONFIG_OPTION
def reload(config_path: Path | None) -> None:
    """Have the running daemon take up its changed configuration: exit 0 in force, 1 not, 2 the file cannot be used."""
    from daemon.commands.reload import reload as work
    from handlers.errors import Fault

    settings = _settings_or_exit(config_path)
    try:
        work(settings)
    except Fault as fault:
        _exit(1, str(fault))
    click.echo("the configuration is in force")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@CONFIG_OPTION
def status(as_json: bool, config_path: Path | None) -> None:
    """Show what is done, under way, waiting and failed: from the running daemon, else from the journal."""
    from daemon.commands.status import read_status, status_text

    settings = _settings_or_exit(config_path)
    report = _run_or_exit(read_status(settings))
    click.echo(json.dumps(report, indent=2) if as_json else status_text(report), nl=as_json)


@main.command()
@click.option("--sections", default=3, show_default=True, type=click.IntRange(1, 50), help="How many to image.")
@click.option("--tiles", default=24, show_default=True, type=click.IntRange(4, 3000), help="Tiles of each, about.")
@click.option("--size", default="1024x1024", show_default=True, metavar="WxH", help="Pixels of a tile.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Watch this directory of yours instead of a simulated microscope's.",
)
@click.option("--keep", is_flag=True, help="Leave everything running at the end, and say where to look.")
@click.option(
    "--output",
    default=Path("demo-output"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where tiles, mipmaps, journal and pictures go.",
)
def demo(sections: int, tiles: int, size: str, directory: Path | None, keep: bool, output: Path) -> None:
    """Run the main job: a simulated microscope, the daemon, a stand-in render-ws, each a process of its own."""
    from daemon.simulator.show import Show, parse_size

    try:
        width, height = parse_size(size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from None
    show = Show(
        sections=sections, tiles=tiles, width=width, height=height, directory=directory, keep=keep, output=output
    )
    sys.exit(0 if _run_or_exit(show.run()) else 1)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
def standin(host: str, port: int) -> None:
    """Run the built-in render-ws stand-in alone, in memory."""
    from daemon.simulator.standin import run_standin

    try:
        _run_or_exit(run_standin(host, port))
    except OSError as error:
        _exit(1, f"--port: cannot listen on {host}:{port}: {error.strerror or error} (choose another, or 0 for any)")


def _import_command(name: str, summary: str) -> None:
    """Adds one of the commands that facilities know from asap-modules, which reads its arguments itself."""

    @main.command(
        name,
        help=summary,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True},
        epilog="See --help.",
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        from daemon.commands.imports.commands import run_command

        sys.exit(run_command(name, arguments))


_import_command("generate_EM_tilespecs_from_metafile", "Put the tile specs of one metafile into a stack, and end.")
_import_command("generate_mipmaps", "Make the mipmaps of some layers of a stack, and end.")
_import_command("apply_mipmaps_to_render", "Make a stack name the mipmaps of some layers, and end.")


@main.group()
def journal() -> None:
    """Copy the journal, or make it anew."""


@journal.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@CONFIG_OPTION
def backup(file: Path, config_path: Path | None) -> None:
    """Copy the journal to FILE, also while the daemon runs. FILE is replaced if it is a journal."""
    import asyncio

    from daemon.commands.journal import back_up

    settings = _settings_or_exit(config_path)
    target = file.absolute()
    montages = _run_or_exit(asyncio.to_thread(back_up, settings.journal.path, target))
    click.echo(f"{montages} montages are in {file}")


@journal.command()
@CONFIG_OPTION
def rebuild(config_path: Path | None) -> None:
    """Make a lost or damaged journal anew, from the watched directories, the stacks and the mipmap files.

    The daemon must not run. A journal that is there is kept under another name.
    """
    from daemon.commands.journal import rebuild as work
    from daemon.system.service import set_up_logging

    settings = _settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    _run_or_exit(work(settings, click.echo))


class SelectingCommand(click.Command):
    """A command whose `--z` takes all numbers that follow it: `--z 1050 1051 --state all`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gives each of them an option of its own, as click wants it."""
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
    """The parameters that select montages."""
    for parameter in (
        click.option(
            "--since",
            metavar="TIME",
            help="Those that came to their state since: 2h, 3d, a date, or ISO 8601; local time if it names no zone.",
        ),
        click.option("--state", type=click.Choice(["failed", "complete", "all"])),
        click.option("--z", "zs", metavar="Z...", type=float, multiple=True, help="Sections; several may follow."),
        click.argument("paths", metavar="[PATH]...", nargs=-1),
    ):
        command = parameter(command)
    return command


@main.command(cls=SelectingCommand)
@selecting
@click.option(
    "--from",
    "start",
    type=click.Choice(["ingest", "mipmaps", "apply"]),
    help="The step from which on all is done again.  [default: ingest]",
)
@click.option(
    "--from-report",
    type=click.File("r"),
    help="What `temwatch verify --json` found wrong, each from the step that mends it; - reads standard input.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@CONFIG_OPTION
def replay(
    paths: tuple[str, ...],
    zs: tuple[float, ...],
    state: str | None,
    since: str | None,
    start: str | None,
    from_report: TextIO | None,
    dry_run: bool,
    config_path: Path | None,
) -> None:
    """Do montages again: those selected by metafile, directory or glob, z, state and time.

    Without --state: what is FAILED, metafiles below PATH that were never seen, and what PATH names itself in whatever
    state.
    The running daemon does the work where there is one. Exit 0: all are COMPLETE, or nothing is selected; 1: not all.
    """
    from daemon.commands.replay import replay as work
    from daemon.commands.replay import requests_for, requests_of
    from daemon.system.service import set_up_logging

    if from_report is not None and (paths or zs or state or since):
        raise click.UsageError("--from-report says which montages: give no PATH, --z, --state or --since with it")
    settings = _settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    given: dict[str, Any] = {"z": zs, "state": state, "since": since, "from": start, "dry_run": dry_run}
    requests = _or_exit(
        lambda: requests_of(from_report.read(), start, dry_run=dry_run) if from_report else requests_for(paths, **given)
    )
    sys.exit(_run_or_exit(work(settings, requests, click.echo)))


@main.command("verify", cls=SelectingCommand)
@selecting
@click.option("--json", "as_json", is_flag=True, help="Print a report that `temwatch replay --from-report` takes.")
@CONFIG_OPTION
def verify(
    paths: tuple[str, ...],
    zs: tuple[float, ...],
    state: str | None,
    since: str | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Read the stacks and mipmap files of COMPLETE montages again, and tell every difference. Changes nothing.

    Without a selection: all of them. Exit 0: no difference; 1: differences, or something could not be judged.
    """
    from daemon.commands.replay import requests_for
    from daemon.commands.verify import verify as work
    from daemon.system.service import set_up_logging

    if state == "failed":
        raise click.UsageError("--state failed: only COMPLETE montages can be verified")
    settings = _settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    (selection,) = _or_exit(lambda: requests_for(paths, most_paths=MOST_ARGUMENTS, z=zs, state=state, since=since))
    sys.exit(_run_or_exit(work(settings, selection, click.echo, as_json=as_json)))


def _settings_or_exit(config_path: Path | None) -> Any:
    from daemon.config.load import ConfigError, load_settings

    try:
        return load_settings(config_path)
    except ConfigError as error:
        _exit(2, *error.problems)


def _http_url(config_path: Path | None) -> str:
    from daemon.commands.daemon_client import daemon_urls

    return daemon_urls(_settings_or_exit(config_path))[0]


def _run_or_exit(work: Coroutine[Any, Any, Any]) -> Any:
    """The coroutine's result; a fault that a user can cause ends the program with its text, never a traceback."""
    import asyncio

    from daemon.system.threads import DaemonThreads
    from handlers.errors import Fault

    async def with_own_threads() -> Any:
        asyncio.get_running_loop().set_default_executor(DaemonThreads("files"))
        return await work

    try:
        return asyncio.run(with_own_threads())
    except Fault as fault:
        _exit(getattr(fault, "exit_code", 1), str(fault))
    except BaseExceptionGroup as group:
        faults, others = group.split(Fault)
        if others is not None or faults is None:
            raise
        _exit(1, *_texts(faults))
    except KeyboardInterrupt:
        _exit(130)


def _or_exit(decide: Callable[[], T]) -> T:
    """What is decided; a fault in the parameters ends the program with its text."""
    from handlers.errors import Fault

    try:
        return decide()
    except Fault as fault:
        _exit(2, str(fault))


def _texts(group: BaseExceptionGroup[Any]) -> list[str]:
    nested = [_texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)] for error in group.exceptions]
    return [text for texts in nested for text in texts]


def _exit(code: int, *lines: str) -> NoReturn:
    for line in lines:
        click.echo(line, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
