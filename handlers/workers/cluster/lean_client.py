"""dask's client, with what its scheduler would keep of each task for ever left out. Imported once dask is needed."""

import asyncio
from typing import Any

from distributed import Client
from distributed.client import AllExit


class LeanClient(Client):
    """Client of a scheduler whose memory stays flat over millions of tasks."""

    def _graph_to_futures(self, *arguments: Any, **options: Any) -> Any:
        # The scheduler appends this to a list of its own for each task, and deletes none: 0.3 kB a task.
        if "span_metadata" in options:
            options["span_metadata"] = {"collections": []}
        return super()._graph_to_futures(*arguments, **options)  # type: ignore[no-untyped-call]


def drop_quiet_end(loop: Any, context: dict[str, Any]) -> None:
    """Handle an exception that nobody on the loop retrieved, as asyncio does, except two that are no faults."""
    if not _is_quiet(context.get("exception"), context.get("future")):
        loop.default_exception_handler(context)


def _is_quiet(error: object, future: object) -> bool:
    # A gather that is cancelled leaves dask's signal to itself behind in the task that waited for the future.
    if isinstance(error, AllExit):
        return True
    # The time limit of a connection that was given up before: tornado ends it later, and nobody waits for it.
    return isinstance(error, TimeoutError) and str(error) == "Timeout" and not isinstance(future, asyncio.Task)
