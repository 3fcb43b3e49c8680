"""Interface of the pool to each kind of executor: starting, ending and replacing its workers."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from handlers.workers.crew import Crew
from handlers.workers.worker import WorkerDeath

Make = Callable[[Any], Any]
"""A function of one job, which workers can import."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of executor: the functions and exception classes that the pool needs. A function may be None."""

    start: Callable[[int], Executor]
    """Starts an executor with this number of workers. Blocks until they answer; raises WorkersUnavailable."""
    end: Callable[[Executor, float], None]
    """Ends an executor; running jobs get this number of seconds."""
    is_local: bool = False
    """Whether the workers are processes of this machine, so that all of them share the cache of files."""
    broken: tuple[type[BaseException], ...] = ()
    """Exceptions of a future whose worker, or the connection to it, is lost. The pool then replaces the executor."""
    killed_by_job: tuple[type[BaseException], ...] = ()
    """Exceptions of a future whose job was on workers that died. The executor continues."""
    deaths: Callable[[Executor], list[WorkerDeath]] = lambda executor: []
    """Returns the workers that died in an executor that has ended."""
    abandon: Callable[[Executor], None] | None = None
    """Leaves an executor that has a hanging worker, after all its other jobs have ended. None: the executor is kept."""
    replace_worker: Callable[[Executor, str, Callable[[], object]], None] | None = None
    """Replaces the worker that hangs in the job with this key. First calls the last argument, which cancels the job.
    None: jobs have no keys."""
    running_s: Callable[[Executor, str], float | None] | None = None
    """Returns the seconds for which a worker has run the job with this key; None if no worker runs it. None: this is
    not known, and the executor starts jobs in the order of their submission."""
    alone: Callable[[Make], Make] | None = None
    """Returns the function that a worker calls to run a job in a separate process; it raises ProcessKilled if this
    process dies. None: the job gets an executor of its own."""
    crew: Callable[[Executor], Crew] | None = None
    """Returns the workers of an executor. None: the workers are on this machine, one for each job."""
    watch: Callable[[Executor, Callable[[str], object]], None] | None = None
    """Registers a callback. It gets the fault when the scheduler is lost, and an empty text when it answers again."""
