"""Handler of the page of a microscope."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from daemon.config.settings import Settings
from daemon.journal.journal import Journal
from daemon.journal.tables import trends
from daemon.pipeline.health import Facts
from daemon.web import parameters
from daemon.web.pages.layout import Layout, in_time
from daemon.web.pages.scope_page import DAY_S, DAYS, SECTIONS, scope_values


class ScopePage:
    """The page of a microscope."""

    def __init__(
        self,
        layout: Layout,
        settings: Callable[[], Settings],
        journal: Journal,
        facts: Callable[[], Awaitable[Facts]],
    ) -> None:
        self._layout = layout
        self._settings = settings
        self._journal = journal
        self._facts = facts

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/scopes/{watch}/{scope}", self.scope)]

    async def scope(self, request: web.Request) -> web.Response:
        """Return the page with the trends of a microscope; without sections, the page is empty."""
        watch, scope = request.match_info["watch"], request.match_info["scope"]
        days, now = parameters.days_of(request, DAYS), time.time()
        reading = self._journal.read(
            lambda connection: trends.of_scope(connection, watch, scope, now - days * DAY_S, SECTIONS)
        )
        points, facts = await asyncio.gather(in_time(reading), self._facts())
        limits = next((each.qc.limits() for each in self._settings().watch if each.name == watch), None)
        values = await asyncio.to_thread(
            scope_values, watch, scope, points, days, now, limits.min_focus if limits else None
        )
        return await self._layout.page(request, "scope.html", facts, **values)
