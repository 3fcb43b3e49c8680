"""The workers of a dask scheduler, on this machine or on others."""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from functools import partial
from typing import Any

from handlers.errors import SettingsFault, WorkersUnavailable
from handlers.workers.backend import Backend, Make
from handlers.workers.memory import JobLimit

CONNECT_TIMEOUT_S = 10.0
"""Longest wait for an answer of the scheduler."""
RESTART_TIMEOUT_S = 60.0
"""Longest wait for a nanny to restart its worker."""


_limit = JobLimit()


def run_limited(memory_bytes: int, submitter: str, make: Make, job: Any) -> Any:
    """Return the result of a job in a dask worker, with a limit of the memory that it may add to the worker's.

    Parameters
    ----------
    submitter : the process that submitted the job: a worker within it has no limit, which would be the submitter's.
    """
    if submitter == _this_process():
        return make(job)
    with _limit.added(memory_bytes):
        return make(job)


def _this_process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def dask_backend(scheduler: str | None, memory_bytes: int) -> Backend:
    """Return the backend for the workers of a dask scheduler.

    Jobs are not pure: the same job may have to run twice.

    Parameters
    ----------
    memory_bytes : address space that a job may add to its worker's.

    Raises
    ------
    SettingsFault
        If dask is not installed.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed.client import ClosedClientError
        from distributed.comm.core import CommClosedError
    except ImportError as error:
        raise SettingsFault("workers.executor", "dask is not installed", "pip install 'temwatch[dask]'") from error
    clients: dict[Executor, Any] = {}

    def start(count: int) -> Executor:
        try:
            client: Any = Client(scheduler, timeout=CONNECT_TIMEOUT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            problem = f"does not answer: {error}"
            raise WorkersUnavailable(f"dask scheduler {scheduler}", problem, "start it") from error
        executor: Executor = client.get_executor(pure=False)
        clients[executor] = client
        return executor

    def end(executor: Executor, timeout_s: float) -> None:
        executor.shutdown(wait=False)  # dask cancels unfinished jobs here
        clients.pop(executor).close()

    def replace_worker(executor: Executor, key: str, forget: Callable[[], object]) -> None:
        client = clients[executor]

        def holders() -> list[str]:
            return [address for address, keys in client.processing().items() if key in keys]

        hanging = holders()
        forget()  # before the restart: the scheduler would give the job to the next worker
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while holders() and time.monotonic() < deadline:
            time.sleep(0.05)
        # A worker without a nanny cannot be restarted; the job keeps one of its threads.
        with contextlib.suppress(ValueError, OSError):
            client.restart_workers(hanging, timeout=RESTART_TIMEOUT_S, raise_for_error=False)

    return Backend(
        start,
        end,
        in_worker=partial(partial, run_limited, memory_bytes, _this_process()),
        broken=(BrokenExecutor, ClosedClientError, CommClosedError),
        killed_by_job=(KilledWorker,),
        replace_worker=replace_worker,
    )
