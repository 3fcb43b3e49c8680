"""Texts of a scenario's log."""

import traceback


def exception_text(error: BaseException | None) -> str:
    """Return the innermost exception, then the traceback."""
    innermost = error
    while isinstance(innermost, BaseExceptionGroup):
        innermost = innermost.exceptions[0]
    return f"{innermost!r}\n{''.join(traceback.format_exception(error))}"
