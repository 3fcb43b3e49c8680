"""What the pool needs from each kind of executor: starting, ending and replacing its workers."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from handlers.workers.worker import WorkerDeath

Make = Callable[[Any], Any]
"""A function of one job that workers can import."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of executor, as the functions that the pool calls."""

    start: Callable[[int], Executor]
    """Starts an executor with this number of workers. Blocks until they answer; raises WorkersUnavailable."""
    end: Callable[[Executor, float], None]
    """Ends an executor; jobs under way get this number of seconds."""
    in_worker: Callable[[Make], Make] = lambda make: make
    """Returns what a worker runs in place of a function of a job."""
    broken: tuple[type[BaseException], ...] = ()
    """What a future raises when its worker, or the connection to it, is lost. The pool then replaces the executor."""
    killed_by_job: tuple[type[BaseException], ...] = ()
    """What a future raises when its own job has killed workers. The executor goes on."""
    deaths: Callable[[Executor], list[WorkerDeath]] = lambda executor: []
    """Returns the workers that died in an executor that has ended."""
    abandon: Callable[[Executor], None] | None = None
    """Leaves an executor that has a hanging worker, once all its other jobs have ended. None: the executor is kept."""
    replace_worker: Callable[[Executor, str, Callable[[], object]], None] | None = None
    """Replaces the worker that hangs in the job with this key. Calls the last argument, which forgets the job, first.
    None: jobs have no keys."""
