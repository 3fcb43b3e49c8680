"""The fork server, from which worker processes are forked: starting it, connecting to it, and ending it.

Worker processes import this module, so it imports little.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from types import ModuleType
from typing import Any

PRELOADED = ["handlers.workers.preload"]
"""Modules that the fork server imports, once for all workers."""
NOT_FOR_WORKERS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""Signals that a terminal or a service manager sends to the whole group. Only the daemon handles them."""
ENVIRONMENT = {"PYTHONSAFEPATH": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Prevents Python from importing modules from the working directory, and numpy from starting threads: each worker has
one core, and idle threads for tiny matrices take twenty times the CPU of the work."""
OF_TRACKER = {"PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker"}
"""Hides a warning about leaked semaphores, which looks like a fault in the log of a daemon that was killed."""
END_S = 3.0
"""Longest wait for the fork server to end."""
OPEN_FILES = "/proc/self/fd/"

_server: Any = forkserver._forkserver  # multiprocessing has no public interface for this
_starting = threading.Lock()
_address: list[int] = []
"""Descriptor of the server's socket file."""


def start_server() -> None:
    """Start the fork server if there is none.

    A pool does this itself. A caller that will open a pool later can start the server early, which then imports its
    modules meanwhile.
    """
    forkserver.set_forkserver_preload(PRELOADED)
    with _starting:
        with _environment(ENVIRONMENT | OF_TRACKER):
            resource_tracker.ensure_running()  # before the signals are blocked, since its start unblocks them
        with starting_workers():
            _start_without_address_file()


def _start_without_address_file() -> None:
    """Start the fork server, and delete the file of its socket: the socket can also be reached by a descriptor.

    Python would keep the file in a new temporary directory as long as this process runs, and a killed process would
    leave both. The descriptor of a dead server is replaced. The directory is also named by a descriptor: the path of a
    socket has at most 107 bytes, and TMPDIR may be longer.
    """
    config: Any = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before, address = config.get("tempdir"), _server._forkserver_address
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="temwatch-"))
        opened = os.open(directory, os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, opened)
        config["tempdir"] = f"{OPEN_FILES}{opened}"
        try:
            forkserver.ensure_running()
        finally:
            config["tempdir"] = before
        if _server._forkserver_address != address:
            _close_address()
            _address.append(os.open(_server._forkserver_address, os.O_PATH | os.O_CLOEXEC))
            _server._forkserver_address = f"{OPEN_FILES}{_address[0]}"


def _close_address() -> None:
    while _address:
        os.close(_address.pop())


def end_server() -> None:
    """End the fork server and multiprocessing's tracker of semaphores, and reap both.

    Without this call they end shortly after this process, and a service manager kills and reports leftover processes.
    Call it last: freeing a semaphore afterwards would start the tracker again.
    """
    deadline = time.monotonic() + END_S
    tracker: Any = resource_tracker._resource_tracker
    for owner, pipe, process in ((_server, "_forkserver_alive_fd", "_forkserver_pid"), (tracker, "_fd", "_pid")):
        descriptor, pid = getattr(owner, pipe), getattr(owner, process)
        if descriptor is not None and pid is not None:
            setattr(owner, pipe, None)
            setattr(owner, process, None)
            os.close(descriptor)  # both processes end when their pipe closes
            _reap(pid, deadline)
    _close_address()


def release_server() -> None:
    """Let the fork server end now, and not only with this process, whose end takes as long. Does not wait for it.

    Call it when no worker runs any more. The next pool starts another server.
    """
    if _server._forkserver_alive_fd is not None:
        os.close(_server._forkserver_alive_fd)
        _server._forkserver_alive_fd = _server._forkserver_pid = None


def _reap(pid: int, deadline: float) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Context for starting workers or the fork server."""
    with _environment(), _without_main(), _blocked():
        yield


@contextlib.contextmanager
def _blocked() -> Iterator[None]:
    """Block NOT_FOR_WORKERS in this thread; a process that the thread starts inherits the signal mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NOT_FOR_WORKERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str] = ENVIRONMENT) -> Iterator[None]:
    """Set environment variables for the processes that are started.

    Fork server and tracker run as `python -c`, which imports from the working directory first: a user who can write
    there could make the service run a `selectors.py`. multiprocessing builds this command, but Python reads the
    environment.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the main module: worker processes would import it, and thereby the whole daemon."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
