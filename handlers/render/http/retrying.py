"""Sending a request again within seconds, where that is safe and may help. docs/decisions/render-client.md."""

import asyncio
from collections.abc import Awaitable, Callable

from handlers.errors import (
    AccessRefused,
    AnswerLate,
    NotRender,
    RenderBroken,
    RenderFault,
    RenderUnavailable,
    SectionDataMissing,
)
from handlers.render.http.requests import Answer, Request

QUICK_S = 5.0
"""A request whose failures took longer in total is not sent again: the caller has waited long enough."""
MAX_WAIT_S = 2.0

Send = Callable[[Request], Awaitable[Answer]]


async def sent_with_retries(send: Send, request: Request, tries: int, first_wait_s: float) -> Answer:
    """Send a request, at most `tries` times, and return its answer. Raises the last fault."""
    began = asyncio.get_running_loop().time()
    try:
        return await send(request)
    except RenderFault as fault:
        if tries == 1 or not _is_worth_retrying(fault):
            raise
        first = fault
    return await _sent_again(send, request, first, began, tries, first_wait_s)


async def _sent_again(
    send: Send, request: Request, first: RenderFault, began: float, tries: int, first_wait_s: float
) -> Answer:
    """Let tenacity go on after the first failure, as if that were the one of its own first try.

    It takes 4 % of an import command's start, and is imported only here: most commands need no retry.
    """
    from tenacity import (
        AsyncRetrying,
        retry_if_exception,
        stop_after_attempt,
        stop_after_delay,
        wait_random_exponential,
    )

    failures = [first]

    async def try_once() -> Answer:
        if failures:
            raise failures.pop()
        return await send(request)

    left_s = began + QUICK_S - asyncio.get_running_loop().time()
    retrying = AsyncRetrying(
        stop=stop_after_attempt(tries) | stop_after_delay(left_s),
        wait=wait_random_exponential(multiplier=first_wait_s, max=MAX_WAIT_S),
        retry=retry_if_exception(_is_worth_retrying),
        reraise=True,
    )
    return await retrying(try_once)


def _is_worth_retrying(error: BaseException) -> bool:
    """Return whether a retry within seconds may help. After a late answer, or one of another server, it does not."""
    retryable = RenderUnavailable | RenderBroken | SectionDataMissing
    return isinstance(error, retryable) and not isinstance(error, AnswerLate | NotRender | AccessRefused)
