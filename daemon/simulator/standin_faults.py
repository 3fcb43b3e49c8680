"""Misbehaviour of the stand-in for render-ws, on request, so that tests can show what a client makes of it."""

import asyncio
import re
from contextvars import ContextVar
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError

slowness_s: ContextVar[float] = ContextVar("slowness_s", default=0.0)
"""Seconds that the present request takes between the look at its stack and its effect."""


class FaultKind(StrEnum):
    """Ways to misbehave."""

    REFUSE = "refuse"
    """End the connection at once; nothing is done."""
    STALL = "stall"
    """Say nothing for `seconds`, then end the connection; nothing is done."""
    STATUS = "status"
    """Answer `status` with `text`, or with a page like Jetty's, at once or after `seconds`; nothing is done."""
    CUT_UPLOAD = "cut_upload"
    """End the connection in the middle of the request's body; nothing is done."""
    SLOW = "slow"
    """Take `seconds` between looking at the stack's state and doing the work, as a loaded database does."""
    LATE = "late"
    """Do the work, and answer `seconds` later."""
    LOST = "lost"
    """Do the work, and end the connection without an answer."""
    CUT = "cut"
    """Do the work, and end the connection in the middle of the answer's body."""


class Fault(BaseModel):
    """One way to misbehave, for requests whose "METHOD path?query" the regular expression finds a match in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: re.Pattern[str]
    kind: FaultKind
    status: int = 503
    text: str | None = None
    seconds: float | None = None
    """None for a second, or for no wait where a status is answered."""
    times: int | None = None
    """How many requests it strikes; None for all."""
    skip: int = 0
    """How many matching requests are spared first."""

    @property
    def wait_s(self) -> float:
        """Seconds of a fault that is a wait."""
        return 1.0 if self.seconds is None else self.seconds


class Misbehaviour:
    """Faults under way, and how often each has had its turn."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._seen: list[int] = []

    def add(self, fault: Fault) -> None:
        """From now on."""
        self._faults.append(fault)
        self._seen.append(0)

    def clear(self) -> None:
        """Behave again."""
        self._faults.clear()
        self._seen.clear()

    def next_fault(self, asked: str) -> Fault | None:
        """The first fault whose turn it is with this request."""
        for index, fault in enumerate(self._faults):
            if not fault.match.search(asked):
                continue
            turn = self._seen[index] - fault.skip
            if fault.times is not None and turn >= fault.times:
                continue
            self._seen[index] += 1
            if turn >= 0:
                return fault
        return None


async def parse_fault(request: web.Request) -> Fault:
    """The fault that a POST describes. Raises HTTPBadRequest, with what is wrong with it."""
    try:
        return Fault.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


async def answer_with_fault(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request, or leave it without an answer, as the fault wants it."""
    match fault.kind:
        case FaultKind.REFUSE:
            return hang_up(request)
        case FaultKind.STALL:
            await asyncio.sleep(fault.wait_s)
            return hang_up(request)
        case FaultKind.STATUS:
            await request.read()
            await asyncio.sleep(fault.seconds or 0)
            return _page(fault, request)
        case FaultKind.CUT_UPLOAD:
            await request.content.readany()
            return hang_up(request)
        case FaultKind.SLOW:
            return await _slowly(fault, request, handler)
    answer = await handler(request)
    match fault.kind:
        case FaultKind.LATE:
            await asyncio.sleep(fault.wait_s)
            return answer
        case FaultKind.CUT:
            return await _cut_in_two(request, answer)
    return hang_up(request)


class NoAnswer(web.Response):
    """What a handler returns of a request whose connection it has ended; nothing of it is sent."""

    def __init__(self) -> None:
        super().__init__(status=500)

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send nothing."""
        raise ConnectionResetError(f"{request.method} {request.path} was left without an answer")


def hang_up(request: web.Request) -> NoAnswer:
    """End the connection with a reset."""
    if request.transport is not None:
        request.transport.abort()
    return NoAnswer()


async def _slowly(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    token = slowness_s.set(fault.wait_s)
    try:
        return await handler(request)
    finally:
        slowness_s.reset(token)


async def _cut_in_two(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    body = answer.body if isinstance(answer, web.Response) and isinstance(answer.body, bytes) else b""
    half = web.StreamResponse(status=answer.status, headers={"Content-Length": str(max(2, len(body)))})
    half.content_type = answer.content_type
    await half.prepare(request)
    await half.write(body[: len(body) // 2] or b" ")
    hang_up(request)
    return half


def _page(fault: Fault, request: web.Request) -> web.Response:
    if fault.text is not None:
        return web.Response(status=fault.status, text=fault.text)
    reason = HTTPStatus(fault.status).phrase if fault.status in list(HTTPStatus) else "Unknown"
    page = (
        f'<html>\n<head>\n<meta http-equiv="Content-Type" content="text/html;charset=utf-8"/>\n'
        f"<title>Error {fault.status} {reason}</title>\n</head>\n<body><h2>HTTP ERROR {fault.status} {reason}</h2>\n"
        f"<table>\n<tr><th>URI:</th><td>{request.path}</td></tr>\n<tr><th>STATUS:</th><td>{fault.status}</td></tr>\n"
        f"</table>\n<hr/><a>Powered by Jetty:// 10.0</a><hr/>\n\n</body>\n</html>\n"
    )
    return web.Response(status=fault.status, text=page, content_type="text/html")
