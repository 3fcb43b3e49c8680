"""Faults of the stand-in on request, for tests of clients."""

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
"""Seconds between the check of the stack and the effect of the current request."""


class FaultKind(StrEnum):
    """Kinds of faults. The default of `seconds` is 1, and 0 for STATUS."""

    REFUSE = "refuse"
    """Reset the connection at once, without the work."""
    STALL = "stall"
    """Send nothing for `seconds`, then reset the connection, without the work."""
    STATUS = "status"
    """After `seconds`, answer `status` with `text` or a page like Jetty's, without the work."""
    CUT_UPLOAD = "cut_upload"
    """Reset the connection in the middle of the request's body, without the work."""
    SLOW = "slow"
    """Wait `seconds` between the check of the stack's state and the work, like a loaded database."""
    LATE = "late"
    """Do the work, and answer `seconds` later."""
    LOST = "lost"
    """Do the work, and reset the connection without an answer."""
    ENDLESS = "endless"
    """Answer with `text` in Latin-1, then with zeros as long as the client reads, without the work."""
    CUT = "cut"
    """Do the work, and reset the connection in the middle of the answer's body."""


class Fault(BaseModel):
    """A fault of requests whose "METHOD path?query" contains a match of the regular expression `match`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: re.Pattern[str]
    kind: FaultKind
    status: int = 503
    text: str | None = None
    seconds: float | None = None
    """None: one second, or no wait for the kind `status`."""
    times: int | None = None
    """Number of requests that are affected; None: all."""
    skip: int = 0
    """Number of matching requests that are first answered normally."""

    @property
    def wait_s(self) -> float:
        """Seconds to wait, for the kinds that wait."""
        return 1.0 if self.seconds is None else self.seconds


class Misbehaviour:
    """The active faults, and the number of requests that each has matched."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._seen: list[int] = []

    def add(self, fault: Fault) -> None:
        """Activate a fault."""
        self._faults.append(fault)
        self._seen.append(0)

    def clear(self) -> None:
        """Deactivate all faults."""
        self._faults.clear()
        self._seen.clear()

    def next_fault(self, request_line: str) -> Fault | None:
        """Return the first fault that affects a request "METHOD path?query", or None; count the request."""
        for index, fault in enumerate(self._faults):
            if not fault.match.search(request_line):
                continue
            turn = self._seen[index] - fault.skip
            if fault.times is not None and turn >= fault.times:
                continue
            self._seen[index] += 1
            if turn >= 0:
                return fault
        return None


async def parse_fault(request: web.Request) -> Fault:
    """Return the fault that a POST describes. Raises HTTPBadRequest with the reason if it is invalid."""
    try:
        return Fault.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


async def answer_with_fault(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Handle a request as the fault specifies."""
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
        case FaultKind.ENDLESS:
            return await _endlessly(fault, request)
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
    """Placeholder that a handler returns after it reset the connection. Nothing is sent."""

    def __init__(self) -> None:
        super().__init__(status=500)

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Raise ConnectionResetError, so that aiohttp sends nothing."""
        raise ConnectionResetError(f"{request.method} {request.path} was left without an answer")


def hang_up(request: web.Request) -> NoAnswer:
    """Reset the connection."""
    if request.transport is not None:
        request.transport.abort()
    return NoAnswer()


async def _slowly(fault: Fault, request: web.Request, handler: Handler) -> web.StreamResponse:
    token = slowness_s.set(fault.wait_s)
    try:
        return await handler(request)
    finally:
        slowness_s.reset(token)


async def _endlessly(fault: Fault, request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(status=fault.status if fault.status < 400 else 200)
    await answer.prepare(request)
    await answer.write((fault.text or "").encode("latin-1"))
    while True:  # until the connection ends
        await answer.write(bytes(1 << 20))


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
