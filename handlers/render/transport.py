"""One request to render-ws and its answer: connections, time limits, safe retries, faults.

docs/decisions/render-client.md gives the reasons.
"""

import asyncio
import errno
import importlib.metadata
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential
from yarl import URL

from handlers.errors import (
    AnswerLate,
    AnswerLost,
    NotRender,
    RenderBroken,
    RenderRefused,
    RenderUnavailable,
    SectionDataMissing,
)
from handlers.render.names import checked_base_url
from handlers.render.patience import Patience
from handlers.render.responses import fault_of, is_absent, plain_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST_ANSWER_BYTES = 2**20
"""Bytes of an answer that does not grow with tiles or layers."""
MOST_ERROR_BYTES = 8 * 2**10
"""Bytes of an error's body that are read: its text stands at the beginning."""
READ_AT_ONCE_BYTES = 64 * 2**10
"""A longer answer is parsed in a thread: parsing it would block the event loop."""
QUICK_S = 5.0
"""A request whose failures took longer in total is not sent again: the caller has waited long enough."""
KEEP_ALIVE_S = 15.0
"""render-ws closes an idle connection after 30 s. Ours closes first, or a request could meet a closing connection."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The longest answer that is read. A longer one is refused while it arrives."""

    most_bytes: int = MOST_ANSWER_BYTES
    most_values: int = MOST_ANSWER_BYTES
    """Commas, which bound the objects that a parser makes: 200 MiB of `[],` would take 10 GiB."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to render-ws.

    Parameters
    ----------
    path : after the base URL, percent-encoded, with its query.
    subject : the stack or layer concerned, for faults.
    tried : the action, for faults, as in "put tiles".
    body : JSON; empty if the path holds everything; None for a request without a body.
    repeatable : whether sending it twice has the same effect as once.
    """

    method: str
    path: str
    subject: str
    tried: str
    body: bytes | None = None
    repeatable: bool = True
    limit: Limit = Limit()
    """Of its answer."""
    limit_s: float | None = None
    """Time limit of this request, instead of `Patience.request_s`."""
    abandonable: bool = False
    """Whether a cancelled caller may drop a write before it is answered. A read may always be dropped."""

    @property
    def must_be_answered(self) -> bool:
        """Whether a cancelled caller still waits for the answer."""
        return self.method != "GET" and not self.abandonable


OnAnswer = Callable[[Request, str, float], None]
"""Called after each request with the status of its answer, or "no answer", and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or a 404 by which render-ws reports that a thing does not exist."""

    absent: bool
    body: bytes
    text: str
    """Text of that 404."""


async def _send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Stop aiohttp from repeating PUT and DELETE when a connection breaks: COMPLETE is a PUT."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _is_worth_retrying(error: BaseException) -> bool:
    """Return whether a retry within seconds may help. After a late answer, or one of another server, it does not."""
    retryable = RenderUnavailable | RenderBroken | SectionDataMissing
    return isinstance(error, retryable) and not isinstance(error, AnswerLate | NotRender)


def user_agent() -> str:
    """Return the User-Agent of requests: temwatch and its version."""
    return f"temwatch/{importlib.metadata.version('temwatch')}"


