"""The daemon as a service: what it logs and how, and what it tells systemd."""

import contextlib
import io
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from handlers.uris import without_userinfo

_SURROGATE = re.compile("[\ud800-\udfff]")
"""Stands in a path for a byte that is not UTF-8, as os.fsdecode gives it."""
_QUIET = ("aiohttp.access", "asyncio", "watchdog", "PIL")
"""Loggers of libraries that say more than an operator wants; their warnings are let through."""


def set_up_logging(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Sends structlog's and the standard library's records, and Python's warnings, to one stream in one form.

    Parameters
    ----------
    level : debug, info, warning or error: the least severity written.
    format : "json", one object per line; "console", lines for people; "auto", the latter on a terminal alone.
    stream : standard output if left out.
    """
    stream = stream or sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the locale is
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
    """What every record carries: the context bound around it, its severity, its time (UTC)."""
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _name_library(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """A library's record, with the name of its logger."""
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
    """The line without passwords of URLs, and as UTF-8 can hold it: a byte of a path that is not UTF-8 as `\\xe9`."""

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


class SystemdNotifier:
    """Tells systemd how the service is; says nothing where systemd did not start it.

    Source: sd_notify(3).
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = address.replace("@", "\0", 1) if address.startswith("@") else address  # "@": an abstract socket
        self._socket: socket.socket | None = None
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.settimeout(1.0)  # a systemd that does not read must not stop the loop

    def ready(self) -> None:
        """The service is up, or has reloaded."""
        self._tell("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={' '.join(text.split())}")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service is on its way down."""
        self._tell("STOPPING=1")

    def watchdog(self) -> None:
        """The service is alive; systemd kills one that does not say so for WatchdogSec."""
        self._tell("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Starting or stopping takes longer: it is to be waited for these seconds from now on."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def close(self) -> None:
        """Gives the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, state: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the service goes on without systemd
                self._socket.sendto(state.encode(errors="backslashreplace"), self._address)


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd wants a sign of life; None if it wants none of this process.

    Ping twice as often. Source: sd_watchdog_enabled(3).

    >>> watchdog_interval_s({"WATCHDOG_USEC": "60000000"})
    60.0
    """
    microseconds = environ.get("WATCHDOG_USEC", "")
    meant_for = environ.get("WATCHDOG_PID", "")
    if not microseconds.isdecimal() or int(microseconds) == 0 or meant_for not in {"", str(os.getpid())}:
        return None
    return int(microseconds) / 1e6
