"""Commands about montages and the journal: replay, verify, manifest, picture, log, dismiss, quality, verdict."""

import sys
from pathlib import Path
from typing import Any, TextIO

import click

from daemon.commands.cli.exits import input_or_exit, run_or_exit, settings_or_exit
from daemon.commands.cli.log import log_warnings
from daemon.commands.cli.options import SelectingCommand, config_option, selecting
from daemon.commands.cli.output import complain, hint, say, say_lines
from handlers.text import counted

MAX_PATHS = 5_000
"""Largest number of paths in a selection."""


@click.command(cls=SelectingCommand, short_help="Process failed or selected montages again.")
@selecting
@click.option(
    "--from",
    "start",
    type=click.Choice(["ingest", "mipmaps", "apply"]),
    help="First step to repeat.  [default: ingest]",
)
@click.option(
    "--from-report",
    type=click.File("r"),
    help="Repair the differences in a report of `temwatch verify --json`; - reads standard input.",
)
@click.option("--dry-run", is_flag=True, help="Show the planned actions, and change nothing.")
@config_option
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
    """Process montages again, selected by PATH (metafile, directory or glob), z, state and time.

    Without --state: FAILED montages, metafiles below PATH that are not in the journal, and each metafile that PATH
    names itself, in any state. A running daemon does the work; without a daemon, this command does it.

    Exit code: 0 all are COMPLETE or none is selected, 1 some are not COMPLETE.
    """
    from daemon.commands.replay.command import replay as work
    from daemon.commands.replay.requests import requests_for, requests_of

    if from_report is not None and (paths or zs or state or since):
        raise click.UsageError("--from-report selects the montages: omit PATH, --z, --state and --since")
    settings = settings_or_exit(config_path)
    log_warnings(settings)
    given: dict[str, Any] = {"z": zs, "state": state, "since": since, "from": start, "dry_run": dry_run}
    requests = input_or_exit(
        lambda: requests_of(from_report.read(), start, dry_run=dry_run) if from_report else requests_for(paths, **given)
    )
    sys.exit(run_or_exit(work(settings, requests, say)))


@click.command(cls=SelectingCommand, short_help="Compare montages with stacks and files.")
@selecting
@click.option("--json", "as_json", is_flag=True, help="Print a report for `temwatch replay --from-report`.")
@click.option("--verbose", is_flag=True, help="Print every difference, not one line for each cause.")
@click.option("--deep", is_flag=True, help="Also read all images, and compare every file with its recorded digest.")
@config_option
def verify(
    paths: tuple[str, ...],
    zs: tuple[float, ...],
    state: str | None,
    since: str | None,
    as_json: bool,
    verbose: bool,
    deep: bool,
    config_path: Path | None,
) -> None:
    """Compare COMPLETE montages with their stacks and mipmap files, and report every difference.

    Changes nothing. Without a selection it compares all COMPLETE montages.

    Exit code: 0 no difference, 1 differences, or a montage could not be compared, or none of the given paths and
    sections has a COMPLETE montage.
    """
    from daemon.commands.replay.requests import requests_for
    from daemon.commands.verify.command import verify as work

    if state in ("failed", "dismissed"):
        raise click.UsageError(f"--state {state}: only COMPLETE montages can be verified")
    settings = settings_or_exit(config_path)
    log_warnings(settings)
    (selection,) = input_or_exit(lambda: requests_for(paths, max_paths=MAX_PATHS, z=zs, state=state, since=since))
    sys.exit(run_or_exit(work(settings, selection, say, as_json=as_json, verbose=verbose, deep=deep)))


@click.command(cls=SelectingCommand, short_help="Print digests of images and mipmaps, for xxhsum -c.")
@selecting
@config_option
def manifest(
    paths: tuple[str, ...], zs: tuple[float, ...], state: str | None, since: str | None, config_path: Path | None
) -> None:
    """Print the XXH3-128 of each image and mipmap file of COMPLETE montages, in the format of `xxhsum -c`.

    The digests were recorded when the images were read and the mipmaps were written. A tile whose mipmap files no
    longer match is left out. Without a selection, the digests of all COMPLETE montages are printed.

    Exit code: 0 all tiles are printed, 1 some are left out, or none of the given paths and sections has a COMPLETE
    montage.
    """
    from daemon.commands.replay.requests import requests_for
    from daemon.commands.verify.manifest import manifest as work

    if state in ("failed", "dismissed"):
        raise click.UsageError(f"--state {state}: only COMPLETE montages have a manifest")
    settings = settings_or_exit(config_path)
    log_warnings(settings)
    (selection,) = input_or_exit(lambda: requests_for(paths, max_paths=MAX_PATHS, z=zs, state=state, since=since))
    sys.exit(run_or_exit(work(settings, selection, lambda line: say_lines(f"{line}\n"), complain)))


