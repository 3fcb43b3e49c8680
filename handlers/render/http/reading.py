"""Reading an answer of bounded length, and parsing it or turning it into a fault."""

import asyncio
from typing import Protocol, TypeVar

from aiohttp import ClientResponse
from pydantic import ValidationError

from handlers.errors import RenderBroken, RenderRefused
from handlers.render.foreign_answers import Service, page_fault
from handlers.render.http.requests import Answer, Request
from handlers.render.responses import fault_of, is_absent, plain_text

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

MAX_ERROR_BYTES = 8 * 2**10
"""Bytes of an error's body that are read: its text is at the beginning."""
READ_AT_ONCE_BYTES = 64 * 2**10
"""A longer answer is parsed in a thread: parsing it would block the event loop."""


class Reader(Protocol[T_co]):
    """A parser of answer bodies."""

    def validate_json(self, body: bytes, /) -> T_co:
        """Return the record. Raises pydantic.ValidationError or msgspec.DecodeError."""


async def read_answer(kind: Reader[T], body: bytes, request: Request) -> T:
    """Return the body as a record. A long body is parsed in a thread.

    Raises
    ------
    RenderBroken
        If the body is not such a record. The fault names the first invalid field.
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


async def answer_of(request: Request, response: ClientResponse, service: Service) -> Answer:
    """Return the answer, or raise the fault that it means."""
    if response.status < 300 and response.content_type == "text/html":
        text = plain_text(await _beginning(response, MAX_ERROR_BYTES))
        raise page_fault(request.subject, request.tried, text, service)
    if response.status < 300:
        return Answer(absent=False, body=await _whole_body(request, response), text="")
    text = plain_text(await _beginning(response, MAX_ERROR_BYTES))
    if is_absent(response.status, response.content_type):
        return Answer(absent=True, body=b"", text=text)
    location = response.headers.get("Location", "")
    raise fault_of(request.subject, request.tried, response.status, response.content_type, text, service, location)


async def _whole_body(request: Request, response: ClientResponse) -> bytes:
    """Return the body. Raises RenderRefused as soon as it exceeds the limit of the request."""
    limit, pieces = request.limit, []
    length = values = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        values += piece.count(b",")
        if length > limit.max_bytes or values > limit.max_values:
            too_long = f"is longer than {limit.max_bytes // 2**20} MiB"
            too_many = f"holds more than {limit.max_values:,} values"
            exceeded = too_long if length > limit.max_bytes else too_many
            hint = "check that this is a render-ws"
            raise RenderRefused(request.subject, f"tried to {request.tried}, and the answer {exceeded}", hint)
    return b"".join(pieces)


async def _beginning(response: ClientResponse, max_bytes: int) -> bytes:
    """Return the first bytes of a body. Reads in a loop, since one read may return a single TCP segment."""
    pieces: list[bytes] = []
    length = 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        length += len(piece)
        if length > max_bytes:
            break
    return b"".join(pieces)[:max_bytes]
