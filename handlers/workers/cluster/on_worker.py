"""Code that runs in the workers of a dask scheduler.

Workers import this module, so it imports little. The scheduler imports no module of temwatch: see `Call`.
"""

import asyncio
import contextlib
import os
import pickle
import platform
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from handlers.stores.temporary import machine, remove_left
from handlers.workers.cluster.access import WorkerPath
from handlers.workers.cluster.path_map import HostPaths, of_host
from handlers.workers.cluster.shared_directories import Proof, Task, prove
from handlers.workers.cluster.spare_thread import in_spare_thread
from handlers.workers.memory import JobLimit

METRIC = "temwatch"
"""Key of the metric that a worker sends with each heartbeat: its running jobs, each with its seconds."""
PROOF_TIMEOUT_S = 20.0
"""Longest time for a proof. A read from a dead mount never returns."""
_PACKAGES = ("temwatch", "distributed")

_limit = JobLimit()
_running: dict[str, float] = {}
"""Key of each job in this process -> time of its start; jobs of all daemons."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of a job."""

    result: Any = None
    error: Exception | None = None
    """Exception of the job."""
    worker: str = ""
    """Address of the worker."""


class Call:
    """A job that runs when it is unpickled.

    The scheduler unpickles the tasks that it gets. The task `pickle.loads(payload)` can be unpickled without temwatch
    and by any version of Python; the payload, which contains the job, is unpickled only by the worker.
    """

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Answer], tuple[Any, ...]]:
        """Return the function that is called instead of making a `Call`, and its arguments."""
        return perform, self._arguments


def payload_of(call: "Work", function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """Return a job as bytes. Workers must be able to import `function` and the classes of its arguments."""
    return pickle.dumps(Call(call, function, arguments))


@dataclass(frozen=True, slots=True)
class Work:
    """Values that every job needs beside its function."""

    key: str
    memory_bytes: int
    """Address space that the job may add to that of its worker."""
    submitter: str
    """The process that submitted the job. A worker in this process sets no limit, which would limit the submitter."""
    paths: tuple[WorkerPath, ...]


def perform(work: Work, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Answer:
    """Do a job in a worker."""
    paths = paths_here(work.paths)
    with _noted(work.key):
        try:
            arguments = tuple(paths.job_to_worker(each) for each in arguments)
            with _limit.added(work.memory_bytes) if work.submitter != this_process() else contextlib.nullcontext():
                return Answer(paths.report_to_local(function(*arguments)), worker=_address())
        except Exception as error:  # noqa: BLE001  the daemon raises it in the task that awaits the job
            return Answer(error=_portable(error), worker=_address())


def _address() -> str:
    from distributed import get_worker

    return str(get_worker().address)


def _portable(error: Exception) -> Exception:
    """Return the exception, or a RuntimeError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    except Exception:  # noqa: BLE001  whatever its methods raise
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error.with_traceback(None)


@contextlib.contextmanager
def _noted(key: str) -> Iterator[None]:
    _running[key] = time.monotonic()
    try:
        yield
    finally:
        _running.pop(key, None)


def running_jobs(_worker: Any = None) -> dict[str, float]:
    """Return the seconds for which each job in this process has run, by its key."""
    now = time.monotonic()
    return {key: now - began for key, began in dict(_running).items()}


def this_process() -> str:
    """Return a name of this process that no other process has now, on any machine."""
    return f"{socket.gethostname()}:{os.getpid()}"


def paths_here(entries: tuple[WorkerPath, ...]) -> HostPaths:
    """Return the paths of this host."""
    name = socket.gethostname()
    return of_host(entries, (name, name.partition(".")[0])) if entries else HostPaths()


@dataclass(frozen=True, slots=True)
class Introduction:
    """A worker's description of itself."""

    host: str
    machine: str
    """Name of the machine in the names of temporary files."""
    versions: dict[str, str]
    proofs: tuple[Proof, ...]
    """One proof for each task, in their order."""


def versions_here() -> dict[str, str]:
    """Return the versions of Python and of the packages that the daemon and its workers share."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


async def introduce(tasks: tuple[Task, ...], paths: tuple[WorkerPath, ...], dask_worker: Any) -> Introduction:
    """Return the worker's identity and its proofs. Runs in the event loop of the worker, beside its jobs."""
    dask_worker.metrics[METRIC] = running_jobs
    name = f"{re.sub('[^A-Za-z0-9.-]', '_', socket.gethostname())}-{os.getpid()}-{os.urandom(4).hex()}"
    here = paths_here(paths)
    proofs = await asyncio.gather(*(_prove(task, here, name) for task in tasks))
    return Introduction(socket.gethostname(), machine(), versions_here(), tuple(proofs))


async def _prove(task: Task, paths: HostPaths, name: str) -> Proof:
    """Return a proof, even if a mount does not answer. The paths of the result are those of the daemon."""
    try:
        async with asyncio.timeout(PROOF_TIMEOUT_S):
            proof = await in_spare_thread(_found, task, paths, name)
    except TimeoutError:
        seen = paths.job_to_worker(task).ground
        return Proof(f"{seen.images} or {seen.output} has not answered for {PROOF_TIMEOUT_S:g} s")
    reply = paths.to_local(proof.reply) if proof.reply else None
    return replace(proof, reply=reply)


async def remove_left_here(files: tuple[Path, ...], paths: tuple[WorkerPath, ...]) -> None:
    """Remove the temporary files whose writers were processes of this machine and are dead."""
    here = paths_here(paths)
    await in_spare_thread(remove_left, [str(here.to_worker(path)) for path in files])


def _found(task: Task, paths: HostPaths, name: str) -> Proof:
    try:
        return prove(paths.job_to_worker(task), name)
    except Exception as error:  # noqa: BLE001  the daemon reports its text
        return Proof(f"{type(error).__name__}: {error}")
