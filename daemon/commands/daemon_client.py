"""Asks the running daemon over HTTP."""

import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from daemon.config.files import read_token
from daemon.config.settings import Settings, http_url
from daemon.system.locks import owner_note
from handlers.errors import Fault

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


def download(url: str, body: dict[str, Any], token: str | None, target: Path, timeout_s: float) -> tuple[int, str]:
    """Return the status of a POST and, unless it is 200, the reason; write the body of a 200 to a file.

    Status 0 stands for no answer, or one that was cut short.
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


def token_or_none(settings: Settings) -> str | None:
    """Return the token for POST requests; None if there is none or this user cannot read it."""
    try:
        return read_token(settings.http)
    except Fault:
        return None
