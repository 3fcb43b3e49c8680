"""The daemon's HTTP face: liveness, readiness, metrics, and what the journal knows of each montage."""

import asyncio
import hmac
import ipaddress
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Middleware
from pydantic import ValidationError

from daemon.config.files import read_token
from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from daemon.montages.presentation import counts_json, iso_time, montage_json
from daemon.montages.records import Montage
from daemon.montages.states import MontageState
from daemon.pipeline.health import Facts, Metrics, inaccessible_watches, reasons_not_ready, warnings
from daemon.pipeline.replay.lookup import NotSelectable
from daemon.pipeline.replay.replayer import Replayer, plan_json
from daemon.pipeline.replay.selection import Action, ReplayRequest, problems
from handlers.errors import Fault, SettingsFault

T = TypeVar("T")

LONGEST_LIST = 10_000
ANSWER_S = 10.0
"""How long the journal may take to answer a request."""
LONGEST_BODY = 2 * 1024**2
"""Bytes of a POST."""
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    journal: Journal,
    metrics: Metrics,
    facts: Callable[[], Awaitable[Facts]],
    posts: "Posts | None" = None,
    http: Callable[[], HttpSettings] = HttpSettings,
    reloads: Callable[[], dict[str, Any]] = dict,
) -> web.Application:
    """Return the routes, which answer from the journal and from `facts`.

    Parameters
    ----------
    posts : the routes that change something; None leaves them out.
    http : says under which names the daemon may be asked.
    reloads : tells how the last reload of the configuration ended.
    """
    logging.getLogger("aiohttp.server").addFilter(_in_one_line)
    app = web.Application(middlewares=[_answer_as_json, _host_check(http)], client_max_size=LONGEST_BODY)
    pages = _Pages(journal, metrics, facts, reloads)
    app.add_routes(
        [
            web.get("/healthz", pages.healthz),
            web.get("/readyz", pages.readyz),
            web.get("/metrics", pages.metrics),
            web.get("/api/montages", pages.montages),
            web.get("/api/montages/{id}", pages.montage),
            web.get("/api/reload", pages.reload),
        ]
    )
    if posts is not None:
        app.add_routes([web.post("/api/replay", posts.replay)])
    return app


def _in_one_line(record: logging.LogRecord) -> bool:
    """Takes the traceback off a record of bytes that are no HTTP request, or of a client that has hung up."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | ConnectionError):
        reason = " ".join((error.message if isinstance(error, HttpProcessingError) else str(error)).split()[:12])
        record.msg, record.args = "http.refused: %s, from %s", (reason, *(record.args or ("somebody",)))[:2]
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True


@web.middleware
async def _answer_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Errors as JSON, one sentence."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return web.json_response({"error": error.reason}, status=error.status)


def _host_check(http: Callable[[], HttpSettings]) -> Middleware:
    """Refuse requests under a strange name where only this machine can connect.

    A page in a browser here can give its own name the address 127.0.0.1 (DNS rebinding), and would then read what the
    daemon says. Source: Syncthing, lib/api `localhostMiddleware`.
    """

    @web.middleware
    async def check(request: web.Request, handler: _Handler) -> web.StreamResponse:
        host = request.headers.get("Host")  # only HTTP/1.0 does without, and no browser speaks that
        if host is not None and http().loopback and not is_known_host(host, http().allowed_hosts):
            raise web.HTTPForbidden(reason=_STRANGE_HOST)
        return await handler(request)

    return check


_STRANGE_HOST = "Host: not a name of this machine's loopback, and not in http.allowed_hosts"


def is_known_host(authority: str, allowed: Collection[str]) -> bool:
    """Whether the Host of a request names this machine's loopback, or is one of the allowed names.

    >>> is_known_host("localhost:8787", ()), is_known_host("[::1]", ()), is_known_host("rebound.example", ())
    (True, True, False)
    """
    name = re.sub(r":\d*$", "", authority.strip().lower())
    if name.removesuffix(".") == "localhost" or name in (each.lower() for each in allowed):
        return True
    bracketed = re.fullmatch(r"\[(.*)\]", name)
    try:
        return ipaddress.ip_address(bracketed[1] if bracketed else name).is_loopback
    except ValueError:
        return False


class _Pages:
    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        facts: Callable[[], Awaitable[Facts]],
        reloads: Callable[[], dict[str, Any]],
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._facts = facts
        self._reloads = reloads

    async def healthz(self, _: web.Request) -> web.Response:
        """200 while the loop turns: an answer at all is the proof."""
        return web.json_response({"alive": True})

    async def readyz(self, _: web.Request) -> web.Response:
        """200, or 503 with the reasons."""
        facts = await self._facts()
        reasons = reasons_not_ready(facts)
        body = {
            "ready": not reasons,
            "reasons": list(reasons),
            "warnings": list(warnings(facts)),
            "watches": [
                {
                    "name": root.name,
                    "directory": str(root.directory),
                    "status": str(root.status),
                    "directories_seen": root.directories_seen,
                    "directories_watched": root.directories_watched,
                    "found_by_event": root.found_by_event,
                    "found_only_by_scan": root.found_only_by_scan,
                    "overflows": root.overflows,
                }
                for root in facts.roots
            ],
        }
        return web.json_response(body, status=503 if reasons else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """Prometheus text format."""
        text = self._metrics.text(await self._facts(), await _in_time(self._journal.counts()))
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def montages(self, request: web.Request) -> web.Response:
        """Newest first: `?state=failed&z=1050&limit=100`, `?id=1,2,3`, `?metafile=/data/..._0_.json`."""
        metafile = request.query.get("metafile")
        rows = await _in_time(
            self._journal.montages(
                states=_states(request),
                z=_number(request, "z"),
                ids=_ids(request),
                metafile=_path(metafile) if metafile is not None else None,
                limit=_limit(request),
                newest_first=True,
            )
        )
        counts = counts_json(await _in_time(self._journal.counts()))
        away = inaccessible_watches((await _in_time(self._facts())).roots)
        body = await asyncio.to_thread(_listing, rows, counts, away)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def montage(self, request: web.Request) -> web.Response:
        """One montage with its events and attempts."""
        text = request.match_info["id"]
        is_id = text.isascii() and text.isdigit() and len(text) < 19
        body = await _in_time(self._whole(int(text))) if is_id else None
        if body is None:
            raise web.HTTPNotFound(reason="no such montage")
        return web.json_response(body)

    async def _whole(self, montage_id: int) -> dict[str, Any] | None:
        montage = await self._journal.montage(montage_id)
        if montage is None:
            return None
        body = montage_json(montage, inaccessible_watches((await _in_time(self._facts())).roots))
        body["events"] = [{**event, "at": iso_time(event["at"])} for event in await self._journal.events(montage.id)]
        body["attempts"] = [
            {**attempt, "started_at": iso_time(attempt["started_at"]), "ended_at": iso_time(attempt["ended_at"])}
            for attempt in await self._journal.attempts(montage.id)
        ]
        body["tiles_made"] = len(await self._journal.tiles_made(montage.id))
        return body

    async def reload(self, _: web.Request) -> web.Response:
        """How the last reload of the configuration ended."""
        return web.json_response(self._reloads())


async def _in_time(question: Awaitable[T]) -> T:
    """What the journal answers; 503 where its disk does not."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await question
    except TimeoutError:
        raise web.HTTPServiceUnavailable(reason="the journal does not answer: see that its disk does") from None