@click.command(short_help="Draw a section of a stack as a PNG.")
@click.argument("stack")
@click.argument("z", type=float)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="PNG file to write."
)
@click.option(
    "--max-px", default=2048, show_default=True, type=click.IntRange(16, 20_000), help="Longest side, in pixels."
)
@config_option
def picture(stack: str, z: float, output: Path, max_px: int, config_path: Path | None) -> None:
    """Draw section Z of STACK as a PNG from the stack's mipmap files.

    STACK is a stack of the configured owner and project, or owner/project/stack.

    Exit code: 0 the file is written, 1 it is not, 2 an argument is invalid.
    """
    from daemon.commands.picture import draw

    say(run_or_exit(draw(settings_or_exit(config_path), stack, z, output, max_px)))


@click.command(short_help="Show the history of a montage.")
@click.argument("montage")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@config_option
def log(montage: str, as_json: bool, config_path: Path | None) -> None:
    """Show every event and attempt of MONTAGE, an id that `temwatch status` shows or the path of a metafile.

    The history is from the running daemon, or from the journal if no daemon runs. The last line is a command that finds
    the lines about the montage in the daemon's log.

    Exit code: 0 shown, 1 the journal cannot be read, 2 there is no such montage.
    """
    import json

    from daemon.commands.log import read_history
    from daemon.commands.log_location import reading_hint
    from daemon.config.daemon_address import find_places
    from daemon.system.locks import journal_owner
    from daemon.system.log_lines import console_line, safe_facts
    from daemon.system.terminal import width_of

    places = find_places(config_path)
    lines = [safe_facts(facts) for facts in run_or_exit(read_history(places, montage))]
    if as_json:
        for facts in lines:
            say(json.dumps(facts))
        return
    say(f"montage {lines[-1]['montage']}: {lines[-1]['metafile']}")
    width = width_of(sys.stdout)
    for facts in lines:
        shown = {key: value for key, value in facts.items() if key != "metafile"}
        say_lines(console_line(shown, width=width) + "\n")
    hint(reading_hint(journal_owner(places.journal), lines[-1]["montage"]))


@click.command(short_help="Stop counting a montage as failed.")
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID ...")
@click.option("--reason", required=True, metavar="TEXT", help="Reason of the dismissal, stored in the journal.")
@config_option
def dismiss(ids: tuple[int, ...], reason: str, config_path: Path | None) -> None:
    """Dismiss FAILED montages, for example of metafiles that were deleted on purpose.

    A dismissed montage does not count as failed and is not retried; `temwatch replay PATH` undoes it. `temwatch status`
    shows the ids. A COMPLETE montage whose metafile is gone can also be dismissed. Then a metafile with the same tiles
    in another directory, which was refused because of it, replaces it.

    Exit code: 0 all are dismissed, 1 some cannot be dismissed.
    """
    from daemon.commands.dismiss import dismiss as work
    from daemon.commands.dismiss import request_for
    from daemon.system.log import set_up_logging

    settings = settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    request = input_or_exit(lambda: request_for(ids, reason))
    sys.exit(run_or_exit(work(settings, request, say)))


