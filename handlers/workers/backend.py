"""Interface of the pool to each kind of executor: starting, ending and replacing its workers."""

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from handlers.workers.crew import Crew
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
    is_local: bool = False
    """Whether its workers are other processes of this machine: what one reads is then in the cache for all."""
    broken: tuple[type[BaseException], ...] = ()
    """Exception of a future whose worker, or the connection to it, is lost. The pool then replaces the executor."""
    killed_by_job: tuple[type[BaseException], ...] = ()
    """Exception of a future whose job was on workers that died. The executor continues."""
    deaths: Callable[[Executor], list[WorkerDeath]] = lambda executor: []
    """Returns the workers that died in an executor that has ended."""
    abandon: Callable[[Executor], None] | None = None
    """Leaves an executor that has a hanging worker, once all its other jobs have ended. None: the executor is kept."""
    replace_worker: Callable[[Executor, str, Callable[[], object]], None] | None = None
    """Replaces the worker that hangs in the job with this key. Calls the last argument, which forgets the job, first.
    None: jobs have no keys."""
    running_s: Callable[[Executor, str], float | None] | None = None
    """Returns the seconds that a worker has run the job with this key; None while none does. None: it is not known, and
    executors start jobs in the order of their submission."""
    alone: Callable[[Make], Make] | None = None
    """Returns what a worker runs so that a job has a process of its own, which raises ProcessKilled if this process
    dies. None: the job gets an executor of its own."""
    crew: Callable[[Executor], Crew] | None = None
    """Returns the workers of an executor. None: they are on this machine, one for each job."""
    watch: Callable[[Executor, Callable[[str], object]], None] | None = None
    """Has a function called with the fault when the scheduler is lost, and with an empty text when it is there."""
