"""dask's client, with what its scheduler would keep of each task for ever left out. Imported once dask is needed."""

import asyncio
import logging
import traceback
from typing import Any

from distributed import Client
from distributed.client import AllExit

_log = logging.getLogger("distributed.asyncio")
"""asyncio would log tracebacks, under its own name."""


class LeanClient(Client):
    """Client of a scheduler whose memory stays flat over millions of tasks."""

    def _graph_to_futures(self, *arguments: Any, **options: Any) -> Any:
        # The scheduler appends this to a list of its own for each task, and deletes none: 0.3 kB a task.
        if "span_metadata" in options:
            options["span_metadata"] = {"collections": []}
        return super()._graph_to_futures(*arguments, **options)  # type: ignore[no-untyped-call]


def report_end(loop: Any, context: dict[str, Any]) -> None:
    """Log an exception that nobody on the loop retrieved: as dask's, as our own, or not at all if it is no fault."""
    error = context.get("exception")
    if _is_quiet(error, context.get("future")):
        return
    if _is_ours(error):
        loop.default_exception_handler(context)
    else:
        _log.error("%s", context.get("message", "failed"), exc_info=error)


def _is_quiet(error: object, future: object) -> bool:
    # A gather that is cancelled leaves dask's signal to itself behind in the task that waited for the future.
    if isinstance(error, AllExit):
        return True
    # The time limit of a connection that was given up before: tornado ends it later, and nobody waits for it.
    return isinstance(error, TimeoutError) and str(error) == "Timeout" and not isinstance(future, asyncio.Task)


def _is_ours(error: object) -> bool:
    """Whether temwatch raised it."""
    frames = list(traceback.walk_tb(error.__traceback__)) if isinstance(error, BaseException) else []
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__")).startswith("handlers.")
