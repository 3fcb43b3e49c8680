"""What `temwatch status` and `temwatch health` show: asked of the running daemon, else read from the journal."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from daemon.config import Settings
from daemon.states import UNFINISHED, MontageState
from daemon.watching.ownership import noted

TIMEOUT_S = 10.0
MOST_BYTES = 512 * 2**20
"""A longer answer is none of a daemon's."""
SHOWN = 200


def ask(
    url: str, body: dict[str, Any] | None = None, token: str | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[int, dict[str, Any]] | None:
    """Status and JSON object that a URL answers, to a POST where a body is given; None if there is none."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310  the operator's own URL
        status, text = _answer_to(request, timeout_s)
        answer = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return (status, answer) if isinstance(answer, dict) else None


def _answer_to(request: urllib.request.Request, timeout_s: float) -> tuple[int, bytes]:
    """Status and body, whatever the status. The time-out is for the beginning of the answer, and again for its body."""
    # A proxy that the environment names is for the world outside: it knows no daemon on this machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as response:
            return response.status, _body(response, timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _body(error, timeout_s)


def _body(response: Any, timeout_s: float) -> bytes:
    """The body to its end. Raises TimeoutError for one that is too long, or takes too long byte by byte."""
    body, deadline = bytearray(), time.monotonic() + timeout_s
    while piece := response.read1(2**20):
        body += piece
        if len(body) > MOST_BYTES or time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def fetch(url: str) -> dict[str, Any] | None:
    """JSON object at a URL, whatever the status; None if nobody answers, or not in JSON."""
    answer = ask(url)
    return answer[1] if answer else None


def http_url(host: str, port: int) -> str:
    """Address of the daemon's HTTP face.

    >>> http_url("127.0.0.1", 8787), http_url("::1", 8787)
    ('http://127.0.0.1:8787', 'http://[::1]:8787')
    """
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def daemon_urls(settings: Settings) -> tuple[str, ...]:
    """Where the daemon may answer: where it listened last, if the configuration leaves the port to the system."""
    http = settings.http
    configured, last = http_url(http.host, http.port), noted(settings.journal.path)
    return tuple(filter(None, (last, configured) if http.port == 0 else (configured, last)))


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
    from daemon.journal import Journal
    from daemon.web import counts_json, montage_json

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
