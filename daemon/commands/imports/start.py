"""Start an import command. Work that can run during its imports is started first."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import NoReturn

from daemon.commands.cli.output import accept_any_text
from daemon.commands.cli.python_daemon import warn_of_clash
from daemon.commands.imports.command_names import MAKES_MIPMAPS
from daemon.system.hide_secrets import hide_passwords

STOPPED = 130
"""Exit code after Ctrl-C."""


def run_alone(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run an import command without importing the group of all commands, then exit.

    The process ends without deleting hundreds of modules one by one, which takes as long as its work for some tiles.
    """
    try:
        accept_any_text()
        warn_of_clash()
        try:
            code = run(name, arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:  # before the imports; after them, `run_command` prints how to resume
        code = STOPPED
    except BrokenPipeError:  # the reader of the output has ended, as in `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    logging.shutdown()
    with contextlib.suppress(OSError):  # nobody reads it
        sys.stderr.flush()
    os._exit(code)


def run(name: str, arguments: Sequence[str]) -> int:
    """Run an import command and return its exit code. Ctrl-C during its imports ends the process."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end_at_once)
    hide_passwords()  # before the slow imports: `ps` shows the command line to all users
    if name == MAKES_MIPMAPS and not _only_prints(arguments):
        with _workers_started_meanwhile():
            return _run(name, arguments)
    return _run(name, arguments)


def _run(name: str, arguments: Sequence[str]) -> int:
    from daemon.commands.imports.commands import run_command

    if signal.getsignal(signal.SIGINT) is _end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run_command(name, arguments)


def _end_at_once(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(STOPPED)  # imported code may catch a KeyboardInterrupt, or replace it, as pydantic's does


def _only_prints(arguments: Sequence[str]) -> bool:
    """Whether a command only prints and needs no workers."""
    return any(word.startswith(("--help", "-h", "--dry_run", "--print_schema")) for word in arguments)


@contextlib.contextmanager
def _workers_started_meanwhile() -> Iterator[None]:
    """Context with the server of the workers. It starts and ends while this process does other work.

    At the start it imports the workers' modules while this process imports the others.
    """
    from handlers.workers.fork_server import release_server, start_server

    with contextlib.suppress(OSError):  # the pool reports it
        start_server()
    try:
        yield
    finally:
        release_server()
