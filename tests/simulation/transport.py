"""Requests to an application without sockets: to the stand-in, and to the port of the daemon.

The application of the stand-in is the real one, with its rules, texts and faults. A request that has arrived is
processed to its end, even if its client leaves, as by render-ws.
"""

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.http_writer import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from daemon.simulator.standin.faults import NoAnswer, slowness_s

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Network:
    """The network between the daemon and render-ws.

    Parameters
    ----------
    context : context of render-ws, which continues when the daemon is killed.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random, context: Context) -> None:
        self.is_down = False
        """Whether connections are refused."""
        self.slowness = 1.0
        """Factor of the times of transmission."""
        self.slow_share = 0.0
        """Share of requests that render-ws processes slowly."""
        self.writes = 0
        """Number of requests other than GET that have arrived."""
        self.log: Callable[[str], object] = lambda line: None
        self._loop = loop
        self._rng = rng
        self._context = context
        self._application: web.Application | None = None
        self._open: set[_Connection] = set()

    def serve(self, application: web.Application) -> None:
        """Send requests to this application."""
        application.freeze()
        self._application = application

    def go_down(self) -> None:
        """End all connections and refuse new ones. Requests that have arrived are processed to their end."""
        self.is_down = True
        for connection in sorted(self._open, key=lambda each: each.number):
            connection.cut()

    def come_back(self) -> None:
        """Accept connections again."""
        self.is_down = False

    def pause_s(self) -> float:
        """Draw the time of transmission of a request or an answer."""
        limit_s = 0.004 if self._rng.random() < 0.8 else 0.4
        return self._rng.random() * limit_s * self.slowness

    async def send(self, method: str, url: URL, body: bytes, headers: dict[str, str]) -> "_Response":
        """Send a request; return the answer."""
        await asyncio.sleep(self.pause_s())
        if self.is_down:
            raise aiohttp.ClientConnectorError(_KEY, OSError(111, "Connection refused"))
        connection = _Connection(self._loop)
        self._open.add(connection)
        try:
            await asyncio.sleep(self.pause_s())  # the request of a client that leaves now does not arrive
            if not connection.is_cut:
                self._loop.create_task(
                    self._work(connection, method, url, body, headers),
                    name=f"{method} {url.path}",
                    context=self._context,
                )
            answer = await connection.answer
            return _Response(answer, await self._received(answer))
        finally:
            self._open.discard(connection)

    async def _work(
        self, connection: "_Connection", method: str, url: URL, body: bytes, headers: dict[str, str]
    ) -> None:
        assert self._application is not None
        self.writes += method != "GET"
        if self._rng.random() < self.slow_share:
            slowness_s.set(self._rng.random() * 3)  # between a read and the write that depends on it
        answer = await handle(self._application._handle, self._loop, method, url, body, headers)
        self.log(f"render-ws {method} {url.path} {answer.status if answer else 'no answer'}")
        await asyncio.sleep(self.pause_s())
        connection.give(answer)

    async def _received(self, answer: web.Response) -> aiohttp.StreamReader:
        """Return the body as a stream in two pieces, the second one later: no reader may expect it in one piece."""
        protocol: Any = aiohttp.base_protocol.BaseProtocol(self._loop)
        protocol.transport = _Transport()
        stream = aiohttp.StreamReader(protocol, 2**16, loop=self._loop)
        body = bytes(answer.body) if isinstance(answer.body, bytes | bytearray) else b""
        half = len(body) // 2
        stream.feed_data(body[:half])

        def end() -> None:
            stream.feed_data(body[half:])
            stream.feed_eof()

        self._loop.call_later(self.pause_s(), end)
        return stream


class _Connection:
    _count = 0

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        _Connection._count += 1
        self.number = _Connection._count
        self.answer: asyncio.Future[web.Response] = loop.create_future()
        self.is_cut = False

    def cut(self) -> None:
        """End the connection: the client gets no answer."""
        self.is_cut = True
        self.give(None)

    def give(self, answer: web.Response | None) -> None:
        """Give the answer to the client if it waits; None: the connection ends without an answer."""
        if self.answer.done():
            return
        if answer is None:
            self.answer.set_exception(aiohttp.ClientConnectionError("Server disconnected"))
        else:
            self.answer.set_result(answer)


class _Key:
    """The host of a ClientConnectorError."""

    host = "render"
    port = 8080
    ssl = True
    is_ssl = False


_KEY: Any = _Key()


class _Response:
    """An answer as the client sees it."""

    def __init__(self, answer: web.Response, content: aiohttp.StreamReader) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.content_type = answer.content_type
        self.charset = answer.charset
        self.content = content


class _RequestContext:
    """Result of `Session.request`, for `async with`."""

    def __init__(self, network: Network, limit_s: float | None, *request: Any) -> None:
        self._network = network
        self._limit_s = limit_s
        self._request = request
        self._limit: asyncio.Timeout | None = None

    async def __aenter__(self) -> _Response:
        self._limit = asyncio.timeout(self._limit_s)
        await self._limit.__aenter__()
        try:
            return await self._network.send(*self._request)
        except BaseException as error:
            await self._limit.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._limit is not None
        await self._limit.__aexit__(kind, error, trace)


class Session:
    """Substitute of aiohttp.ClientSession: requests go through the network of the scenario."""

    network: Network
    """Set before the first session is opened."""

    def __init__(self, *, connector: Any = None, headers: dict[str, str] | None = None, **_: Any) -> None:
        if connector is not None:
            connector._closed = True  # it will never hold a connection
        self._headers = dict(headers or {})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        return None

    async def close(self) -> None:
        """Do nothing: no connection is open."""

    def request(
        self, method: str, url: URL, *, data: Any = None, headers: Any = None, timeout: Any = None, **_: Any
    ) -> _RequestContext:
        """See aiohttp.ClientSession."""
        body = data.read() if isinstance(data, io.IOBase) else bytes(data or b"")
        sent = {"Host": "render:8080", **self._headers, **dict(headers or {})}
        limits = [limit_s for limit_s in (timeout.total, timeout.sock_read) if limit_s] if timeout else []
        return _RequestContext(self.network, min(limits, default=None), method, url, body, sent)


# --- the server's side


class _Transport:
    def __init__(self) -> None:
        self.is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.is_aborted


class _Protocol:
    """The attributes of a connection that aiohttp reads."""

    ssl_context = None
    peername = ("127.0.0.1", 40_000)
    sockname = ("127.0.0.1", 8080)

    def __init__(self) -> None:
        self.transport = _Transport()


class _Payload:
    """The body of a request."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def readany(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read(self, _: int = -1) -> bytes:
        return await self.readany()


async def handle(
    handler: Handler, loop: asyncio.AbstractEventLoop, method: str, url: URL, body: bytes, headers: dict[str, str]
) -> web.Response | None:
    """Return the answer of a server's handler; None if it ends the connection without an answer."""
    task = asyncio.current_task()
    fields = CIMultiDictProxy(CIMultiDict(headers))
    raw = tuple((key.encode(), value.encode()) for key, value in headers.items())
    target = url.raw_path_qs
    message = RawRequestMessage(
        method,
        target,
        HttpVersion11,
        fields,
        raw,
        False,
        None,
        False,
        False,
        URL.build(path=target, encoded=True) if "?" not in target else URL(target, encoded=True),
    )
    unused: Any = None
    payload: Any = _Payload(body)
    protocol: Any = _Protocol()
    request = web.Request(message, payload, protocol, unused, task, loop, client_max_size=0)  # type: ignore[arg-type]
    answer = await handler(request)
    if isinstance(answer, NoAnswer) or protocol.transport.is_aborted:
        return None
    assert isinstance(answer, web.Response)
    return answer
