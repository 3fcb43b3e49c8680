"""Start, work and end of a worker process.

Worker processes import this module, so it imports little.
"""

import array
import contextlib
import fcntl
import functools
import multiprocessing
import os
import signal
import termios
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handlers.workers.fork_server import start_server, starting_workers
from handlers.workers.memory import limit_memory

if TYPE_CHECKING:
    from multiprocessing.synchronize import Semaphore

    from handlers.mipmaps.job import MipmapJob
    from handlers.mipmaps.report import MipmapReport

T = TypeVar("T")

NICENESS = 5
"""Added to the niceness of the parent process, whose event loop comes first on a busy machine."""
LOWEST_PRIORITY = 19
"""Niceness of polite jobs."""
NOTE_BYTES = 512
"""Bytes for the tile id of a worker's job; a longer id is cut."""
UNKNOWN_EXIT = 255
"""Exit code that multiprocessing reports for a process whose end it did not see."""
OOM_SCORE = 500
"""Makes the kernel kill a worker, not the daemon, when memory runs out."""


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """A worker process that died."""

    tile_id: str
    """The tile that the worker had; empty if it had none."""
    how: str
    """As in "signal SIGKILL"; empty if it is not known."""


class WorkerProcess(ForkServerProcess):
    """A process forked from the fork server, which has imported what workers need and nothing else."""

    tile_note: Any
    """Shared memory in which the worker keeps the tile id of its job; it survives the worker."""
    was_killed_here = False
    """Whether this process killed it; a worker that died by itself, or was killed from outside, has False."""

    def start(self) -> None:
        """Start the process, and the fork server if there is none; both block the daemon's signals."""
        start_server()
        with starting_workers():
            super().start()

    def terminate(self) -> None:
        """Kill the process: SIGTERM, by which a broken pool ends its other workers, is blocked."""
        self.kill()

    def kill(self) -> None:
        """Kill the process, and remember that if it still runs. Does not read its exit status."""
        if _has_bytes(self.sentinel):
            return  # its exit status: the server has reaped it, and another process may have its number now
        # The pipe is ready from the end of the process on, but for a moment after another thread read the status.
        popen: Any = self._popen  # type: ignore[attr-defined]
        if not connection.wait([self.sentinel], 0) and popen.returncode is None:
            self.was_killed_here = True
        super().kill()

    def death(self) -> "WorkerDeath | None":
        """Return how the worker died; None if it runs, ended in order, or was killed by this process."""
        code = self.exitcode
        if not code or self.was_killed_here:
            return None
        return WorkerDeath(self.tile_note.value.decode("utf-8", "replace"), _exit_text(code))


class WorkerContext(ForkServerContext):
    """Multiprocessing context that makes worker processes, and remembers them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[WorkerProcess] = []

    def Process(self, *args: Any, **kwargs: Any) -> WorkerProcess:  # type: ignore[override]  # noqa: N802  the name that executors call
        """Return a worker process that is not started yet."""
        note = self.RawArray("c", NOTE_BYTES)
        kwargs |= {"target": _run_with_note, "args": (note, kwargs["target"], *kwargs["args"])}
        process = WorkerProcess(*args, **kwargs)
        process.tile_note = note
        self.started.append(process)
        return process

    def kill(self) -> None:
        """Kill every process of this context that is not known to have ended.

        Reads no exit status: the executor's thread does, and a status can be read only once.
        """
        for process in self.started:
            if process.pid is not None:
                process.kill()


def run_with_tile_note(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a job in a worker. While it runs, the tile id of its first argument is in the note of the worker."""
    _take_note(getattr(args[0], "tile_id", "") if args else "")
    try:
        return fn(*args, **kwargs)
    finally:
        _take_note("")


def make_mipmaps(job: "MipmapJob") -> "MipmapReport":
    """Do `handlers.mipmaps.make.make_mipmaps`: a process that only submits jobs does not import what it needs."""
    return _maker()(job)


@functools.cache
def _maker() -> "Callable[[MipmapJob], MipmapReport]":
    from handlers.mipmaps.make import make_mipmaps

    return make_mipmaps


def run_politely(fn: Callable[[Any], T], job: Any) -> T:
    """Return `fn(job)`, run at the lowest priority: work that a person waits for, but that no tile has to wait for.

    Linux gives each thread a priority of its own, and a process without privileges can only lower one. So the job runs
    in a thread, and the worker keeps its priority for the next job.
    """
    result: Future[T] = Future()
    thread = threading.Thread(target=_run_last, args=(result, fn, job), name="polite job")
    thread.start()
    thread.join()
    return result.result()


def _run_last(result: "Future[T]", fn: Callable[[Any], T], job: Any) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
        result.set_result(fn(job))
    except BaseException as error:  # noqa: BLE001  it is raised in the worker's own thread
        result.set_exception(error)


_note: Any = None
"""Note of this worker's job; None in processes that are no worker."""
_all_submitted: "Semaphore"
"""Gets one release for each job that occupies a worker, once all are submitted."""


def _run_with_note(note: Any, target: Callable[..., object], *args: Any) -> None:
    global _note  # noqa: PLW0603  set once, at the start of the process
    _note = note
    target(*args)


def _take_note(tile_id: str) -> None:
    if _note is not None:
        _note.value = tile_id.encode("utf-8", "replace")[: NOTE_BYTES - 1]


def _has_bytes(pipe: int) -> bool:
    """Whether a pipe holds bytes. One that is closed at its other end is ready as well: the server may be dead."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0] > 0


def _exit_text(code: int) -> str:
    if code == UNKNOWN_EXIT:
        return ""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def begin_work(memory_bytes: int, all_submitted: "Semaphore") -> None:
    """Prepare a worker process: it ends with its parent, gives way to it, and is killed first when memory runs out.

    Parameters
    ----------
    memory_bytes : address space that its jobs may take.
    all_submitted : see `occupy_worker`.
    """
    global _all_submitted  # noqa: PLW0603  set once, at the start of the process
    _all_submitted = all_submitted
    # A killed daemon cannot end its workers; they must not write beside the workers of the next daemon.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), name="parent watch", daemon=True).start()
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(str(OOM_SCORE).encode())
    limit_memory(memory_bytes)


def occupy_worker(timeout_s: float) -> None:
    """Keep a worker busy until each worker has such a job: the pool starts a worker only if all others are busy."""
    _all_submitted.acquire(timeout=timeout_s)


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
