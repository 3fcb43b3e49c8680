"""Format log records of the one-shot commands as printable text. Does not import structlog."""

import logging

from handlers.text import printable, printable_lines


class PrintableFormatter(logging.Formatter):
    """Formats records of the standard library as printable text: the message on one line, then a traceback."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """See logging.Formatter."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return printable_lines(super().format(record))
