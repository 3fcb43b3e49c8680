"""Errors as JSON with one sentence, and as one line in the log."""

import logging
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn HTTP errors into JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_answer(error.status, error.reason)


def wants_html(request: web.Request) -> bool:
    """Whether a browser asks for a page."""
    return "text/html" in request.headers.get("Accept", "") and "/api/" not in request.path


def errors_as_pages(page: Callable[[web.Request, int, str], Awaitable[web.StreamResponse]]) -> Middleware:
    """Return a middleware that shows the errors of pages as pages.

    Parameters
    ----------
    page : makes the page from the status and one sentence.
    """

    @web.middleware
    async def show(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            if error.status < 400 or not wants_html(request):
                raise
            return await page(request, error.status, error.reason)

    return show


def error_answer(status: int, text: str) -> web.Response:
    """Return the answer for an error."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": text}, status=status, headers=headers)


def log_in_one_line(record: logging.LogRecord) -> bool:
    """Remove the traceback from a record about an invalid HTTP request or a lost connection."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | ConnectionError):
        reason = " ".join((error.message if isinstance(error, HttpProcessingError) else str(error)).split()[:12])
        record.msg, record.args = "http.refused: %s, from %s", (reason, *(record.args or ("unknown",)))[:2]
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
    return True
