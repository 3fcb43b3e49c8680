"""Common parts of all pages: headers, links, common values of the templates."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from urllib.parse import quote

from aiohttp import web

from daemon.config.settings import HttpSettings
from daemon.pipeline.health import Facts, reasons_not_ready, warnings
from daemon.web.pages.static import StaticFiles
from daemon.web.pages.templates import Templates
from daemon.web.visitor import access_of

T = TypeVar("T")

JOURNAL_S = 10.0
"""Time-out of a page's queries of the journal."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
# With "no-referrer" a browser would send "Origin: null" with the pages' forms, and the login would be refused.
_HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}


class Layout:
    """Makes pages from templates.

    Parameters
    ----------
    http : returns the present HTTP settings.
    """

    def __init__(self, http: Callable[[], HttpSettings]) -> None:
        self._http = http
        self._templates = Templates()
        self.static = StaticFiles()

    @property
    def base(self) -> str:
        """Path below which a reverse proxy shows the pages."""
        return self._http().base_path

    async def page(
        self, request: web.Request, name: str, facts: Facts, *, status: int = 200, **values: Any
    ) -> web.Response:
        """Return a page, rendered in a thread."""
        text = await asyncio.to_thread(self._render, request, name, facts, status, values)
        return self.answer(text, status)

    def answer(self, text: str, status: int = 200) -> web.Response:
        """Return a page that is already rendered."""
        return web.Response(text=text, status=status, content_type="text/html", headers=_HEADERS)

    def _render(self, request: web.Request, name: str, facts: Facts, status: int, values: dict[str, Any]) -> str:
        access = access_of(request, self._http())
        common = {
            "base": self.base,
            "static": lambda file: self.base + self.static.path(file),
            "link": lambda *parts: link(self.base, *parts),
            "writes": access.writes,
            "logged_in": access.logged_in,
            "user": access.user,
            "status": status,
            "reasons": reasons_not_ready(facts),
            "warnings": warnings(facts),
        }
        return self._templates.render(name, {**common, **values})


def link(base: str, *parts: object) -> str:
    """Return the path of a page; every part is percent-encoded.

    >>> link("/temwatch", "scopes", "a b", "/x")
    '/temwatch/scopes/a%20b/%2Fx'
    """
    return "/".join([base, *(quote(str(part), safe="", errors="surrogateescape") for part in parts)])


async def in_time(query: Awaitable[T]) -> T:
    """Return the result of a query of the journal. Raises HTTPServiceUnavailable after `JOURNAL_S`."""
    try:
        async with asyncio.timeout(JOURNAL_S):
            return await query
    except TimeoutError:
        raise web.HTTPServiceUnavailable(
            reason=f"the journal has not answered for {JOURNAL_S:g} s: check that its disk answers"
        ) from None
