"""`temwatch status`: get a report from the running daemon, otherwise from the journal."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from daemon.commands.daemon_client import FoundDaemon, ask, find_daemon
from daemon.commands.status.answers import missing_field
from daemon.config.daemon_address import Places
from daemon.montages.states import UNFINISHED, MontageState
from handlers.errors import Fault

MAX_MONTAGES = 10_000
"""Largest number of montages of one state in a report. The counts include all montages."""
ANSWER_S = 30.0
"""Time-out of the report of a daemon that is alive."""
JOURNAL_S = 1.0
"""Time-out of the journal while another process holds it."""

Report = dict[str, Any]


async def read_status(places: Places) -> Report:
    """Return the report: readiness, watches, disks, counts, and the FAILED and unfinished montages.

    Raises
    ------
    Fault
        If no daemon answers and the journal cannot be read, or the daemon is of another version with other answers.
    """
    daemon = find_daemon(places.http, places.journal)
    report: Report = {
        "running": daemon.is_alive,
        "url": daemon.url,
        "pid": daemon.pid,
        "config": {"file": str(places.config), "problems": list(places.problems), "changed_at": _changed_at(places)},
    }
    if daemon.is_alive and (answers := _answers(daemon.url)):
        return report | answers
    return (
        report
        | {"running": False, "unresponsive_because": daemon.unresponsive_because}
        | await _from_journal(places, daemon)
    )


def _answers(url: str) -> Report | None:
    """Return the daemon's part of the report; None if it stops responding. Raises Fault if it is of another version."""
    unfinished = ",".join(sorted(UNFINISHED))
    ready = _fetch(f"{url}/readyz")
    failed = _fetch(f"{url}/api/montages?state={MontageState.FAILED}&limit={MAX_MONTAGES}")
    waiting = _fetch(f"{url}/api/montages?state={unfinished}&limit={MAX_MONTAGES}")
    complete = _fetch(f"{url}/api/montages?state={MontageState.COMPLETE}&limit=1")
    if ready is None or failed is None or waiting is None or complete is None or "ready" not in ready:
        return None
    lists = [_rows(answer) for answer in (failed, waiting, complete)]
    report = {
        **ready,
        "reload": _fetch(f"{url}/api/reload") or {},
        "counts": failed.get("counts"),
        "montages": None if any(rows is None for rows in lists) else [row for rows in lists for row in rows or ()],
    }
    if field := missing_field(report):
        problem = f"is a temwatch of another version: its answer has no '{field}' that this version can read"
        raise Fault(url, problem, "use the command of the daemon's installation, or restart the daemon")
    report["last_complete"] = report["montages"].pop() if lists[2] else None
    return report


def _rows(answer: Report) -> list[Any] | None:
    rows = answer.get("montages")
    return rows if isinstance(rows, list) else None


def _fetch(url: str) -> Report | None:
    answer = ask(url, timeout_s=ANSWER_S)
    return answer[1] if answer else None


async def _from_journal(places: Places, daemon: FoundDaemon) -> Report:
    """Return the journal's part of the report; empty if an unresponsive process keeps the journal locked."""
    empty: Report = {"counts": {}, "montages": [], "last_complete": None, "journal_is_read": False}
    if not places.journal.exists():
        return empty
    if daemon.pid is None:
        return await _read_journal(places)
    try:
        async with asyncio.timeout(JOURNAL_S):
            return await _read_journal(places)
    except TimeoutError:
        return empty


async def _read_journal(places: Places) -> Report:
    from daemon.journal.journal import Journal
    from daemon.montages.presentation import counts_json, montage_json

    async with Journal(places.journal, read_only=True) as journal:
        failed = await journal.montages(states=[MontageState.FAILED], limit=MAX_MONTAGES, newest_first=True)
        waiting = await journal.montages(states=UNFINISHED, limit=MAX_MONTAGES, newest_first=True)
        complete = await journal.montages(states=[MontageState.COMPLETE], limit=1, newest_first=True)
        return {
            "counts": counts_json(await journal.counts()),
            "montages": [montage_json(row) for row in [*failed, *waiting]],
            "last_complete": next((montage_json(row) for row in complete), None),
            "journal_is_read": True,
        }


def _changed_at(places: Places) -> str | None:
    try:
        changed = places.config.stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds")


def narrowed(report: Report, *, watch: str | None, failed: bool) -> Report:
    """Return the part of a report about one watch, or about the FAILED montages."""
    montages = [
        montage
        for montage in report["montages"]
        if watch in (None, montage["watch"]) and (not failed or montage["state"] == MontageState.FAILED)
    ]
    if watch is None:
        return {**report, "montages": montages}
    last = report["last_complete"]
    part: Report = {
        "montages": montages,
        "counts": {name: states for name, states in report["counts"].items() if name == watch},
        "last_complete": last if last and last["watch"] == watch else None,
    }
    if "watches" in report:
        part["watches"] = [each for each in report["watches"] if each["name"] == watch]
    return {**report, **part}


def watch_names(report: Report) -> list[str]:
    """Return the names of the configured watches and of the watches in the journal."""
    return sorted({*report["counts"], *(watch["name"] for watch in report.get("watches", ()))})
