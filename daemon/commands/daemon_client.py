"""Find the running daemon and send HTTP requests to it."""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings, Settings, http_url
from daemon.system.locks import journal_owner, owner_note
from handlers.errors import Fault

TIMEOUT_S = 10.0
ALIVE_S = 3.0
"""Time-out of `/healthz`. On an idle machine the daemon responds within milliseconds."""
START_HINT = "start it, as by `systemctl start temwatch`; if it ends again, `journalctl -u temwatch -n 50` shows why"
MAX_BYTES = 512 * 2**20
"""Longest response that is read."""
_PROCESS_STATES = {
    "T": "it is stopped by a signal; to continue it: kill -CONT {pid}",
    "t": "a debugger has stopped it",
    "D": "it waits for a disk or a file server",
    "Z": "it has ended and its parent has not reaped it",
}
_RUNNING = "it may be starting or stopping; see its log"


@dataclass(frozen=True, slots=True)
class FoundDaemon:
    """The daemon of a configuration: its address, and the process that holds its journal."""

    url: str
    """Address at which it responds, or should respond."""
    is_alive: bool
    pid: int | None
    """The process that holds the journal; None if there is none or the kernel does not report it."""

    @property
    def unresponsive_because(self) -> str:
        """Why the process that holds the journal does not respond, according to the state that the kernel reports."""
        return _PROCESS_STATES.get(_process_state(self.pid), _RUNNING).format(pid=self.pid)


def find_daemon(http_settings: HttpSettings, journal: Path) -> FoundDaemon:
    """Look for the daemon at each address where it may listen. `ALIVE_S` is the time-out of all addresses together.

    A process that is stopped by a signal gets no request, since it cannot respond.
    """
    urls = daemon_urls(http_settings, journal)
    pid = journal_owner(journal)
    if _process_state(pid) in ("T", "t"):
        return FoundDaemon(urls[0], is_alive=False, pid=pid)
    for url in urls:
        if is_alive(url, ALIVE_S / len(urls)):
            return FoundDaemon(url, is_alive=True, pid=pid)
    return FoundDaemon(urls[0], is_alive=False, pid=pid)


def is_alive(url: str, timeout_s: float = ALIVE_S) -> bool:
    """Whether a temwatch daemon responds at this address now."""
    answer = ask(f"{url.rstrip('/')}/healthz", timeout_s=timeout_s)
    return answer is not None and "alive" in answer[1]


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of `/readyz`."""

    is_ready: bool
    lines: tuple[str, ...]
    """Reasons and warnings; without those in a form that only another version of temwatch knows."""


def ask_ready(url: str) -> Answer | None:
    """Return the answer of the daemon at an address; None if no temwatch answers there."""
    answer = fetch(f"{url.rstrip('/')}/readyz") or {}
    is_ready = answer.get("ready")
    if not isinstance(is_ready, bool):
        return None
    lists = [answer.get(key) for key in ("reasons", "warnings")]
    lines = [line for each in lists if isinstance(each, list) for line in each if isinstance(line, str)]
    return Answer(is_ready, tuple(lines))


def daemon_urls(http_settings: HttpSettings, journal: Path) -> tuple[str, ...]:
    """Return the addresses where the daemon may respond: the configured one and the one where it last listened."""
    configured, last = http_url(http_settings.host, http_settings.port), owner_note(journal)
    if http_settings.port == 0 and last:
        return (last,)
    return tuple(dict.fromkeys(url for url in (configured, last) if url))


def ask(
    url: str, body: dict[str, Any] | None = None, token: str | None = None, timeout_s: float = TIMEOUT_S
) -> tuple[int, dict[str, Any]] | None:
    """Return status and JSON object of a GET, or of a POST of `body`; None without response or without JSON object."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        request = urllib.request.Request(url, data, headers)  # noqa: S310  the operator's own URL
        status, text = _answer_to(request, timeout_s)
        answer = json.loads(text)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return (status, answer) if isinstance(answer, dict) else None


def download(url: str, body: dict[str, Any], token: str | None, target: Path, timeout_s: float) -> tuple[int, str]:
    """Send a POST and write the body of a 200 response to a file; return the status and, unless it is 200, the reason.

    Status 0 means no response or an incomplete one.
    """
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310  the operator's own URL
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as response:
            if response.status == 200 and response.headers.get_content_type() == "application/vnd.sqlite3":
                with target.open("wb") as file:
                    shutil.copyfileobj(response, file, 2**20)
                return 200, ""
            return 0, "not a temwatch daemon"
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _reason(error, timeout_s)
    except (ConnectionError, TimeoutError, urllib.error.URLError, http.client.HTTPException) as error:
        return 0, str(error)


def _reason(error: urllib.error.HTTPError, timeout_s: float) -> str:
    try:
        return str(json.loads(_body(error, timeout_s))["error"])
    except (OSError, ValueError, KeyError, TypeError):
        return error.reason


def fetch(url: str) -> dict[str, Any] | None:
    """Return the JSON object of a GET with any status; None if there is none."""
    answer = ask(url)
    return answer[1] if answer else None


def _answer_to(request: urllib.request.Request, timeout_s: float) -> tuple[int, bytes]:
    """Return status and body. The time-out applies to the start of the response and again to its body."""
    # A proxy from the environment is for other machines and cannot reach this machine's daemon.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=timeout_s) as response:
            return response.status, _body(response, timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _body(error, timeout_s)


def _body(response: Any, timeout_s: float) -> bytes:
    """Return the whole body. Raises TimeoutError if it is longer than `MAX_BYTES` or takes longer than `timeout_s`."""
    body, deadline = bytearray(), time.monotonic() + timeout_s
    while piece := response.read1(2**20):
        body += piece
        if len(body) > MAX_BYTES or time.monotonic() > deadline:
            raise TimeoutError
    return bytes(body)


def _process_state(pid: int | None) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return status.rpartition(")")[2].split()[0]


def token_or_none(settings: Settings) -> str | None:
    """Return the token for POST requests; None if there is none or this user cannot read it."""
    try:
        return read_token(settings.http)
    except Fault:
        return None
