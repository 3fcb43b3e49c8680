"""The log: one stream, one format for structlog, logging and warnings."""

import io
import logging
import re
import sys
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from handlers.uris import without_userinfo

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Stands in a path for a byte that is not UTF-8, as os.fsdecode gives it."""
_QUIET = ("aiohttp.access", "asyncio", "watchdog", "PIL")
"""Loggers of libraries of which only warnings are written."""


def set_up_logging(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Write the records of structlog and logging, and Python's warnings, to one stream in one format.

    Parameters
    ----------
    level : debug, info, warning or error: the lowest severity that is written.
    format : "json": one object per line. "console": lines for people. "auto": "console" on a terminal, else "json".
    stream : None: standard output.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # in every locale
    readable = format == "console" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_facts(), _name_library],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_form(stream, readable=readable)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_facts(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _facts() -> list[Processor]:
    """Return the processors that add bound context, severity and time (UTC) to every record."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _name_library(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the name of the logger to a library's record."""
    return {**event, "logger": event["_record"].name}


def _form(stream: TextIO, *, readable: bool) -> list[Processor]:
    if readable:
        console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), timestamp_key="time")
        return [_spare_stack, console, partial(_printable, backslash="\\")]
    return [
        structlog.processors.format_exc_info,
        _what_first,
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        partial(_printable, backslash="\\\\"),  # inside a JSON string a backslash is written twice
    ]


def _printable(_logger: Any, _method: str, line: str, *, backslash: str) -> str:
    """Remove passwords of URLs from a line, and escape bytes of paths that are not UTF-8, as `\\xe9`."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"{backslash}x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"{backslash}u{code:04x}"

    return without_userinfo(_SURROGATE.sub(escape, line))


def _spare_stack(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """The record with its render-ws stack under another key: the console takes `stack` for a call stack."""
    return {("stack_id" if key == "stack" else key): value for key, value in event.items()}


def _what_first(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """When, how severe and what, before the facts."""
    return {key: event[key] for key in ("time", "level", "event")} | dict(event)
