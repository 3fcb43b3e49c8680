"""What an import command reports: equal failures as one entry, results and lists of failures as files."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from daemon.commands.imports.results import Problem
from handlers.errors import Fault
from handlers.text import abbreviate

MOST_ENTRIES = 100
"""Groups of failures in a result; --failures_file lists every failure."""
MOST_LINES = 20
"""Groups of failures on stderr."""


def group_failures(failures: Iterable[Problem]) -> list[list[Problem]]:
    """Group failures with the same kind, problem and hint, in order of their first appearance."""
    groups: dict[tuple[str, str, str], list[Problem]] = {}
    for failure in failures:
        groups.setdefault((failure.kind, failure.problem, failure.hint), []).append(failure)
    return list(groups.values())


def entries_of(groups: Sequence[Sequence[Problem]]) -> list[Problem]:
    """Return the first failure of each group, with the number of its failures."""
    return [group[0].model_copy(update={"count": len(group)}) for group in groups[:MOST_ENTRIES]]


def lines_of(groups: Sequence[Sequence[Problem]], failures_file: Path | None) -> list[str]:
    """Return one line for each group, and a last line for those that do not fit."""
    lines = [_line(group) for group in groups[:MOST_LINES]]
    if rest := sum(len(group) for group in groups[MOST_LINES:]):
        lines.append(f"and {rest} more; {failures_file or '--failures_file FILE'} lists all")
    return lines


def _line(group: Sequence[Problem]) -> str:
    first = group[0]
    hint = f" ({first.hint})" if first.hint else ""
    if len(group) == 1:
        subject = f"tile '{first.tileId}'" if first.tileId else first.subject
        where = "" if subject == first.subject else f"{first.subject}: "
        return f"z {first.z} {subject}: {where}{first.problem}{hint}"
    zs = abbreviate([f"{z:g}" for z in sorted({failure.z for failure in group})])
    tile_ids = [failure.tileId for failure in group if failure.tileId]
    if len(tile_ids) < len(group):
        return f"{len(group)} failures at z {zs}: {first.subject}: {first.problem}{hint}"
    return f"{len(group)} tiles at z {zs} ({abbreviate(tile_ids)}): {first.problem}{hint}"


def write_file(path: Path, text: str) -> None:
    """Write a file that never exists in part. Raises Fault."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Fault(str(path), f"could not be written: {error.strerror}", "the work itself is done") from error


def write_failures(path: Path, failures: Iterable[Problem]) -> None:
    """Write every failure into a JSON file. Raises Fault."""
    entries = [failure.model_dump(exclude={"count"}) for failure in failures]
    write_file(path, json.dumps(entries, indent=2) + "\n")


def say(code: int, *lines: str) -> int:
    """Print each text as one line on stderr and return the exit code."""
    for line in lines:
        sys.stderr.write(" ".join(line.split()) + "\n")
    return code
