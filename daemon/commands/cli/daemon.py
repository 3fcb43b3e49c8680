"""Commands about the daemon and its configuration: check-config, status, health, reload."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import click

from daemon.commands.cli.exits import BAD_INPUT, FAILED, exit_with, run_or_exit, run_until_interrupt, settings_or_exit
from daemon.commands.cli.options import config_option
from daemon.commands.cli.output import complain, say, say_json, say_lines

NOT_READY, UNREACHABLE = 1, 2
"""Exit codes of `health`."""


@click.command("check-config", short_help="Check the configuration and show its effect.")
@config_option
@click.option("--probe", is_flag=True, help="Also send a small tile to render-ws and read it back.")
@click.option("--print-example", is_flag=True, help="Print config.example.toml and exit.")
def check_config(config_path: Path | None, probe: bool, print_example: bool) -> None:
    """Show which directories are watched and where results are written, or list each invalid key.

    A line that starts with "note" reports a problem that does not prevent the start: the daemon waits or warns.

    --probe writes a small image below each output_dir, puts it into a temporary stack, requests its pixels from
    render-ws and compares them. It also requests one image of each watched directory, and tests which files the workers
    of a dask scheduler can access. Everything that it made is deleted. If root runs it, the test uses the rights of the
    user of temwatch.service, if systemd knows that unit; the last line names the user.

    Exit code: 0 the daemon can start, 1 it can start but --probe found a problem, 2 it cannot start, with the reasons
    on standard error.
    """
    if print_example:
        from daemon.config.reference import example_toml

        say_lines(example_toml())
        return
    from daemon.commands.check_config import effect

    settings = settings_or_exit(config_path)
    from daemon.commands.preflight import preflight

    tried_as = _become_service_user() if probe else ""
    for line in effect(settings):
        say(line)
    findings = preflight(settings)
    for finding in findings:
        if not finding.prevents_start:
            say(f"note {finding}")
    is_wrong = probe and not _probe(settings, tried_as)
    if reasons := [str(finding) for finding in findings if finding.prevents_start]:
        exit_with(BAD_INPUT, *reasons)
    if is_wrong:
        sys.exit(FAILED)


def _become_service_user() -> str:
    """Change to the service's user if possible; return a sentence that names the user."""
    from daemon.commands.probe.command import (
        become_service_user,
    )  # imports everything now: the service's user may be unable to read these files

    return become_service_user()


def _probe(settings: Any, tried_as: str) -> bool:
    """Probe render-ws and every watch, and print the outcome; return whether there was no problem."""
    from daemon.commands.probe.command import probe

    probed = run_or_exit(probe(settings, tried_as))
    for line in probed.proved:
        say(f"probe {line}")
    for finding in probed.findings:
        say(f"wrong {finding}")
    return not probed.findings


@click.command(short_help="Show whether the daemon is ready, and its montages.")
@click.option("--failed", is_flag=True, help="Show every FAILED montage with its fault, and no others.")
@click.option("--by-cause", is_flag=True, help="Also group unfinished montages, and show all groups.")
@click.option("--watch", metavar="NAME", help="Show the montages of this watch only.")
@click.option("--follow", is_flag=True, help="Show the status again every 2 s until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
def status(
    failed: bool, by_cause: bool, watch: str | None, follow: bool, as_json: bool, config_path: Path | None
) -> None:
    """Show whether the daemon is ready, and which montages failed or are unfinished, by cause.

    The report is from the running daemon, or from the journal if no daemon runs. It also works with an invalid
    configuration file.
    """
    from daemon.commands.status.report import narrowed, read_status, watch_names
    from daemon.commands.status.screen import follow_report, show_report
    from daemon.config.daemon_address import find_places

    if as_json and (follow or by_cause):
        name = "--follow" if follow else "--by-cause"
        raise click.UsageError(f"{name} applies to text output: omit --json")

    def read() -> dict[str, Any]:
        places = find_places(config_path)
        report = run_or_exit(read_status(places))
        if places.problems and not report["running"] and report["pid"] is None:
            exit_with(BAD_INPUT, *places.problems)
        known = watch_names(report)
        if watch is not None and watch not in known:
            exit_with(BAD_INPUT, f"--watch: there is no watch {watch!r}; known are {', '.join(known) or 'none'}")
        return report

    if as_json:
        say_json(narrowed(read(), watch=watch, failed=failed))
    elif follow:
        run_until_interrupt(lambda: follow_report(read, watch=watch, failed=failed, by_cause=by_cause))
    else:
        show_report(read(), watch=watch, failed=failed, by_cause=by_cause)


@click.command(short_help="Report by exit code whether the daemon is ready.")
@click.option("--url", help="Address of the daemon. Default: the configured one.")
@config_option
def health(url: str | None, config_path: Path | None) -> None:
    """Report whether the running daemon is ready. It also works with an invalid configuration file.

    Exit code: 0 ready, 1 not ready, 2 unreachable.
    """
    from daemon.commands.daemon_client import START_HINT, ask_ready, find_daemon, is_alive
    from daemon.config.daemon_address import find_places
    from handlers.uris import without_userinfo

    if url is not None:
        if not url.lower().startswith(("http://", "https://")):
            raise click.BadParameter(f"{url!r} does not begin with http:// or https://", param_hint="'--url'")
        address, alive, reason = url, is_alive(url), ""
    else:
        places = find_places(config_path)
        for problem in places.problems:
            complain(f"invalid configuration: {problem}")
        daemon = find_daemon(places.http, places.journal)
        address, alive = daemon.url, daemon.is_alive
        reason = f" ({START_HINT})"
        if daemon.pid is not None:
            reason = f"; process {daemon.pid} holds its journal: {daemon.unresponsive_because}"
    answer = ask_ready(address) if alive else None
    if answer is None:
        exit_with(UNREACHABLE, f"unreachable: no temwatch answers at {without_userinfo(address)}{reason}")
    with contextlib.suppress(BrokenPipeError):  # the exit code is the answer
        say("ready" if answer.is_ready else "not ready")
        for line in answer.lines:
            say(f"  {line}")
    sys.exit(0 if answer.is_ready else NOT_READY)


@click.command(short_help="Make the daemon read its configuration again.")
@config_option
def reload(config_path: Path | None) -> None:
    """Make the running daemon read its configuration again.

    Exit code: 0 the new configuration is applied, 1 it is not, 2 the file is invalid.
    """
    from daemon.commands.reload import reload as request_reload
    from daemon.config.errors import ConfigError
    from handlers.errors import Fault

    settings = settings_or_exit(config_path)
    try:
        request_reload(settings)
    except ConfigError as error:
        exit_with(FAILED, *error.problems)
    except Fault as fault:
        exit_with(FAILED, str(fault))
    say("the new configuration is applied")
