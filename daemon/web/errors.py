"""Report errors as JSON with one sentence, and as one line in the log."""

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

LOG_EVERY_S = 60.0
"""Shortest time between two log lines about refused requests."""


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Middleware that returns HTTP errors as JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_answer(error.status, error.reason)


def wants_html(request: web.Request) -> bool:
    """Whether the request is a browser's request for a page."""
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
        except ConnectionError:
            raise
        except Exception as error:  # a bug; for programs the server logs it and responds in JSON
            if not wants_html(request):
                raise
            request.protocol.log_exception("Error handling request from %s", request.remote, exc_info=error)
            return await page(request, 500, "")

    return show


def error_answer(status: int, text: str) -> web.Response:
    """Return the response to an invalid or failed request."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return web.json_response({"error": text}, status=status, headers=headers)


class Refusals(logging.Filter):
    """Logs invalid HTTP requests and lost connections as at most one line a minute, without tracebacks.

    Clients determine their number, so they must not fill the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged_at = -LOG_EVERY_S
        self._unlogged = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is logged; see logging.Filter."""
        error = record.exc_info[1] if record.exc_info else None
        if not _is_by_the_client(error):
            return True
        now = time.monotonic()
        if now - self._logged_at < LOG_EVERY_S:
            self._unlogged += 1
            return False
        reason = " ".join((error.message if isinstance(error, HttpProcessingError) else str(error)).split()[:12])
        more = f"; {self._unlogged} more before" if self._unlogged else ""
        self._logged_at, self._unlogged = now, 0
        peer, *_ = record.args if isinstance(record.args, tuple) and record.args else ("unknown",)
        record.msg, record.args = "http.refused: %s, from %s%s", (reason, peer, more)
        record.exc_info, record.levelno, record.levelname = None, logging.WARNING, "WARNING"
        return True


def _is_by_the_client(error: BaseException | None) -> bool:
    # aiohttp reports a connection that closes while it discards a body as a RuntimeError.
    is_closed = isinstance(error, RuntimeError) and str(error) == "Connection closed."
    return is_closed or isinstance(error, HttpProcessingError | ConnectionError)


def log_refusals(logger: logging.Logger) -> None:
    """Add the filter to a logger of the server, replacing the filter of an earlier server."""
    for former in [each for each in logger.filters if isinstance(each, Refusals)]:
        logger.removeFilter(former)
    logger.addFilter(Refusals())
