"""Handlers of the pages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from aiohttp import web

from daemon.config.settings import HttpSettings, Settings
from daemon.journal.journal import Journal
from daemon.pipeline.health import Facts
from daemon.web import parameters
from daemon.web.access import site_refusal, token_matches
from daemon.web.pages.overview import banner_of, look_up, overview_values
from daemon.web.pages.static import StaticFiles
from daemon.web.pages.templates import Templates
from daemon.web.visitor import LOGIN_S, access_of, cookie_name, login_proof, origin_of
from handlers.errors import SettingsFault

T = TypeVar("T")

JOURNAL_S = 10.0
"""Time-out of the journal's answer to a page."""
WRONG_TOKEN_S = 1.0
"""A wrong token is answered after this time."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
_HEADINGS = {404: "Not found", 403: "Not allowed", 503: "No answer"}


class Pages:
    """The pages.

    Parameters
    ----------
    settings : returns the present configuration.
    facts : returns the facts that readiness depends on.
    """

    def __init__(
        self, settings: Callable[[], Settings], journal: Journal, facts: Callable[[], Awaitable[Facts]]
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._facts = facts
        self._templates = Templates()
        self._static = StaticFiles()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the pages, without `/`."""
        return [
            web.get("/login", self.login_form),
            web.post("/login", self.log_in),
            web.post("/logout", self.log_out),
            web.get("/static/{version}/{name}", self._static.answer),
        ]

    @property
    def base_path(self) -> str:
        """Path below which a reverse proxy shows the pages."""
        return self._http.base_path

    @property
    def _http(self) -> HttpSettings:
        return self._settings().http

    # --- pages

    async def overview(self, request: web.Request) -> web.Response:
        """Answer with the overview."""
        wanted, now = parameters.filter_of(request), time.time()
        found, facts = await asyncio.gather(
            in_time(self._journal.read(lambda connection: look_up(connection, wanted, now))), self._facts()
        )
        values = overview_values(found, facts, wanted, now)
        given = {key: value for key, value in request.query.items() if key in parameters.FILTER_KEYS and value}
        return await self._page(
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
        """Answer with the form for the token."""
        return await self._page(request, "login.html", await self._facts(), status=status, wrong=wrong)

    async def log_in(self, request: web.Request) -> web.StreamResponse:
        """Set the login cookie if the token is right."""
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
            return await self.login_form(request, "This is not the token.", status=403)
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
        """Answer with an error as a page."""
        heading = _HEADINGS.get(status, "Not possible")
        facts = await self._facts()
        return await self._page(request, "error.html", facts, status=status, heading=heading, text=text)

    # --- templates

    async def _page(
        self, request: web.Request, name: str, facts: Facts, *, status: int = 200, **values: Any
    ) -> web.Response:
        text = await asyncio.to_thread(self._render, request, name, facts, status, values)
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)

    def _render(self, request: web.Request, name: str, facts: Facts, status: int, values: dict[str, Any]) -> str:
        http = self._http
        access = access_of(request, http)
        common = {
            "base": http.base_path,
            "static": lambda file: http.base_path + self._static.path(file),
            "link": lambda *parts: link(http.base_path, *parts),
            "writes": access.writes,
            "logged_in": access.logged_in,
            "user": access.user,
            "status": status,
        }
        return self._templates.render(name, {**common, **banner_of(facts), **values})


def link(base: str, *parts: object) -> str:
    """Return the path of a page; every part is quoted.

    >>> link("/temwatch", "scopes", "a b", "/x")
    '/temwatch/scopes/a%20b/%2Fx'
    """
    return "/".join([base, *(quote(str(part), safe="", errors="surrogateescape") for part in parts)])


async def in_time(question: Awaitable[T]) -> T:
    """Return the journal's answer. Raises HTTPServiceUnavailable if it takes too long."""
    try:
        async with asyncio.timeout(JOURNAL_S):
            return await question
    except TimeoutError:
        raise web.HTTPServiceUnavailable(reason="the journal does not answer: check that its disk does") from None
