"""The distribution python-daemon, which also installs a package named `daemon`: one overwrites files of the other."""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path


def clashing_distribution(search_path: Iterable[str] = sys.path) -> Path | None:
    """Return where python-daemon is installed among the directories of the search path; None if it is not."""
    return next(_installations(search_path), None)


def _installations(search_path: Iterable[str]) -> Iterator[Path]:
    for directory in search_path:
        found: list[Path] = []
        with contextlib.suppress(OSError):  # a zip archive, or a directory that does not exist or is closed
            found = list(Path(directory).iterdir())
        for path in found:
            if path.match("python_daemon-*.dist-info"):
                yield path


def clash_warning(distribution: Path) -> str:
    """Return what a user has to know and to do."""
    return (
        f"temwatch: python-daemon is installed in {distribution.parent}: it has a package named daemon too, and each"
        " overwrites files of the other (install temwatch in an environment of its own)"
    )
