"""The group of all commands.

Each command imports its modules when it is called, so that `temwatch --help` is fast. `temwatch run` installs signal
handlers before it imports the modules that all commands need.
"""

import atexit
import gc
import sys
from pathlib import Path
from typing import Any

from daemon.system.first_signals import FirstSignals

FIRST_SIGNALS = FirstSignals()
if sys.argv[1:2] == ["run"]:
    FIRST_SIGNALS.handle()

import click

from daemon.commands.cli.daemon import check_config, health, reload, status
from daemon.commands.cli.exits import FAILED, crash_report, run_or_exit, settings_or_exit
from daemon.commands.cli.group import GroupedCommands
from daemon.commands.cli.montages import dismiss, journal, log, manifest, picture, quality, replay, verdict, verify
from daemon.commands.cli.notify import notify
from daemon.commands.cli.oneshot import demo, import_commands, import_file, standin
from daemon.commands.cli.options import config_option
from daemon.commands.cli.output import accept_any_text
from daemon.commands.cli.plan import plan
from daemon.commands.cli.python_daemon import warn_of_clash


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="temwatch", prog_name="temwatch")
def temwatch() -> None:
    """Watch TEMCA acquisition directories and import every montage into render-ws, with verified mipmaps."""
    accept_any_text()
    warn_of_clash()


@click.command(short_help="Run the daemon.")
@config_option
def run(config_path: Path | None) -> None:
    """Run the daemon until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
    FIRST_SIGNALS.handle()
    atexit.register(_end_server)  # before multiprocessing registers its own, so that it runs after them
    with crash_report():
        _run(config_path)


def _run(config_path: Path | None) -> None:
    gc.disable()  # imported modules are not garbage
    settings = settings_or_exit(config_path)
    examination = _start_early(settings)
    from daemon.app import Daemon
    from daemon.config.load import load_settings
    from daemon.system.log import set_up_logging
    from handlers.workers.processes import exit_if_workers_hang

    gc.freeze()
    gc.enable()
    set_up_logging(settings.log.level, settings.log.format)
    exit_code = FAILED
    try:
        daemon = Daemon(settings, lambda: load_settings(config_path), examination, FIRST_SIGNALS)
        with crash_report():  # inside `finally`, which may end the process at once
            run_or_exit(daemon.run())
        exit_code = 0
    finally:
        exit_if_workers_hang(exit_code)


def _start_early(settings: Any) -> Any:
    """Start the worker server and the journal's examination, which run while this process imports modules.

    Returns the examination.
    """
    from handlers.workers.fork_server import start_server

    if settings.workers.executor == "processes":
        start_server()
    from daemon.system.lean_imports import import_http_client, import_log_library

    import_log_library()
    import_http_client()  # before the examination starts a thread
    from daemon.journal.file import examine_ahead

    return examine_ahead(settings.journal.path)


def _end_server() -> None:
    from handlers.workers.fork_server import end_server

    end_server()


temwatch.add_under("Daemon", [run, check_config, status, health, reload, log])
temwatch.add_under("Daemon", [replay, dismiss, verify, manifest, quality, verdict, picture, journal, notify])
temwatch.add_under("One-shot commands, without a daemon", [import_file, *import_commands, plan, demo, standin])
