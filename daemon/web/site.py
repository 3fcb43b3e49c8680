"""Serve requests, pages and live events of one daemon at one address."""

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from daemon.config.settings import HttpSettings, http_url
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
from handlers.errors import SettingsFault


class UnusablePort(SettingsFault):
    """This user cannot listen on the address or port. A restart does not help."""

    exit_code = 2


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
            raise _port_fault(http, error) from error
        yield Site(http_url(http.host, port), live)


def _port_fault(http: HttpSettings, error: OSError) -> SettingsFault:
    """Return the fault of an address on which the server cannot listen. A restart helps if the port becomes free."""
    problem = f"cannot listen on {http.host}:{http.port}: {os.strerror(error.errno or 0)}"
    if error.errno == errno.EADDRINUSE:
        return SettingsFault("http.port", problem, "stop the other program, or choose another port")
    return UnusablePort("http.port", problem, "choose an address of this machine and a port that the user may open")
