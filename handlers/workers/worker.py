"""A worker process: its start, its jobs and its end.

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
from multiprocessing import connection, popen_forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handlers.workers.fork_server import start_server, starting_workers
from handlers.workers.memory import limit_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from handlers.mipmaps.job import MipmapJob
    from handlers.mipmaps.report import MipmapReport

T = TypeVar("T")

NICENESS = 5
"""Added to the niceness of the parent process, so that its event loop has priority on a busy machine."""
LOWEST_PRIORITY = 19
"""Niceness of jobs of `run_politely`."""
NOTE_BYTES = 512
"""Bytes for the tile id of a worker's job; a longer id is truncated."""
UNKNOWN_EXIT = 255
"""Exit code that multiprocessing reports for a process whose end it did not see."""
OOM_SCORE = 500
"""Makes the kernel kill a worker, and not the daemon, when memory runs out."""


@dataclass(frozen=True, slots=True)
class WorkerDeath:
    """A worker process that died."""

    tile_id: str
    """The tile that the worker was making; empty if it had none."""
    how: str
    """Signal or exit code, as in "signal SIGKILL"; empty if it is not known."""


class _Exit(popen_forkserver.Popen):
    """Reads the exit status of a process. No other thread can ask while the status is read and not yet stored."""

    def __init__(self, process: Any) -> None:
        self.reading = threading.Lock()
        super().__init__(process)

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit status; None if the process runs. Without the flag, wait for its end."""
        if flag != os.WNOHANG and self.returncode is None:
            connection.wait([self.sentinel])
        with self.reading:
            return super().poll(os.WNOHANG)

    def runs(self) -> bool:
        """Whether the process has not ended. Does not read its status."""
        with self.reading:
            return self.returncode is None and not connection.wait([self.sentinel], 0)


class WorkerProcess(ForkServerProcess):
    """A process forked from the fork server, which has imported only the modules that workers need."""

    tile_note: Any
    """Shared memory in which the worker writes the tile id of its job; it survives the worker."""
    was_killed_here = False
    """Whether this process killed the worker. False if the worker died by itself or was killed from outside."""

    @staticmethod
    def _Popen(process: Any) -> _Exit:  # noqa: N802  the name that multiprocessing calls
        return _Exit(process)

    def start(self) -> None:
        """Start the process, and the fork server if there is none. Both block the signals NOT_FOR_WORKERS."""
        start_server()
        with starting_workers():
            super().start()

    def terminate(self) -> None:
        """Kill the process. A broken pool calls this for its other workers, in which SIGTERM is blocked."""
        self.kill()

    def kill(self) -> None:
        """Kill the process, and remember that it was killed here if it still runs. Does not read its exit status."""
        if _has_bytes(self.sentinel):
            return  # the exit status is in the pipe: the server has reaped the process, and its pid may be reused
        if self._popen.runs():  # type: ignore[attr-defined]
            self.was_killed_here = True
        super().kill()

    def death(self) -> "WorkerDeath | None":
        """Return the death of the worker; None if it runs, ended normally, or was killed by this process."""
        code = self.exitcode
        if not code or self.was_killed_here:
            return None
        return WorkerDeath(self.tile_note.value.decode("utf-8", "replace"), _exit_text(code))


class WorkerContext(ForkServerContext):
    """Multiprocessing context that creates worker processes and remembers them."""

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

        Reads no exit status: a status can be read only once, and the executor's thread reads it.
        """
        for process in self.started:
            if process.pid is not None:
                process.kill()


def run_with_tile_note(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Run a job in a worker. While it runs, the worker's note contains the tile id of its first argument."""
    _set_note(getattr(args[0], "tile_id", "") if args else "")
    try:
        return fn(*args, **kwargs)
    finally:
        _set_note("")


def make_mipmaps(job: "MipmapJob") -> "MipmapReport":
    """Call `handlers.mipmaps.make.make_mipmaps`, imported at the first call: a process that submits jobs skips it."""
    return _maker()(job)


@functools.cache
def _maker() -> "Callable[[MipmapJob], MipmapReport]":
    from handlers.mipmaps.make import make_mipmaps

    return make_mipmaps


def run_politely(fn: Callable[[Any], T], job: Any) -> T:
    """Return `fn(job)`, run at the lowest priority, so that it does not delay tiles.

    On Linux each thread has its own priority, which a process without privileges can only lower. So the job runs in a
    separate thread, and the worker keeps its priority for the next job.
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
    except BaseException as error:  # noqa: BLE001  raised in the thread that waits
        result.set_exception(error)


_note: Any = None
"""Note of this worker's job; None in a process that is not a worker."""
_all_submitted: "Connection"
"""End of a pipe, whose other end is closed when every job that occupies a worker has been submitted."""


def _run_with_note(note: Any, target: Callable[..., object], *args: Any) -> None:
    global _note  # noqa: PLW0603  set once, at the start of the process
    _note = note
    target(*args)


def _set_note(tile_id: str) -> None:
    if _note is not None:
        _note.value = tile_id.encode("utf-8", "replace")[: NOTE_BYTES - 1]


def _has_bytes(pipe: int) -> bool:
    """Whether a pipe contains bytes. Readiness does not show that: a pipe closed at its other end is ready, too."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0] > 0


def _exit_text(code: int) -> str:
    if code == UNKNOWN_EXIT:
        return ""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def begin_work(memory_bytes: int, all_submitted: "Connection") -> None:
    """Prepare a worker process: it ends with its parent, has a lower priority, and is killed first if memory runs out.

    Parameters
    ----------
    memory_bytes : address space that the jobs may add.
    all_submitted : see `occupy_worker`.
    """
    global _all_submitted  # noqa: PLW0603  set once, at the start of the process
    _all_submitted = all_submitted
    # A killed daemon cannot end its workers, which must not write at the same time as those of the next daemon.
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), name="parent watch", daemon=True).start()
    os.nice(NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_bytes(str(OOM_SCORE).encode())
    limit_memory(memory_bytes)


def occupy_worker(timeout_s: float) -> None:
    """Keep a worker busy until each worker has such a job: the pool starts a worker only if all others are busy."""
    _all_submitted.poll(timeout_s)


def _exit_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
