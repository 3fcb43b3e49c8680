"""What `temwatch status` and `temwatch health` show: asked of the running daemon, else read from the journal."""

from typing import Any

from daemon.commands.daemon_client import daemon_urls, fetch
from daemon.config.settings import Settings
from daemon.montages.states import UNFINISHED, MontageState

SHOWN = 200


async def read_status(settings: Settings) -> dict[str, Any]:
    """Readiness, counts by watch and state, and the montages that are unfinished or FAILED.

    Raises
    ------
    Fault
        If no daemon answers and the journal cannot be read.
    """
    urls = daemon_urls(settings)
    wanted = ",".join([*sorted(UNFINISHED), MontageState.FAILED])
    for url in urls:
        ready = fetch(f"{url}/readyz")
        listed = fetch(f"{url}/api/montages?state={wanted}&limit={SHOWN}")
        if ready is not None and listed is not None and "ready" in ready:
            return {"running": True, "url": url, **ready, **listed}
    return {"running": False, "url": urls[0], **await _from_journal(settings)}


async def _from_journal(settings: Settings) -> dict[str, Any]:
    from daemon.journal.journal import Journal
    from daemon.montages.presentation import counts_json, montage_json

    if not settings.journal.path.exists():
        return {"counts": {}, "montages": []}
    async with Journal(settings.journal.path, read_only=True) as journal:
        rows = await journal.montages(states=[*UNFINISHED, MontageState.FAILED], limit=SHOWN)
        return {"counts": counts_json(await journal.counts()), "montages": [montage_json(row) for row in rows]}


def status_text(report: dict[str, Any]) -> str:
    """The report for a person to read."""
    lines = [f"daemon      {_daemon_line(report)}"]
    lines += [f"            {line}" for line in [*report.get("reasons", ()), *report.get("warnings", ())]]
    for watch, states in sorted(report["counts"].items()):
        counts = ", ".join(f"{states[state]} {state}" for state in MontageState if states.get(state))
        lines.append(f"watch       {watch}: {counts}")
    if not report["counts"]:
        lines.append("montages    none yet")
    lines += [line for montage in report["montages"] for line in _montage_lines(montage)]
    return "\n".join(lines) + "\n"


def _daemon_line(report: dict[str, Any]) -> str:
    if not report["running"]:
        return f"not running (nobody answers at {report['url']}); this is what the journal holds"
    return f"{'ready' if report['ready'] else 'not ready'} at {report['url']}"


def _montage_lines(montage: dict[str, Any]) -> list[str]:
    lines = [f"{montage['state']:<11} {montage['id']} {montage['metafile']}"]
    fault = montage["fault"]
    if fault:
        hint = f" ({fault['hint']})" if fault["hint"] else ""
        where = "" if fault["subject"] == montage["metafile"] else f"{fault['subject']}: "
        lines.append(f"            {where}{fault['problem']}{hint}")
        since = f", failed being {montage['failed_in']}" if montage["failed_in"] else ""
        lines.append(f"            {fault['kind']}, attempt {montage['attempt']}{since}")
    if montage["waiting_for"]:
        lines.append(f"            waits: {montage['waiting_for']}")
    return lines
