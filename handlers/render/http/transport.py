"""Sending a request to render-ws: connections, time-outs, safe retries, faults.

docs/decisions/render-client.md gives the reasons.
"""

import asyncio
import importlib.metadata
import io
import ssl
from typing import Self

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

from handlers.errors import AccessRefused, AnswerLate, RenderUnavailable, SettingsFault
from handlers.render.foreign_answers import Service
from handlers.render.http.access import Access, Login
from handlers.render.http.connecting import connection_fault
from handlers.render.http.credentials import Credentials
from handlers.render.http.environment_proxy import Proxy, environment_proxy
from handlers.render.http.reading import answer_of
from handlers.render.http.requests import Answer, OnAnswer, Request
from handlers.render.http.retrying import sent_with_retries
from handlers.render.http.time_limits import TimeLimits
from handlers.render.names import checked_base_url

KEEP_ALIVE_S = 15.0
"""Time after which the client closes an idle connection. render-ws closes it after 30 s; if that coincided with a
request, the request would fail."""


async def _send_once(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Prevent aiohttp from repeating a PUT or DELETE when a connection breaks: COMPLETE is a PUT."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


def user_agent() -> str:
    """Return the User-Agent of requests: temwatch and its version."""
    return f"temwatch/{importlib.metadata.version('temwatch')}"


class RenderHttp:
    """Connections to one render-ws; an async context manager.

    Parameters
    ----------
    base_url : URL of the service, as in `http://render:8080/render-ws/v1`; a final slash is allowed. A user and
        password in it are sent in the header Authorization and never shown.
    setting : name of the setting of the base URL, for faults.
    access : login, TLS and proxy. Its files are read on entering, and again when the login is refused.
    connections : largest number of requests at once; further requests wait.
    tries : largest number of times that a repeatable request is sent.
    first_wait_s : longest wait before the second try; it doubles with each try, and a random part of it is used.

    Raises
    ------
    SettingsFault
        If the base URL is not an http or https URL. On entering, if a file of the access cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        time_limits: TimeLimits,
        *,
        setting: str = "render.url",
        access: Access | None = None,
        connections: int = 8,
        tries: int = 3,
        first_wait_s: float = 0.25,
        on_answer: OnAnswer = lambda request, outcome, seconds: None,
    ) -> None:
        self.address = checked_base_url(base_url, setting)
        access = access or Access()
        self._credentials = Credentials(access, self.address.authorization)
        login = access.login or (f"the user in {setting}" if self.address.authorization else "")
        self._service = Service(setting, self.address.url, access.section, login)
        self._proxy: Proxy | None = None
        self._trusted: ssl.SSLContext | None = None
        self._on_answer = on_answer
        self.base_url = self.address.url
        self.time_limits = time_limits
        self._connections = connections
        self._turns = asyncio.Semaphore(connections)
        self._tries = tries
        self._first_wait_s = first_wait_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def access(self) -> Access:
        """Login, TLS and proxy, by their files."""
        return self._credentials.access

    async def has_new_login(self) -> bool:
        """Whether a file of the access has changed since it was read."""
        return await self._credentials.has_changed()

    async def __aenter__(self) -> Self:
        await self._credentials.read()
        self._proxy = environment_proxy(self.base_url) if self.access.use_environment_proxy else None
        is_secure = any(url.startswith("https:") for url in (self.base_url, self._proxy.url if self._proxy else ""))
        if is_secure and self._credentials.now.tls is None:
            # aiohttp's own context has the authorities of the time when aiohttp was imported, or none.
            self._trusted = await asyncio.to_thread(ssl.create_default_context)
        headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
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
        """Send a request and return its answer; retry within seconds if that is safe and may help.

        A caller that is cancelled during a write still waits for the answer: render-ws finishes the write, which must
        not overwrite a later one. A second cancellation abandons the write.

        Raises
        ------
        RenderFault
            Of the class for the failure. A 404 in plain text is not a fault: see `Answer.absent`.
        """
        tries = self._tries if request.repeatable else 1
        send = self._send_to_the_end if request.must_be_answered else self._send
        async with self._turns:
            return await sent_with_retries(send, request, tries, self._first_wait_s)

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
            if not sending.cancelled():
                sending.exception()  # the caller that was cancelled does not ask for it, and asyncio would report it

    async def _send(self, request: Request) -> Answer:
        """Send the request, and once more if the login is refused and its files have changed since they were read."""
        login = self._credentials.now
        try:
            return await self._send_as(login, request)
        except AccessRefused as fault:
            try:
                renewed = await self._credentials.renewed(login)
            except SettingsFault as unusable:
                raise type(fault)(fault.subject, fault.problem, str(unusable)) from fault
            if renewed is None:
                raise
        return await self._send_as(renewed, request)

    async def _send_as(self, login: Login, request: Request) -> Answer:
        assert self._session is not None, "not entered as a context manager"
        limits = self.time_limits
        limit_s = request.limit_s or limits.request_s
        silence_s = min(limit_s, limits.silence_s)
        loop = asyncio.get_running_loop()
        started, outcome = loop.time(), "no answer"
        headers = {**login.headers, **({} if request.body is None else {"Content-Type": "application/json"})}
        proxy = self._proxy
        through = {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else {}
        try:
            async with self._session.request(
                request.method,
                URL(self.base_url + request.path, encoded=True),
                data=None if request.body is None else io.BytesIO(request.body),
                headers=headers if self.base_url.startswith("https:") else {**headers, **through},
                timeout=aiohttp.ClientTimeout(
                    total=limit_s, sock_connect=self.time_limits.connect_s, sock_read=silence_s
                ),
                allow_redirects=False,
                ssl=login.tls or self._trusted or True,
                proxy=proxy.url if proxy else None,
                proxy_headers=through if proxy else None,
            ) as response:
                outcome = str(response.status)
                return await answer_of(request, response, self._service)
        except aiohttp.ConnectionTimeoutError as error:
            raise await self._connection_fault(request, error) from error
        except aiohttp.SocketTimeoutError as error:
            raise _late(request, f"render-ws sent nothing for {silence_s:g} s") from error
        except TimeoutError as error:
            raise _late(request, f"the answer was not complete after {limit_s:g} s") from error
        except aiohttp.ClientError as error:
            raise await self._connection_fault(request, error) from error
        finally:
            self._on_answer(request, outcome, loop.time() - started)

    async def _connection_fault(self, request: Request, error: Exception) -> RenderUnavailable:
        return await connection_fault(request.subject, request.tried, error, self._service, self._proxy)


def _late(request: Request, problem: str) -> AnswerLate:
    hint = "check the load of render-ws and of its database"
    return AnswerLate(request.subject, f"tried to {request.tried}, and {problem}", hint)