@click.command(cls=SelectingCommand, short_help="Show quality verdicts and the worst tiles.")
@selecting
@click.option("--csv", "as_csv", is_flag=True, help="Print every number of every tile as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print verdicts and all numbers, one JSON object per line.")
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a mosaic and heatmaps of each montage, with the same scales for all.",
)
@config_option
def quality(
    paths: tuple[str, ...],
    zs: tuple[float, ...],
    state: str | None,
    since: str | None,
    as_csv: bool,
    as_json: bool,
    pictures: Path | None,
    config_path: Path | None,
) -> None:
    """Show the quality verdicts of montages and the tiles that break limits, the worst first.

    Reads the journal, with or without a daemon. Without a selection it shows all montages.

    Exit code: 0 none fails, 1 a montage fails, or none has quality numbers.
    """
    from daemon.commands.quality import Form
    from daemon.commands.quality import quality as work
    from daemon.commands.replay.requests import requests_for

    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot be combined")
    settings = settings_or_exit(config_path)
    log_warnings(settings)
    given: dict[str, Any] = {"z": zs, "state": state or "all", "since": since}
    (selection,) = input_or_exit(lambda: requests_for(paths, max_paths=MAX_PATHS, **given))
    form = Form.CSV if as_csv else Form.JSON if as_json else Form.TABLE
    sys.exit(run_or_exit(work(settings, selection, say, form, pictures)))


@click.command(short_help="Decide about the quality of a montage.")
@click.argument("montage_id", type=int, metavar="ID")
@click.argument("verdict", type=click.Choice(["pass", "fail", "re-image", "computed"]))
@click.option("--note", default="", metavar="TEXT", help="Reason, stored in the journal.")
@click.option("--by", default=None, metavar="NAME", help="Name of the person.  [default: the user's name]")
@config_option
def verdict(montage_id: int, verdict: str, note: str, by: str | None, config_path: Path | None) -> None:
    """Decide about the quality of montage ID.

    The decision replaces the verdict of the rules until the next decision. "computed" withdraws it. A montage that
    waits for a person continues after "pass". `temwatch status` shows the ids, `temwatch log ID` shows all decisions.

    Exit code: 0 recorded, 1 there is no such montage, or it cannot be recorded.
    """
    import getpass

    from daemon.commands.verdict import decide, request_for
    from daemon.system.log import set_up_logging

    settings = settings_or_exit(config_path)
    set_up_logging("warning", settings.log.format, sys.stderr)
    request = input_or_exit(lambda: request_for(verdict, by or getpass.getuser(), note))
    sys.exit(run_or_exit(decide(settings, montage_id, request, say)))


@click.group(short_help="Back up the journal, check an upgrade, or rebuild a lost one.")
def journal() -> None:
    """Back up the journal, check an upgrade, or rebuild a lost journal."""


@journal.command(short_help="Copy the journal to FILE.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@config_option
def backup(file: Path, config_path: Path | None) -> None:
    """Copy the journal to FILE. A running daemon makes the copy.

    An existing FILE is replaced if it is a journal.
    """
    import asyncio

    from daemon.commands.daemon_client import daemon_urls, token_or_none
    from daemon.commands.journal.backup import back_up

    settings = settings_or_exit(config_path)
    where = (
        settings.journal.path,
        file.absolute(),
        daemon_urls(settings.http, settings.journal.path),
        token_or_none(settings),
    )
    montages = run_or_exit(asyncio.to_thread(back_up, *where))
    say(f"{counted(montages, 'montage')} {'is' if montages == 1 else 'are'} in {file}")


@journal.command(short_help="Test the migration of an upgrade on a copy.")
@config_option
def check(config_path: Path | None) -> None:
    """Migrate a copy of the journal to this version of temwatch, read all of it, and delete it.

    Run it with the new version before an upgrade, as the user of the service. The daemon of the former version may run.
    The journal is not changed.

    Exit code: 0 the migration succeeds, 1 or 2 it does not, with the reason.
    """
    import asyncio

    from daemon.commands.journal.check import check as work
    from daemon.config.daemon_address import find_places

    path = find_places(config_path).journal
    for line in run_or_exit(asyncio.to_thread(work, path)).lines(path):
        say(line)


@journal.command(short_help="Rebuild a lost or damaged journal.")
@config_option
def rebuild(config_path: Path | None) -> None:
    """Rebuild a lost or damaged journal from the watched directories, the stacks and the mipmap files.

    The daemon must not run. An existing journal is kept under another name.
    """
    from daemon.commands.journal.rebuild import rebuild as work

    settings = settings_or_exit(config_path)
    log_warnings(settings)
    run_or_exit(work(settings, say))
