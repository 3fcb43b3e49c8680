"""Serve requests, pages and live events of one daemon at one address."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from daemon.config.listening import port_fault
from daemon.config.settings import http_url
from daemon.notify.hooks.notifier import Notifier
from daemon.pipeline.assembly import Assembly
from daemon.pipeline.health import Facts
from daemon.pipeline.pictures import Pictures
from daemon.pipeline.replay.replayer import Replayer
from daemon.web.live_events import LiveEvents
from daemon.web.pages.handlers import Pages
from daemon.web.posts import Posts
from daemon.web.routes import make_app
from daemon.web.server import serve


@dataclass(frozen=True, slots=True)
class Site:
    """A running HTTP server."""

    url: str
    live: LiveEvents


@contextlib.asynccontextmanager
async def serve_site(
    work: Assembly, notifier: Notifier, facts: Callable[[], Awaitable[Facts]], last_reload: Callable[[], dict[str, Any]]
) -> AsyncIterator[Site]:
    """Serve the parts of an assembly over HTTP.

    Parameters
    ----------
    facts : returns the facts that readiness depends on.
    last_reload : returns the outcome of the last reload of the configuration.

    Raises
    ------
    SettingsFault
        If the server cannot listen on the address.
    """
    settings, journal, pipeline = work.settings, work.journal, work.pipeline
    http = settings().http
    live = LiveEvents(journal)
    app = make_app(
        journal,
        work.metrics,
        facts,
        Posts(http, Replayer(settings, journal, pipeline), journal, pipeline.decided, notifier.wake),
        lambda: settings().http,
        last_reload,
        pipeline.next_try_in_s,
        Pages(settings, journal, facts, work.client, live),
        live,
        Pictures(settings, journal, lambda: work.pool),
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            port = await stack.enter_async_context(serve(app, http.host, http.port))
        except OSError as error:
            raise port_fault(http, error) from error
        yield Site(http_url(http.host, port), live)
