"""The way of a request to an application and back, without sockets: to the stand-in, and to the daemon's own port.

The stand-in's application is the real one, with its rules, its texts and its misbehaviour. A request that has arrived
is worked at to its end, whatever becomes of its client; render-ws does the same.
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
    """The one way to render-ws.

    Parameters
    ----------
    context : of render-ws, whose work goes on when the daemon dies.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, chances: random.Random, context: Context) -> None:
        self.is_down = False
        """Whether nobody listens at the other end."""
        self.slowness = 1.0
        self.laziness = 0.0
        """Share of requests that render-ws takes its time for."""
        self.writes = 0
        """Requests other than GET that arrived."""
        self.log: Callable[[str], object] = lambda line: None
        self._loop = loop
        self._chances = chances
        self._context = context
        self._application: web.Application | None = None
        self._open: set[_Connection] = set()

    def serve(self, application: web.Application) -> None:
        """From now on requests go to this application."""
        application.freeze()
        self._application = application

    def go_down(self) -> None:
        """Ends all connections, and refuses new ones. What has arrived is worked at to its end."""
        self.is_down = True
        for connection in sorted(self._open, key=lambda each: each.number):
            connection.cut()

    def come_back(self) -> None:
        """Takes connections again."""
        self.is_down = False

    def pause_s(self) -> float:
        """A draw of how long a request or an answer is under way."""
        longest = 0.004 if self._chances.random() < 0.8 else 0.4
        return self._chances.random() * longest * self.slowness

    async def ask(self, method: str, url: URL, body: bytes, headers: dict[str, str]) -> "_Response":
        """The answer to a request."""
        await asyncio.sleep(self.pause_s())
        if self.is_down:
            raise aiohttp.ClientConnectorError(_KEY, OSError(111, "Connection refused"))
        connection = _Connection(self._loop)
        self._open.add(connection)
        try:
            await asyncio.sleep(self.pause_s())  # a client that leaves now has sent half a request
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
        if self._chances.random() < self.laziness:
            slowness_s.set(self._chances.random() * 3)  # as a loaded database is, between a look and its effect
        answer = await handle(self._application._handle, self._loop, method, url, body, headers)
        self.log(f"render-ws {method} {url.path} {answer.status if answer else 'no answer'}")
        await asyncio.sleep(self.pause_s())
        connection.give(answer)

    async def _received(self, answer: web.Response) -> aiohttp.StreamReader:
        """The body in two pieces, the second one later: no reader may take the first for all."""
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
        """Ends it: the client gets no answer."""
        self.is_cut = True
        self.give(None)

    def give(self, answer: web.Response | None) -> None:
        """Hands the answer over, if anybody waits for it; None for an end without one."""
        if self.answer.done():
            return
        if answer is None:
            self.answer.set_exception(aiohttp.ClientConnectionError("Server disconnected"))
        else:
            self.answer.set_result(answer)


class _Key:
    """What a ClientConnectorError says of its host."""

    host = "render"
    port = 8080
    ssl = True
    is_ssl = False


_KEY: Any = _Key()


class _Response:
    """A client's view of an answer."""

    def __init__(self, answer: web.Response, content: aiohttp.StreamReader) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.content_type = answer.content_type
        self.charset = answer.charset
        self.content = content


class _Asking:
    """`async with session.request(...) as response`."""

    def __init__(self, network: Network, limit_s: float | None, *request: Any) -> None:
        self._network = network
        self._limit_s = limit_s
        self._request = request
        self._limit: asyncio.Timeout | None = None

    async def __aenter__(self) -> _Response:
        self._limit = asyncio.timeout(self._limit_s)
        await self._limit.__aenter__()
        try:
            return await self._network.ask(*self._request)
        except BaseException as error:
            await self._limit.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._limit is not None
        await self._limit.__aexit__(kind, error, trace)


class Session:
    """Stands for aiohttp.ClientSession: a client's requests go through the network of the scenario."""

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
        """Nothing is open."""

    def request(
        self, method: str, url: URL, *, data: Any = None, headers: Any = None, timeout: Any = None, **_: Any
    ) -> _Asking:
        """See aiohttp.ClientSession."""
        body = data.read() if isinstance(data, io.IOBase) else bytes(data or b"")
        sent = {"Host": "render:8080", **self._headers, **dict(headers or {})}
        limits = [limit_s for limit_s in (timeout.total, timeout.sock_read) if limit_s] if timeout else []
        return _Asking(self.network, min(limits, default=None), method, url, body, sent)


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
    """What a request asks of its connection."""

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
    """What a server's handler answers; None where it ends the connection instead."""
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