class RenderHttp:
    """Connections to one render-ws; an async context manager.

    Parameters
    ----------
    base_url : as in `http://render:8080/render-ws/v1`; a slash at its end is allowed. A user and password in it are
        sent in the header Authorization and never shown.
    setting : the name by which the caller sets the base URL; faults name it.
    connections : most requests at once; further ones wait.
    tries : how often a repeatable request is sent.
    first_wait_s : longest wait before the second try; it doubles from try to try, and a random part of it is taken.

    Raises
    ------
    SettingsFault
        If the base URL is not an http or https URL.
    """

    def __init__(
        self,
        base_url: str,
        patience: Patience,
        *,
        setting: str = "render.url",
        connections: int = 8,
        tries: int = 3,
        first_wait_s: float = 0.25,
        on_answer: OnAnswer = lambda request, outcome, seconds: None,
    ) -> None:
        self.address = checked_base_url(base_url, setting)
        self._setting = setting
        self._on_answer = on_answer
        self.base_url = self.address.url
        self.patience = patience
        self._connections = connections
        self._turns = asyncio.Semaphore(connections)
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
        if self.address.authorization:
            headers["Authorization"] = self.address.authorization
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEP_ALIVE_S),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_send_once,),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def ask(self, request: Request) -> Answer:
        """Send a request and return its answer; retry within seconds where that is safe and may help.

        A caller that is cancelled during a write still waits for the answer: render-ws finishes the write, which must
        not land on top of a later one. A second cancellation drops the write.

        Raises
        ------
        RenderFault
            Its class names the kind. A 404 in plain text is no fault: see `Answer.absent`.
        """
        tries = self._tries if request.repeatable else 1
        retrying = AsyncRetrying(
            stop=stop_after_attempt(tries) | stop_after_delay(QUICK_S),
            wait=wait_random_exponential(multiplier=self._first_wait_s, max=2.0),
            retry=retry_if_exception(_is_worth_retrying),
            reraise=True,
        )
        async with self._turns:
            return await retrying(self._send_to_the_end if request.must_be_answered else self._send, request)

    async def _send_to_the_end(self, request: Request) -> Answer:
        sending = asyncio.create_task(self._send(request), name=f"{request.tried} {request.subject}")
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            await asyncio.wait([sending])
            raise
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait([sending])

    async def _send(self, request: Request) -> Answer:
        assert self._session is not None, "not entered as a context manager"
        limit_s = request.limit_s or self.patience.request_s
        silence_s = min(limit_s, self.patience.silence_s)
        loop = asyncio.get_running_loop()
        started, outcome = loop.time(), "no answer"
        try:
            async with self._session.request(
                request.method,
                URL(self.base_url + request.path, encoded=True),
                data=None if request.body is None else io.BytesIO(request.body),
                headers=None if request.body is None else {"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=limit_s, sock_connect=self.patience.connect_s, sock_read=silence_s),
                allow_redirects=False,
            ) as response:
                outcome = str(response.status)
                return await _read(request, response, self._setting)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._unreachable(request, error) from error
        except aiohttp.SocketTimeoutError as error:
            raise _late(request, f"render-ws sent nothing for {silence_s:g} s") from error
        except TimeoutError as error:
            raise _late(request, f"the answer was not complete after {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            problem = f"tried to {request.tried}, and the connection broke ({_text_of(error)})"
            raise AnswerLost(request.subject, problem, "check whether render-ws was restarted") from error
        finally:
            self._on_answer(request, outcome, loop.time() - started)

    def _unreachable(self, request: Request, error: Exception) -> RenderUnavailable:
        problem = f"tried to {request.tried}, and {self.base_url} cannot be reached ({_reason(error)})"
        return RenderUnavailable(
            request.subject, problem, f"check that render-ws runs and that its address, {self._setting}, is right"
        )


class Reader(Protocol[T_co]):
    """A parser of answer bodies."""

    def validate_json(self, body: bytes, /) -> T_co:
        """Return the record. Raises pydantic.ValidationError or msgspec.DecodeError."""


async def read_answer(kind: Reader[T], body: bytes, request: Request) -> T:
    """Return the body as a record. A long body is parsed in a thread.

    Raises
    ------
    RenderBroken
        If the body is not such a record; names the first invalid field.
    """
    try:
        if len(body) <= READ_AT_ONCE_BYTES:
            return kind.validate_json(body)
        return await asyncio.to_thread(kind.validate_json, body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        problem = f"{where}: {first['msg']}"
    except (ValueError, RecursionError) as error:  # msgspec.DecodeError among them
        problem = str(error)
    raise RenderBroken(
        request.subject,
        f"tried to {request.tried}, and the answer cannot be read: {problem}",
        "check that this is a render-ws, and read its log",
    )


def _late(request: Request, problem: str) -> AnswerLate:
    hint = "check the load of render-ws and of its database"
    return AnswerLate(request.subject, f"tried to {request.tried}, and {problem}", hint)


def _text_of(error: Exception) -> str:
    return str(error) or type(error).__name__


def _reason(error: Exception) -> str:
    """Return the reason why no connection was made, without the address, which aiohttp repeats."""
    cause = getattr(error, "os_error", None)
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno in errno.errorcode:
        return os.strerror(cause.errno)
    return str(getattr(cause, "strerror", None) or _text_of(error))


async def _read(request: Request, response: ClientResponse, setting: str) -> Answer:
    """Return the answer, or raise the fault that it stands for."""
    if response.status < 300:
        return Answer(absent=False, body=await _whole_body(request, response), text="")
    text = plain_text(await _beginning(response, MOST_ERROR_BYTES))
    if is_absent(response.status, response.content_type):
        return Answer(absent=True, body=b"", text=text)
    raise fault_of(request.subject, request.tried, response.status, response.content_type, text, setting)


async def _whole_body(request: Request, response: ClientResponse) -> bytes:
    """Return the body. Raises RenderRefused as soon as it exceeds the limit of the request."""
    limit, pieces = request.limit, []
    length = values = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        values += piece.count(b",")
        if length > limit.most_bytes or values > limit.most_values:
            too_long = f"is longer than {limit.most_bytes // 2**20} MiB"
            too_many = f"holds more than {limit.most_values:,} values"
            exceeded = too_long if length > limit.most_bytes else too_many
            hint = "check that this is a render-ws"
            raise RenderRefused(request.subject, f"tried to {request.tried}, and the answer {exceeded}", hint)
    return b"".join(pieces)


async def _beginning(response: ClientResponse, most_bytes: int) -> bytes:
    """Return the first bytes of a body. Reads in a loop, since a read may end at any TCP segment."""
    pieces: list[bytes] = []
    length = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > most_bytes:
            break
    return b"".join(pieces)[:most_bytes]
