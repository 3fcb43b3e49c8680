"""Handlers of the pages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from urllib.parse import urlencode

from aiohttp import web

from daemon.config.settings import HttpSettings, Settings
from daemon.journal.journal import Journal
from daemon.pipeline.health import Facts
from daemon.web import parameters
from daemon.web.access import site_refusal, token_matches
from daemon.web.live_events import LiveEvents
from daemon.web.pages.layout import Layout, in_time
from daemon.web.pages.overview import look_up, overview_values
from daemon.web.pages.scope_handlers import ScopePage
from daemon.web.pages.section_handlers import SectionPages
from daemon.web.visitor import LOGIN_S, access_of, cookie_name, login_proof, origin_of
from handlers.errors import SettingsFault
from handlers.render.client import RenderClient

SHARED_S = 10.0
"""Longest time in which pages share a response: readiness and disks change without events."""
MAX_SHARED = 20
WRONG_TOKEN_S = 1.0
"""Delay of the response to a wrong token."""
_HEADINGS = {400: "Invalid request", 403: "Not allowed", 404: "Not found", 500: "Internal error", 503: "Unavailable"}
_TEXTS = {404: "There is no page at this address.", 500: "The daemon's log contains the cause."}
"""Texts that replace the standard phrase of a status, which would repeat the heading."""


class Pages:
    """The pages.

    Parameters
    ----------
    settings : returns the present configuration.
    facts : returns the facts that readiness depends on.
    client : fetches tile specs; None: none are shown.
    live : its version shows whether anything has changed, so that open pages can share a response.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        journal: Journal,
        facts: Callable[[], Awaitable[Facts]],
        client: RenderClient | None = None,
        live: LiveEvents | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._live = live
        self._shared: dict[tuple[object, ...], tuple[float, str]] = {}
        self._one_overview = asyncio.Lock()
        self._layout = Layout(lambda: settings().http)
        self._scopes = ScopePage(self._layout, settings, journal, facts)
        self._sections = SectionPages(self._layout, settings, journal, facts, client)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the pages, without `/`."""
        return [
            web.get("/login", self.login_form),
            web.post("/login", self.log_in),
            web.post("/logout", self.log_out),
            *self._sections.routes(),
            *self._scopes.routes(),
            web.get("/static/{version}/{name}", self._layout.static.answer),
        ]

    async def read_files(self) -> None:
        """Read the files of the pages, before the first request."""
        await self._layout.static.read()

    @property
    def base_path(self) -> str:
        """Path below which a reverse proxy shows the pages."""
        return self._http.base_path

    @property
    def _http(self) -> HttpSettings:
        return self._settings().http

    # --- pages

    async def overview(self, request: web.Request) -> web.Response:
        """Return the overview. Pages with the same filter share a response until something changes."""
        access = await asyncio.to_thread(access_of, request, self._http)
        async with self._one_overview:
            version = self._live.version if self._live else None
            key = (request.query_string, access, version)
            made_at, shared = self._shared.get(key, (0.0, ""))
            if version is not None and shared and time.monotonic() - made_at < SHARED_S:
                return self._layout.answer(shared)
            answer = await self._overview(request)
            kept = [(each, value) for each, value in self._shared.items() if each[2] == version]
            self._shared = {**dict(kept[-MAX_SHARED:]), key: (time.monotonic(), answer.text or "")}
            return answer

    async def _overview(self, request: web.Request) -> web.Response:
        wanted, now = parameters.filter_of(request), time.time()
        found, facts = await asyncio.gather(
            in_time(self._journal.read(lambda connection: look_up(connection, wanted, now))), self._facts()
        )
        values = overview_values(found, facts, wanted, now)
        given = {key: value for key, value in request.query.items() if key in parameters.FILTER_KEYS and value}
        return await self._layout.page(
            request,
            "overview.html",
            facts,
            **values,
            render_url=self._settings().render.public_url,
            is_filtered=bool(given),
            query=lambda **changed: self._query(given, changed),
        )

    def _query(self, given: dict[str, str], changed: dict[str, object]) -> str:
        used = {**given, **{key: str(value) for key, value in changed.items()}}
        return f"{self._http.base_path}/?" + urlencode({key: value for key, value in used.items() if value})

    # --- log in and out

    async def login_form(self, request: web.Request, wrong: str = "", status: int = 200) -> web.Response:
        """Return the form for the token."""
        return await self._layout.page(request, "login.html", await self._facts(), status=status, wrong=wrong)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Set the login cookie if the token is correct."""
        refusal = site_refusal(request, self._http)
        if refusal is not None:
            raise web.HTTPForbidden(reason=refusal[1])
        given = str((await request.post()).get("token", "")).strip()
        try:
            token = await asyncio.to_thread(token_matches, self._http, given)
        except SettingsFault as fault:
            return await self.login_form(request, str(fault), status=503)
        if token is None:
            await asyncio.sleep(WRONG_TOKEN_S)
            return await self.login_form(request, "The token is wrong.", status=403)
        response = web.Response(status=303, headers={"Location": f"{self._http.base_path}/"})
        response.set_cookie(
            cookie_name(self._http),
            login_proof(token),
            max_age=LOGIN_S,
            path=self._http.base_path or "/",
            httponly=True,
            samesite="Strict",
            secure=origin_of(request, self._http).startswith("https:"),
        )
        return response

    async def log_out(self, request: web.Request) -> web.StreamResponse:
        """Remove the login cookie."""
        refusal = site_refusal(request, self._http)
        if refusal is not None:
            raise web.HTTPForbidden(reason=refusal[1])
        response = web.Response(status=303, headers={"Location": f"{self._http.base_path}/"})
        response.del_cookie(cookie_name(self._http), path=self._http.base_path or "/")
        return response

    # --- errors

    async def error(self, request: web.Request, status: int, text: str) -> web.Response:
        """Return an error as a page."""
        said = _TEXTS.get(status, text) if text in ("", HTTPStatus(status).phrase) else sentence(text)
        values = {"heading": _HEADINGS.get(status, "Error"), "text": said}
        return await self._layout.page(request, "error.html", await self._facts(), status=status, **values)


def sentence(text: str) -> str:
    """Return the reason of an error as a sentence; the name of a parameter is not capitalized.

    >>> sentence("no such montage"), sentence("z_from: must be a number")
    ('No such montage.', 'z_from: must be a number.')
    """
    begin = text if text.partition(" ")[0].endswith(":") else text[:1].upper() + text[1:]
    return begin if begin.endswith(".") else f"{begin}."
