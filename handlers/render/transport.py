"""One request to render-ws and its answer: connections, time limits, the few repeats that are safe, faults.

docs/decisions/render-client.md says why it is as it is.
"""

import asyncio
import importlib.metadata
import io
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import aiohttp
import msgspec
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
from handlers.render.responses import fault_of, is_absent, plain_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MOST_ANSWER_BYTES = 512 * 2**20
"""A longer answer is refused: 50,000 tiles, the most that render-ws gives at once, take some 200 MiB."""
MOST_ERROR_BYTES = 64 * 2**10
"""What is read of an error's body."""
READ_AT_ONCE_BYTES = 64 * 2**10
"""A longer answer is read in a thread: reading it would hold up the event loop."""
QUICK_S = 5.0
"""After a failure that took longer to come, the caller has waited long enough: nothing is sent again."""
KEEP_ALIVE_S = 15.0
"""render-ws drops a connection after 30 s of silence; ours must be gone before, or a request runs into the closing."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what; seconds."""

    connect_s: float = 10.0
    silence_s: float = 120.0
    """From the end of a request to the answer, and between two pieces of it."""
    request_s: float = 300.0
    """For a whole request and its answer."""
    complete_s: float = 30.0
    """For the answer to COMPLETE, which comes after the whole derivation: past it the stack is looked at instead."""
    ping_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Polling:
    """Delays between readings of a stack's state while render-ws completes it; seconds."""

    first_s: float = 0.25
    """Before the second reading; each further delay is half as long again."""
    longest_s: float = 15.0
    lost_s: float = 30.0
    """How long to poll after the connection broke: render-ws may have received COMPLETE."""

    def delay_s(self, poll: int) -> float:
        """Return the seconds to wait after a reading; 0 is the first.

        >>> Polling().delay_s(0), Polling().delay_s(2), Polling().delay_s(50)
        (0.25, 0.5625, 15.0)
        """
        return float(min(self.longest_s, self.first_s * 1.5 ** min(poll, 100)))


@dataclass(frozen=True, slots=True)
class Request:
    """What to ask for.

    Parameters
    ----------
    path : after the base URL, percent-encoded, with its query.
    subject : the stack or layer concerned, for faults.
    tried : for faults, as in "put tiles".
    body : JSON; empty for a request that says all in its path; None for one without a body.
    repeatable : whether sending it twice is as good as once.
    """

    method: str
    path: str
    subject: str
    tried: str
    body: bytes | None = None
    repeatable: bool = True
    limit_s: float | None = None
    """For the whole request, instead of the general one."""
    abandonable: bool = False
    """Whether a write may be given up unanswered when its caller is cancelled; what only reads always may."""

    @property
    def has_to_be_answered(self) -> bool:
        """Whether a caller that is cancelled waits for the answer all the same."""
        return self.method != "GET" and not self.abandonable


@dataclass(frozen=True, slots=True)
class Answer:
    """A success, or render-ws saying that a thing does not exist."""

    absent: bool
    body: bytes
    text: str
    """What it says of the absent thing."""


async def _send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Keep aiohttp from repeating PUT and DELETE by itself when a connection breaks: COMPLETE is a PUT."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def _is_worth_another_try(error: BaseException) -> bool:
    """Whether seconds may help. After a late answer, or the answer of another server, they will not."""
    helped = RenderUnavailable | RenderBroken | SectionDataMissing
    return isinstance(error, helped) and not isinstance(error, AnswerLate | NotRender)


def user_agent() -> str:
    """What requests say of themselves: temwatch and its version."""
    return f"temwatch/{importlib.metadata.version('temwatch')}"


