"""The HTTP server: accepts a bounded number of connections and closes those that send no request."""

import asyncio
import contextlib
import resource
import socket
import time
from collections.abc import AsyncIterator

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler

from daemon.config.listening import listen
from daemon.web.errors import error_answer

log = structlog.get_logger()

MAX_CONNECTIONS = 100
"""At the limit, a new connection replaces the oldest one without a request."""
IDLE_S = 15.0
"""A connection that has not sent a whole request header within this time is closed."""
ACCEPT_RETRY_S = 1.0
"""Delay after a connection could not be accepted."""
LOG_EVERY_S = 60.0
"""Shortest time between two log lines about connections that cannot be accepted."""
END_S = 3.0
"""Time for running requests to end when the server stops."""
POLL_S = 0.05
"""Interval of checks for a free connection while all connections have a running request."""


class Connection(web.RequestHandler):
    """A connection that responds to invalid HTTP in JSON."""

    __slots__ = ("is_busy",)

    def __init__(self, manager: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, keepalive_timeout=IDLE_S, access_log=None, auto_decompress=False)  # type: ignore[arg-type]
        self.is_busy = False
        """Whether a request is being handled."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to an invalid request, or to one whose handler failed."""
        super().handle_error(request, status, exc, message)  # logs it; raises if part of a response was sent
        reason = exc.message if isinstance(exc, HttpProcessingError) else "internal error, see the log"
        response = error_answer(status, " ".join(reason.split()[:12]))
        response.headers.update(HEADERS)
        response.force_close()
        return response


HEADERS = {"Server": "temwatch", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""Headers of every response."""


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Add the headers of every response; handler of a signal of the application."""
    kept = response.headers.get(
        "Cache-Control", HEADERS["Cache-Control"]
    )  # files with a version in their path may be cached
    response.headers.update({**HEADERS, "Cache-Control": kept})


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that refuses compressed bodies and marks the connection as busy."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise web.HTTPUnsupportedMediaType(reason="Content-Encoding: send the body uncompressed")
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.is_busy = True
    try:
        return await handler(request)
    finally:
        connection.is_busy = False


@contextlib.asynccontextmanager
async def serve(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve an application; yield the port. Raises OSError if the server cannot listen on the address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_S)
    try:
        await runner.setup()  # inside `try`: a stop meanwhile also cleans up what has begun
        async with contextlib.AsyncExitStack() as stack:
            listeners = [stack.enter_context(each) for each in await _listen(host, port)]
            acceptor = _Acceptor(runner)
            tasks = [asyncio.create_task(acceptor.run(each), name="http accept") for each in listeners]
            stack.push_async_callback(_cancel, tasks)
            yield listeners[0].getsockname()[1]
    finally:
        await runner.cleanup()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _listen(host: str, port: int) -> list[socket.socket]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners = listen(found)
    for listener in listeners:
        listener.setblocking(False)
    return listeners


async def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    return connection


def connection_limit(descriptors: int) -> int:
    """Return how many connections a process accepts: a quarter of its limit of open files, at most `MAX_CONNECTIONS`.

    >>> connection_limit(65536), connection_limit(128), connection_limit(-1)
    (100, 32, 100)
    """
    is_unlimited = descriptors == resource.RLIM_INFINITY
    return MAX_CONNECTIONS if is_unlimited else max(1, min(MAX_CONNECTIONS, descriptors // 4))


class _Acceptor:
    """Accepts connections for a runner.

    asyncio's own server has no limit of connections. It logs each failed accept: thousands per second when no
    descriptor is free.
    """

    def __init__(self, runner: web.AppRunner) -> None:
        assert runner.server is not None
        self._server = runner.server
        self._limit = connection_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._logged_at = -LOG_EVERY_S

    async def run(self, listener: socket.socket) -> None:
        """Accept connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection = await _accept(listener)
            except OSError as error:
                self._log(error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            try:
                await self._make_room()
                await loop.connect_accepted_socket(lambda: Connection(self._server, loop), connection)
            except BaseException as error:
                connection.close()
                if not isinstance(error, OSError):
                    raise

    async def _make_room(self) -> None:
        """Wait until there are fewer connections than the limit; close the oldest ones without a request."""
        while len(connections := self._open_connections()) >= self._limit:
            idle = next((each for each in connections if not each.is_busy), None)
            if idle is not None:
                idle.force_close()
            else:
                await asyncio.sleep(POLL_S)

    def _open_connections(self) -> list[Connection]:
        """Return the open connections, the oldest first."""
        found = (each for each in self._server.connections if isinstance(each, Connection))
        return [each for each in found if each.transport is not None]

    def _log(self, error: OSError) -> None:
        now = time.monotonic()
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.error(
                "http.accept_failed",
                reason=str(error),
                hint="raise LimitNOFILE of the service, or find the cause of so many open files",
            )
