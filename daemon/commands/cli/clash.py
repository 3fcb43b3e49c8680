"""The distribution python-daemon, which also installs a package named `daemon`: one overwrites files of the other."""

import sys
from collections.abc import Iterable
from pathlib import Path


def clashing_distribution(search_path: Iterable[str] = sys.path) -> Path | None:
    """Return where python-daemon is installed among the directories of the search path; None if it is not."""
    installed = (found for directory in search_path for found in Path(directory).glob("python_daemon-*.dist-info"))
    return next(installed, None)


def clash_warning(distribution: Path) -> str:
    """Return what a user has to know and to do."""
    return (
        f"temwatch: python-daemon is installed in {distribution.parent}: it has a package named daemon too, and each"
        " overwrites files of the other (install temwatch in an environment of its own)"
    )