class Posts:
    """What changes something: `POST /api/replay`.

    A page in an operator's browser can send requests to this machine, too. So a POST must be JSON (which another
    site's page cannot send without being asked for leave), must not say that it comes from elsewhere, and must carry
    the token where there is one.
    """

    def __init__(self, http: HttpSettings, replayer: Replayer) -> None:
        self._http = http
        self._replayer = replayer

    async def replay(self, request: web.Request) -> web.Response:
        """200 with what would be done or that nothing is; 202 with what is done for each montage, under way now."""
        refusal = await asyncio.to_thread(self._refusal, request)
        if refusal is not None:
            return _error(*refusal)
        try:
            wanted = ReplayRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _error(400, problems(error))
        try:
            plans = await self._replayer.replay(wanted)
        except NotSelectable as fault:
            return _error(400, str(fault))
        except Fault as fault:
            return _error(503, str(fault))
        under_way = not wanted.dry_run and any(planned.action is not Action.REFUSE for planned in plans)
        body = {"dry_run": wanted.dry_run, "montages": [plan_json(planned) for planned in plans]}
        return web.json_response(body, status=202 if under_way else 200)

    def _refusal(self, request: web.Request) -> tuple[int, str] | None:
        """Status and reason if the request may not change anything. Reads the token's file."""
        try:
            token = read_token(self._http)
        except SettingsFault as fault:
            return 503, str(fault)
        if token is None and not self._http.loopback:
            return 403, "http.token_file: not set, and http.host is open to other machines: nothing can be posted"
        if token is not None:
            given = request.headers.get("Authorization")
            if given is None:
                return 401, "Authorization: Bearer TOKEN is required"
            if not hmac.compare_digest(given.encode(errors="replace"), f"Bearer {token}".encode()):
                return 403, "Authorization: not the token"
        return _refusal_of_a_page(request)


def _refusal_of_a_page(request: web.Request) -> tuple[int, str] | None:
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return 403, "Sec-Fetch-Site: not from pages of other sites"
    if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
        return 403, "Origin: not from pages of other sites"
    if request.content_type != "application/json":
        return 415, "Content-Type: must be application/json"
    return None


def _error(status: int, text: str) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": text}, status=status, headers=headers)


def _listing(rows: Sequence[Montage], counts: Mapping[str, Mapping[str, int]], away: Mapping[str, str]) -> bytes:
    """The body of /api/montages: 10,000 montages take half a second."""
    encode = msgspec.json.Encoder().encode

    def encoded(row: Mapping[str, Any]) -> bytes:
        try:
            return encode(row)
        except UnicodeEncodeError:  # a path with bytes that are not UTF-8: json escapes them
            return json.dumps(row).encode()

    montages = b",".join([encoded(montage_json(row, away)) for row in rows])
    return b'{"montages":[%b],"counts":%b}' % (montages, encode(counts))


def _states(request: web.Request) -> list[MontageState] | None:
    names = [name for value in request.query.getall("state", []) for name in value.split(",") if name]
    if not names or names == ["all"]:
        return None
    try:
        return [MontageState(name) for name in names]
    except ValueError:
        raise web.HTTPBadRequest(reason=f"state: one of {', '.join(MontageState)}, all") from None


def _number(request: web.Request, key: str) -> float | None:
    text = request.query.get(key)
    try:
        return None if text is None else float(text)
    except ValueError:
        raise web.HTTPBadRequest(reason=f"{key}: not a number") from None


def _ids(request: web.Request) -> list[int] | None:
    text = request.query.get("id")
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise web.HTTPBadRequest(reason="id: whole numbers with commas between them")
    return [int(part) for part in parts]


def _path(text: str) -> Path:
    if not text.startswith("/") or "\0" in text:
        raise web.HTTPBadRequest(reason="metafile: not an absolute path")
    return Path(text)


def _limit(request: web.Request) -> int:
    text = request.query.get("limit", "100")
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= LONGEST_LIST):
        raise web.HTTPBadRequest(reason=f"limit: a whole number from 1 to {LONGEST_LIST}")
    return int(text)
