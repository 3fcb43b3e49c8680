"""Detect the distribution python-daemon: it also installs a package `daemon` and overwrites files of temwatch."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from daemon.commands.cli.output import complain


def warn_of_clash() -> None:
    """Warn on standard error if python-daemon is installed."""
    if distribution := clashing_distribution():
        complain(clash_warning(distribution))


def clashing_distribution(search_path: Iterable[str] = sys.path) -> Path | None:
    """Return the installation of python-daemon in the directories of the search path; None if there is none."""
    return next(_installations(search_path), None)


def _installations(search_path: Iterable[str]) -> Iterator[Path]:
    for directory in search_path:
        found: list[str] = []
        with contextlib.suppress(OSError):  # a zip archive, or a directory that does not exist or cannot be read
            found = os.listdir(directory or os.curdir)  # noqa: PTH208  a Path for each file takes milliseconds
        for name in found:
            if name.startswith("python_daemon-") and name.endswith(".dist-info"):
                yield Path(directory, name)


def clash_warning(distribution: Path) -> str:
    """Return the warning, with a hint."""
    return (
        f"temwatch: python-daemon is installed in {distribution.parent}: its package is also named daemon, so the"
        " two overwrite each other's files (install temwatch in its own environment)"
    )
