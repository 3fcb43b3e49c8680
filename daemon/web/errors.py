"""Errors as JSON with one sentence, and as one line in the log."""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn HTTP errors into JSON."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return error_answer(error.status, error.reason)


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
