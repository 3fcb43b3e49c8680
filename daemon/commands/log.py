"""`temwatch log MONTAGE`: the events and attempts of one montage as log lines."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from daemon.commands.daemon_client import FoundDaemon, ask, find_daemon
from daemon.config.daemon_address import Places
from daemon.montages.states import MontageState
from daemon.system.log_lines import arranged
from handlers.errors import Fault
from handlers.text import abbreviate, printable

MAX_MONTAGES = 100
"""Largest number of montages of one path that are shown."""

Facts = dict[str, Any]


class NoSuchMontage(Fault):
    """The journal has no such montage."""

    exit_code = 2


async def read_history(places: Places, montage: str) -> list[Facts]:
    """Return the facts of each line about a montage, in order of time.

    Parameters
    ----------
    montage : id of a montage; or path of a metafile, which selects all montages of this path.

    Raises
    ------
    NoSuchMontage
        If there is no such montage.
    Fault
        If no daemon responds and the journal cannot be read.
    """
    daemon = find_daemon(places.http, places.journal)
    details = _ask_daemon(daemon, montage) if daemon.is_alive else await _read_journal(places, montage)
    if not details:
        raise NoSuchMontage(printable(montage), "no montage has this id or metafile", "`temwatch status` shows ids")
    lines = [line for detail in details for line in history(detail)]
    return sorted(lines, key=lambda facts: str(facts["time"]))


def _ask_daemon(daemon: FoundDaemon, montage: str) -> list[Facts]:
    ids = [montage] if _is_id(montage) else _ids_of_path(daemon, _absolute(montage))
    answers = [ask(f"{daemon.url}/api/montages/{each}") for each in ids]
    if any(answer is None or answer[0] not in (200, 404) for answer in answers):
        raise Fault(daemon.url, "the daemon does not answer", "see `temwatch status`")
    return [answer[1] for answer in answers if answer is not None and answer[0] == 200]


def _ids_of_path(daemon: FoundDaemon, path: Path) -> list[int]:
    query = f"metafile={quote(str(path), errors='surrogateescape')}&limit={MAX_MONTAGES}"
    answer = ask(f"{daemon.url}/api/montages?{query}")
    return [row["id"] for row in answer[1]["montages"]] if answer is not None and answer[0] == 200 else []


async def _read_journal(places: Places, montage: str) -> list[Facts]:
    from daemon.journal.journal import Journal
    from daemon.montages.presentation import montage_json

    if not places.journal.exists():
        raise Fault("journal.path", f"{printable(places.journal)} does not exist, and no daemon answers")
    selected: dict[str, Any] = {"ids": [int(montage)]} if _is_id(montage) else {"metafile": _absolute(montage)}
    async with Journal(places.journal, read_only=True) as journal:
        return [
            {
                **montage_json(each),
                "events": [_iso_times(event, "at") for event in await journal.events(each.id)],
                "attempts": [
                    _iso_times(attempt, "started_at", "ended_at") for attempt in await journal.attempts(each.id)
                ],
            }
            for each in await journal.montages(**selected, limit=MAX_MONTAGES)
        ]


def _iso_times(row: Mapping[str, Any], *keys: str) -> Facts:
    from daemon.montages.presentation import iso_time

    return {**row, **{key: iso_time(row[key]) for key in keys}}


def _absolute(path: str) -> Path:
    return Path(path).absolute()


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def history(montage: Mapping[str, Any]) -> Iterator[Facts]:
    """Yield the facts of each line about a montage, from the body of `GET /api/montages/{id}`."""
    subject = {"watch": montage["watch"], "montage": montage["id"], "z": montage["z"]}
    for event in montage["events"]:
        yield arranged(
            {
                "time": event["at"],
                "level": "error" if event["state"] == MontageState.FAILED else "info",
                "event": f"montage.{event['event']}",
                **subject,
                "state": event["state"],
                "metafile": montage["metafile"],
                **dict(_detail(event["detail"])),
            }
        )
    for number, attempt in _numbered(montage["attempts"]):
        yield arranged(_attempt(number, attempt) | subject | {"metafile": montage["metafile"]})


def _numbered(attempts: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield each attempt with its number within its step."""
    counts: dict[str, int] = {}
    for attempt in attempts:
        counts[attempt["step"]] = counts.get(attempt["step"], 0) + 1
        yield counts[attempt["step"]], attempt


def _attempt(number: int, attempt: Mapping[str, Any]) -> Facts:
    fault, ended = attempt["fault"], attempt["ended_at"]
    facts: Facts = {"step": attempt["step"], "attempt": number}
    if ended is None:
        return facts | {"time": attempt["started_at"], "level": "info", "event": "step.started"}
    seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(attempt["started_at"])).total_seconds()
    level = "warning" if fault else "info"
    facts |= {"time": ended, "level": level, "event": f"step.{attempt['outcome']}", "seconds": round(seconds, 2)}
    return facts | _fault(fault) if fault else facts


def _fault(fault: Mapping[str, Any]) -> Facts:
    hint = fault["hint"] or None
    return {"kind": fault["kind"], "fault": f"{fault['subject']}: {fault['problem']}", "hint": hint}


def _detail(detail: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the facts of an event's detail; long lists are abbreviated."""
    for key, value in detail.items():
        if key == "fault" and isinstance(value, Mapping):
            yield from _fault(value).items()
        elif isinstance(value, list | Mapping):
            yield key, len(value)
            yield f"{key}_names", abbreviate([str(each) for each in value]) or None
        else:
            yield key, value
