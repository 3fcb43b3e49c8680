"""End a command: a fault that a user can cause is printed as its text, with an exit code and no traceback."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from daemon.commands.cli.output import complain

T = TypeVar("T")

FAILED = 1
"""The work failed."""
BAD_INPUT = 2
"""The arguments or the configuration cannot be used."""
INTERRUPTED = 130
"""Ended by Ctrl-C."""


def exit_with(code: int, *lines: str) -> NoReturn:
    """End the program, with lines on standard error."""
    for line in lines:
        complain(line)
    sys.exit(code)


def settings_or_exit(config_path: Path | None) -> Any:
    """Return the settings, or end the program with one line for each invalid key."""
    from daemon.config.errors import ConfigError
    from daemon.config.load import load_settings

    try:
        return load_settings(config_path)
    except ConfigError as error:
        exit_with(BAD_INPUT, *error.problems)


def input_or_exit(decide: Callable[[], T]) -> T:
    """Return the result of `decide`; a fault in the arguments ends the program with its text."""
    from handlers.errors import Fault

    try:
        return decide()
    except Fault as fault:
        exit_with(BAD_INPUT, str(fault))


def run_or_exit(work: Coroutine[Any, Any, T]) -> T:
    """Return the coroutine's result. A fault ends the program with its text, Ctrl-C without a message."""
    import asyncio

    from daemon.system.threads import DaemonThreads
    from handlers.errors import Fault

    async def with_own_threads() -> T:
        asyncio.get_running_loop().set_default_executor(DaemonThreads("files"))
        return await work

    try:
        return asyncio.run(with_own_threads())
    except Fault as fault:
        exit_with(getattr(fault, "exit_code", FAILED), str(fault))
    except BaseExceptionGroup as group:
        faults, others = group.split(Fault)
        if others is not None or faults is None:
            raise
        exit_with(FAILED, *_texts(faults))
    except KeyboardInterrupt:
        exit_with(INTERRUPTED)


@contextlib.contextmanager
def crash_report() -> Iterator[None]:
    """Print the traceback of an unhandled exception, and end the program with exit code 1.

    Without this, click ends the program silently after a broken pipe, and with `Aborted!` after EOFError.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException:  # noqa: BLE001  CancelledError, too
        traceback.print_exc()
        sys.exit(FAILED)


def run_until_interrupt(work: Callable[[], NoReturn]) -> NoReturn:
    """Run work that only Ctrl-C ends; exit with code 0 then."""
    try:
        work()
    except KeyboardInterrupt:
        sys.exit(0)
    except SystemExit as end:  # Ctrl-C during a step that `run_or_exit` runs
        sys.exit(0 if end.code == INTERRUPTED else end.code)


def _texts(group: BaseExceptionGroup[Any]) -> list[str]:
    nested = [_texts(error) if isinstance(error, BaseExceptionGroup) else [str(error)] for error in group.exceptions]
    return [text for texts in nested for text in texts]