class RenderHttp:
    """Connections to one render-ws; an async context manager.

    Parameters
    ----------
    base_url : as in `http://render:8080/render-ws/v1`, with or without a slash at its end. A user and password in it
        go into the header Authorization, and into no text.
    connections : requests under way at once; more wait their turn.
    tries : how often a repeatable request is sent.
    first_wait_s : longest wait before the second try; doubles, shortened at random.

    Raises
    ------
    SettingsFault
        If the base URL is no http address.
    """

    def __init__(
        self, base_url: str, patience: Patience, *, connections: int = 8, tries: int = 3, first_wait_s: float = 0.25
    ) -> None:
        self.address = checked_base_url(base_url)
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
        """The answer to a request, sent again a few times within seconds where that is safe and may help.

        A caller that is cancelled while a write is under way is not let go before that is answered: render-ws goes on
        with it, and it must not land on what others write next. A second cancellation gives it up.

        Raises
        ------
        RenderFault
            The kind says what was wrong; for 404s in plain text see `Answer.absent`.
        """
        tries = self._tries if request.repeatable else 1
        patient = AsyncRetrying(
            stop=stop_after_attempt(tries) | stop_after_delay(QUICK_S),
            wait=wait_random_exponential(multiplier=self._first_wait_s, max=2.0),
            retry=retry_if_exception(_is_worth_another_try),
            reraise=True,
        )
        async with self._turns:
            return await patient(self._send_to_the_end if request.has_to_be_answered else self._send, request)

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
        assert self._session is not None, "used outside its context"
        limit_s = request.limit_s or self.patience.request_s
        silence_s = min(limit_s, self.patience.silence_s)
        try:
            async with self._session.request(
                request.method,
                URL(self.base_url + request.path, encoded=True),
                data=None if request.body is None else io.BytesIO(request.body),
                headers=None if request.body is None else {"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=limit_s, sock_connect=self.patience.connect_s, sock_read=silence_s),
                allow_redirects=False,
            ) as response:
                return await _read(request, response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise self._unreachable(request, error) from error
        except aiohttp.SocketTimeoutError as error:
            raise _late(request, f"render-ws was silent for {silence_s:g} s") from error
        except TimeoutError as error:
            raise _late(request, f"no whole answer came within {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            problem = f"tried to {request.tried}, and the connection broke ({_said(error)})"
            raise AnswerLost(request.subject, problem, "see whether render-ws was restarted") from error

    def _unreachable(self, request: Request, error: Exception) -> RenderUnavailable:
        problem = f"tried to {request.tried}, and {self.base_url} cannot be reached ({_said(error)})"
        return RenderUnavailable(request.subject, problem, "see that render-ws runs and render.url is its address")


class Reader(Protocol[T_co]):
    """What reads the body of an answer."""

    def validate_json(self, body: bytes, /) -> T_co:
        """The record. Raises pydantic.ValidationError or msgspec.DecodeError."""


async def read_answer(kind: Reader[T], body: bytes, request: Request) -> T:
    """The body as a record, a long one read in a thread.

    Raises
    ------
    RenderBroken
        If the body is no such record; names the first field that is wrong.
    """
    try:
        if len(body) <= READ_AT_ONCE_BYTES:
            return kind.validate_json(body)
        return await asyncio.to_thread(kind.validate_json, body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        problem = f"{where}: {first['msg']}"
    except msgspec.DecodeError as error:
        problem = str(error)
    raise RenderBroken(
        request.subject,
        f"tried to {request.tried}, and the answer cannot be read: {problem}",
        "see that render.url leads to a render-ws, and what its log says",
    )


def _late(request: Request, problem: str) -> AnswerLate:
    hint = "see the load of render-ws and of its database"
    return AnswerLate(request.subject, f"tried to {request.tried}, and {problem}", hint)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _read(request: Request, response: ClientResponse) -> Answer:
    """The answer, or the fault it stands for, raised."""
    if response.status < 300:
        body = await _read_up_to(response, MOST_ANSWER_BYTES)
        if len(body) > MOST_ANSWER_BYTES:
            mib = MOST_ANSWER_BYTES // 2**20
            raise RenderRefused(request.subject, f"tried to {request.tried}, and the answer is longer than {mib} MiB")
        return Answer(absent=False, body=body, text="")
    text = plain_text(await _read_up_to(response, MOST_ERROR_BYTES))
    if is_absent(response.status, response.content_type):
        return Answer(absent=True, body=b"", text=text)
    raise fault_of(request.subject, request.tried, response.status, response.content_type, text)


async def _read_up_to(response: ClientResponse, most_bytes: int) -> bytes:
    """Return the body; of a longer one a little more than `most_bytes`. A single read may end at any TCP segment."""
    pieces: list[bytes] = []
    length = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > most_bytes:
            break
    return b"".join(pieces)
