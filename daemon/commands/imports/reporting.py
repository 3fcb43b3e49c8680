"""Report the failures and results of an import command: equal failures as one entry, lists as files."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.commands.imports.results import Problem
from daemon.system.terminal import message
from handlers.errors import Fault
from handlers.render.failures import Failure, group_failures
from handlers.text import printable

MAX_ENTRIES = 100
"""Largest number of groups of failures in a result; --failures_file lists every failure."""


def entries_of(failures: Sequence[Failure]) -> list[Problem]:
    """Return the first failure of each group of equal failures, with the number of its failures."""
    groups = group_failures(failures)[:MAX_ENTRIES]
    return [Problem.model_validate({**group[0].to_json(), "count": len(group)}) for group in groups]


def write_file(path: Path, text: str) -> None:
    """Write a file and rename it, so that no partial file exists. Raises Fault."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Fault(str(path), f"could not be written: {error.strerror}", "the work itself is done") from error


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write all failures to a JSON file. Raises Fault."""
    write_file(path, json.dumps([failure.to_json() for failure in failures], indent=2) + "\n")


def say(code: int, *lines: str) -> int:
    """Print each text on stderr, wrapped on a terminal, otherwise as one line; return the exit code."""
    for line in lines:
        sys.stderr.write(message(printable(" ".join(line.split())), sys.stderr) + "\n")
    return code
