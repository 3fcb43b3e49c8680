"""Routes: liveness, readiness, metrics, and the journal's montages."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from daemon.montages.presentation import counts_json, iso_time, montage_json
from daemon.montages.verdicts import verdict_json
from daemon.pipeline.health import Facts, waits_of
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.pictures import Pictures
from daemon.web import parameters
from daemon.web.answers import LINKS, encode_json, encode_montages, readiness_json
from daemon.web.errors import errors_as_json, errors_as_pages, log_refusals, wants_html
from daemon.web.hosts import host_check
from daemon.web.live_events import LiveEvents
from daemon.web.pages.handlers import Pages
from daemon.web.pages.layout import in_time
from daemon.web.pictures import PicturePages
from daemon.web.posts import Posts
from daemon.web.quality import encode_quality
from daemon.web.server import add_headers, guard

MAX_BODY_BYTES = 2 * 1024**2
"""Largest body of a POST."""


def make_app(
    journal: Journal,
    metrics: Metrics,
    facts: Callable[[], Awaitable[Facts]],
    posts: Posts | None = None,
    http: Callable[[], HttpSettings] = HttpSettings,
    last_reload: Callable[[], dict[str, Any]] = dict,
    next_try_in_s: Callable[[int], float | None] = lambda _: None,
    pages: Pages | None = None,
    live: LiveEvents | None = None,
    pictures: Pictures | None = None,
) -> web.Application:
    """Return the application with all routes.

    Parameters
    ----------
    facts : returns the facts that readiness depends on.
    posts : handlers of POST requests; None omits these routes.
    http : returns the present HTTP settings.
    last_reload : returns the outcome of the last reload of the configuration.
    next_try_in_s : returns the seconds until the next attempt of a montage, if it is delayed.
    pages : the HTML pages; None omits them.
    live : events for open pages; None omits their route.
    pictures : draws montages; None omits these routes.
    """
    log_refusals(logging.getLogger("aiohttp.server"))
    middlewares = [errors_as_json, guard, host_check(http), *([errors_as_pages(pages.error)] if pages else [])]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app.on_response_prepare.append(add_headers)
    answers = _Answers(journal, metrics, facts, last_reload, next_try_in_s, pages)
    routes = [*answers.routes(), *_posts(posts), *(pages.routes() if pages else [])]
    if pages is not None:
        app.on_startup.append(lambda _: pages.read_files())
    if pictures is not None:
        routes += PicturePages(journal, pictures).routes()
    if live is not None:
        routes.append(web.get("/api/events", live.answer))
        app.cleanup_ctx.append(live.polling)
        app.on_shutdown.append(lambda _: live.close())  # otherwise the stopping server waits for the streams
    # A reverse proxy may remove the base path or keep it.
    for prefix in {"", pages.base_path if pages else ""}:
        app.add_routes([web.route(each.method, prefix + each.path, each.handler) for each in routes])
    return app


def _posts(posts: Posts | None) -> list[web.RouteDef]:
    if posts is None:
        return []
    return [
        web.post("/api/replay", posts.replay),
        web.post("/api/retry", posts.retry),
        web.post("/api/dismiss", posts.dismiss),
        web.post("/api/montages/{id}/verdict", posts.decide),
        web.post("/api/notify", posts.notify),
        web.post("/api/alerts/silence", posts.silence),
        web.post("/api/alerts/differences", posts.differences),
        web.post("/api/journal/backup", posts.back_up),
    ]


class _Answers:
    """Handlers of GET requests."""

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        facts: Callable[[], Awaitable[Facts]],
        last_reload: Callable[[], dict[str, Any]],
        next_try_in_s: Callable[[int], float | None],
        pages: Pages | None,
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._facts = facts
        self._last_reload = last_reload
        self._next_try_in_s = next_try_in_s
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/", self.root),
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
            web.get("/api/montages", self.montages),
            web.get("/api/montages/{id}", self.montage),
            web.get("/api/montages/{id}/tiles", self.tiles),
            web.get("/api/reload", self.reload),
        ]

    async def root(self, request: web.Request) -> web.Response:
        """Return the overview for a browser, otherwise links as JSON."""
        if self._pages is not None and wants_html(request):
            return await self._pages.overview(request)
        return web.json_response({"links": LINKS})

    async def healthz(self, _: web.Request) -> web.Response:
        """Return 200: any response proves that the event loop runs."""
        return web.json_response({"alive": True})

    async def readyz(self, _: web.Request) -> web.Response:
        """Return 200 if the daemon is ready, otherwise 503; the body has the reasons."""
        body = readiness_json(await self._facts())
        status, encoded = 200 if body["ready"] else 503, encode_json(body)
        return web.Response(body=encoded, status=status, content_type="application/json", charset="utf-8")

    async def metrics(self, _: web.Request) -> web.Response:
        """Return the metrics in Prometheus's text format."""
        text = self._metrics.text(await self._facts(), await in_time(self._journal.counts()))
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def montages(self, request: web.Request) -> web.Response:
        """Return montages, newest first: `?state=failed&z=1050&limit=100`, `?id=1,2`, `?metafile=/data/x.json`."""
        montages = await in_time(
            self._journal.montages(
                states=parameters.states_of(request),
                z=parameters.z_of(request),
                ids=parameters.ids_of(request),
                metafile=parameters.metafile_of(request),
                limit=parameters.limit_of(request),
                newest_first=True,
            )
        )
        counts = counts_json(await in_time(self._journal.counts()))
        waits = waits_of(await in_time(self._facts()))
        tries = {each.id: at for each in montages if (at := self._next_try_at(each.id)) is not None}
        body = await asyncio.to_thread(encode_montages, montages, counts, waits, tries)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    def _next_try_at(self, montage_id: int) -> float | None:
        in_s = self._next_try_in_s(montage_id)
        return None if in_s is None else time.time() + in_s

    async def montage(self, request: web.Request) -> web.Response:
        """Return one montage with its events, attempts and verdict."""
        body = await in_time(self._detail(parameters.montage_id_of(request)))
        if body is None:
            raise web.HTTPNotFound(reason="no such montage")
        return web.json_response(body)

    async def _detail(self, montage_id: int) -> dict[str, Any] | None:
        montage = await self._journal.montage(montage_id)
        if montage is None:
            return None
        waits = waits_of(await in_time(self._facts()))
        body = montage_json(montage, waits, self._next_try_at(montage.id))
        body["events"] = [{**event, "at": iso_time(event["at"])} for event in await self._journal.events(montage.id)]
        body["attempts"] = [
            {**attempt, "started_at": iso_time(attempt["started_at"]), "ended_at": iso_time(attempt["ended_at"])}
            for attempt in await self._journal.attempts(montage.id)
        ]
        verdict = await self._journal.verdict(montage.id)
        body["quality"] = None if verdict is None else verdict_json(verdict)
        body["tiles_made"] = len(await self._journal.tiles_made(montage.id))
        return body

    async def tiles(self, request: web.Request) -> web.Response:
        """Return the quality numbers of every tile of a montage, by column."""
        numbers = await in_time(self._journal.quality_numbers(parameters.montage_id_of(request)))
        if numbers is None:
            raise web.HTTPNotFound(
                reason="this montage has no quality numbers: they are measured while its mipmaps are made"
            )
        body = await asyncio.to_thread(encode_quality, numbers)
        return web.Response(body=body, content_type="application/json", charset="utf-8")

    async def reload(self, _: web.Request) -> web.Response:
        """Return the outcome of the last reload of the configuration."""
        return web.json_response(self._last_reload())
