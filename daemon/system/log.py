"""The log: one stream, one format for structlog, logging and warnings."""

import io
import logging
import re
import sys
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from daemon.system.log_lines import arranged, console_line, safe_facts
from daemon.system.terminal import width_of
from handlers.text import shorten

_QUIET = ("aiohttp.access", "asyncio", "watchdog", "PIL")
"""Loggers of libraries: their records below WARNING are dropped."""
_CLUSTER = ("distributed", "tornado", "dask")
"""Loggers and packages of dask. Each record becomes one line. A filter drops records below WARNING, since dask sets the
levels of its loggers itself when it is imported."""
_WARNING_OF_CLUSTER = re.compile(
    rf"[^\n]*/(?P<package>{'|'.join(_CLUSTER)})/[^\n]*?\.py:\d+: (?P<warning>.+)", re.DOTALL
)
"""Text of a record with a Python warning from a module of dask."""
_MAX_PROBLEM = 500
_SILENT = ("apprise", "requests", "urllib3")
"""Loggers of the libraries that send alerts. They are switched off: their records contain addresses with secrets."""


def set_up_logging(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Write the records of structlog and logging, and Python's warnings, to one stream in one format.

    Parameters
    ----------
    level : lowest severity that is written: debug, info, warning or error.
    format : "json": one object per line. "console": readable lines. "auto": "console" on a terminal, else "json".
    stream : None: standard output.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # in every locale
    readable = format == "console" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_facts(), _name_library, _fold_cluster],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_form(stream, readable=readable)],
        )
    )
    handler.addFilter(_is_wanted)
    handler.addFilter(_name_warning)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in _SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
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


def _is_of_cluster(name: str) -> bool:
    return name.partition(".")[0] in _CLUSTER


def _is_wanted(record: logging.LogRecord) -> bool:
    if not _is_of_cluster(record.name):
        return True
    error = record.exc_info[1] if record.exc_info else None
    is_news = type(error).__name__ != "CancelledError"  # dask cancels its own work when a connection ends
    return is_news and record.levelno >= max(logging.WARNING, logging.getLogger().level)


def _name_warning(record: logging.LogRecord) -> bool:
    """Give a warning of Python the name of the library that it comes from."""
    if record.name == "py.warnings" and (match := _WARNING_OF_CLUSTER.match(record.getMessage())):
        record.name, record.msg, record.args = f"{match['package']}.warnings", match["warning"], ()
    return True


def _fold_cluster(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Make one line of a record of dask: its first line, and the last exception in place of a traceback."""
    if not _is_of_cluster(event["_record"].name):
        return event
    message = [line for line in str(event["event"]).splitlines() if line.strip()]
    error = event.pop("exc_info", None)
    caught = error[1] if isinstance(error, tuple) else None
    text = f"{type(caught).__name__}: {caught}".rstrip(": ")
    problem = shorten(" ".join(text.split()), _MAX_PROBLEM) if caught else None
    line = shorten(message[0], _MAX_PROBLEM) if message else None
    facts = {key: value for key, value in event.items() if key not in ("event", "logger", "stack_info")}
    named = {"event": "workers.dask", "logger": f"temwatch.{event['logger']}", "note": line, "problem": problem}
    return {**facts, **named}


def _form(stream: TextIO, *, readable: bool) -> list[Processor]:
    common: list[Processor] = [structlog.processors.format_exc_info, _arrange]
    if readable:
        return [*common, partial(_console, stream=stream)]
    return [*common, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _arrange(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return arranged(safe_facts(event))


def _console(_logger: Any, _method: str, event: EventDict, *, stream: TextIO) -> str:
    return console_line(event, colours=stream.isatty(), width=width_of(stream))
