"""Asks the running daemon over HTTP."""

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any

from daemon.config.settings import Settings, http_url
from daemon.system.locks import owner_note

TIMEOUT_S = 10.0
MOST_BYTES = 512 * 2**20
"""A longer answer is none of a daemon's."""


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


def daemon_urls(settings: Settings) -> tuple[str, ...]:
    """Where the daemon may answer: where it listened last, if the configuration leaves the port to the system."""
    http = settings.http
    configured, last = http_url(http.host, http.port), owner_note(settings.journal.path)
    return tuple(filter(None, (last, configured) if http.port == 0 else (configured, last)))
