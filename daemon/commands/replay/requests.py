"""Make replay requests from the command line or from a report of `temwatch verify`."""

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.commands.parse_request import parse_request
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.selection import ReplayRequest, parse_since

MAX_PATHS = 2_000
"""Largest number of paths in one request."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")
    metafile: str
    start: Literal["ingest", "mipmaps", "apply"] | None = Field(alias="from")


class _Report(BaseModel):
    model_config = ConfigDict(extra="ignore")
    replay: list[_Entry]


def requests_of(report: str, start: str | None, *, dry_run: bool = False) -> list[ReplayRequest]:
    """Return requests for the montages of a report of `temwatch verify --json`, each from the step that repairs it.

    Parameters
    ----------
    start : step for all montages in place of those in the report, if given.

    Raises
    ------
    NotSelectable
        If the text is not such a report.
    """
    try:
        entries = _Report.model_validate_json(report).replay
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise NotSelectable(
            "--from-report", f"is not a report of temwatch verify --json: {where}: {first['msg']}"
        ) from None
    by_step: dict[str, list[str]] = {}
    for entry in entries:
        if step := start or entry.start:
            by_step.setdefault(step, []).append(entry.metafile)
    return [
        ReplayRequest.model_validate({"paths": part, "from": step, "dry_run": dry_run})
        for step, paths in by_step.items()
        for part in _split(dict.fromkeys(paths), MAX_PATHS)
    ]


def requests_for(paths: Sequence[str], *, max_paths: int = MAX_PATHS, **given: Any) -> list[ReplayRequest]:
    """Return requests for the arguments of the command line, each with at most `max_paths` paths.

    Raises
    ------
    NotSelectable
        If a parameter is invalid; the fault names it.
    """
    absolute = [os.path.join(Path.cwd(), path) for path in paths]  # noqa: PTH118  keeps links and dots as written
    present = {key: value for key, value in given.items() if value not in (None, ())}
    if (since := given.get("since")) is not None:  # local time here may differ from the daemon's
        present["since"] = _iso_time(since)
    parts = list(_split(absolute, max_paths)) or [[]]
    return [parse_request(ReplayRequest, {**present, "paths": part}, {"paths": "PATH"}) for part in parts]


def parameter(key: str) -> str:
    """Return the command-line name of a request's key.

    >>> parameter("dry_run"), parameter("paths.0")
    ('--dry-run', 'PATH')
    """
    name = key.partition(".")[0]
    return "PATH" if name in ("paths", "PATH") else f"--{name.replace('_', '-')}"


def _iso_time(since: str) -> str:
    try:
        return parse_since(since, datetime.now().astimezone()).isoformat()
    except ValueError as error:
        raise NotSelectable("--since", str(error)) from None


def _split(values: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
