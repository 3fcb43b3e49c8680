"""What a worker process is: how it starts, what it lets in, and when it ends.

Worker processes import this module, so it imports little.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

PRELOADED = ["handlers.mipmaps.make", "handlers.workers.worker"]
"""Imported once, by the process that the workers are forked from."""
NOT_FOR_WORKERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Sent to the whole group by a terminal or a service manager; the daemon decides what becomes of the jobs."""
END_S = 3.0
"""For the server of workers to end."""
OOM_SCORE = 500
"""Where memory runs out the kernel is to take a worker, not the daemon."""


class WorkerProcess(ForkServerProcess):
    """A process forked from a small server, which has imported what workers need and nothing else."""

    def start(self) -> None:
        """Starts it, and the server where there is none yet, both deaf to the signals that are for the daemon."""
        resource_tracker.ensure_running()  # first: starting it unblocks signals
        with _without_main(), _blocked():
            super().start()

    def terminate(self) -> None:
        """Kills it: SIGTERM is blocked, and a pool that broke ends its other workers by it."""
        self.kill()


def start_server() -> None:
    """Starts the server that worker processes are forked from, where there is none yet.

    A pool does that itself; who knows that there will be one can have the server import what workers need meanwhile.
    """
    resource_tracker.ensure_running()  # first: starting it unblocks signals
    forkserver.set_forkserver_preload(PRELOADED)
    with _without_main(), _blocked():
        forkserver.ensure_running()


def end_server() -> None:
    """End the server that workers are forked from, and multiprocessing's tracker of semaphores.

    They end by themselves a moment after this process. A service manager that looks in between would kill them, and
    tell of it. Called last: whoever frees a semaphore afterwards starts the tracker again.
    """
    deadline = time.monotonic() + END_S
    server: Any = forkserver._forkserver  # multiprocessing has no public way
    tracker: Any = resource_tracker._resource_tracker
    for owner, pipe, process in ((server, "_forkserver_alive_fd", "_forkserver_pid"), (tracker, "_fd", "_pid")):
        descriptor, pid = getattr(owner, pipe), getattr(owner, process)
        if descriptor is not None and pid is not None:
            setattr(owner, pipe, None)
            setattr(owner, process, None)
            os.close(descriptor)  # by which it knows that it is to end
            _reap(pid, deadline)


def _reap(pid: int, deadline: float) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)


class WorkerContext(ForkServerContext):
    """Makes worker processes, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[WorkerProcess] = []
        self.set_forkserver_preload(PRELOADED)

    def Process(self, *args: Any, **kwargs: Any) -> WorkerProcess:  # type: ignore[override]  # noqa: N802  the name that executors call
        """A worker process, not started yet."""
        process = WorkerProcess(*args, **kwargs)
        self.started.append(process)
        return process

    def kill(self) -> None:
        """Kills every process made here that has not been seen to end.

        Does not look: the executor's thread does, and an exit status can be read only once.
        """
        for process in self.started:
            if process.pid is not None:
                process.kill()


def begin_work(niceness: int) -> None:
    """First thing that a worker process does.

    Parameters
    ----------
    niceness : added to that of the daemon, so that its loop comes first.
    """
    # A daemon that is killed cannot end its workers; they must not go on writing beside those of the next one.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), name="parent watch", daemon=True).start()
    os.nice(niceness)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE), encoding="ascii")


def linger(seconds: float) -> None:
    """Keeps a worker process busy until its fellows have started, too."""
    time.sleep(seconds)


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Blocks the signals that are not for workers, in this thread, and so in what it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hides the main module: worker processes would import it, and the whole daemon with it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
