"""Threads for blocking work that may never end, such as access to a dead file server. They do not delay the exit."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from handlers.errors import StorageFault

Result = TypeVar("Result")

ANSWER_S = 30.0
"""Time-out of access to a file: a working file server answers in milliseconds."""
UNLIMITED = 2**16
"""Upper limit of threads, higher than the number of concurrent pieces of work."""
END_S = 3.0
"""Longest wait of `shutdown` for running work."""


_Piece = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """An executor of daemon threads: a thread that hangs on a dead file server does not delay the exit.

    Without `most`, each running piece of work has its own thread, so a hung thread does not block other work. This
    class extends ThreadPoolExecutor because asyncio accepts no other class as default executor. It starts its own
    threads, because the interpreter waits for the threads of a ThreadPoolExecutor before it exits.

    Parameters
    ----------
    name : prefix of the thread names.
    most : largest number of threads; None: one thread for each piece of work.
    """

    def __init__(self, name: str, most: int | None = None) -> None:
        super().__init__(max_workers=most or UNLIMITED, thread_name_prefix=name)  # starts no thread
        self._name = name
        self._most = most
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._own = threading.Lock()
        self._queued = 0
        self._idle = 0
        self._started: list[threading.Thread] = []
        self._closed = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Enqueue work; return its future. Raises RuntimeError after `shutdown`."""
        future: Future[Result] = Future()
        with self._own:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._queue.put((future, partial(fn, *args, **kwargs)))
            self._queued += 1
            if self._queued > self._idle and (self._most is None or len(self._started) < self._most):
                self._start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more work; with `wait`, wait at most `END_S` for running work."""
        with self._own:
            self._closed = True
            while cancel_futures and not self._queue.empty():
                if piece := self._queue.get():
                    piece[0].cancel()
            for _ in self._started:
                self._queue.put(None)
        deadline = time.monotonic() + END_S
        for thread in self._started if wait else ():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"{self._name} {len(self._started)}", daemon=True)
        self._started.append(thread)
        self._idle += 1
        thread.start()

    def _serve(self) -> None:
        while piece := self._queue.get():
            with self._own:
                self._queued -= 1
                self._idle -= 1
            _settle(*piece)
            del piece  # otherwise its arguments stay in memory until the next piece arrives
            with self._own:
                self._idle += 1


def _settle(future: Future[Result], work: Callable[[], Result]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  the future raises it again
        future.set_exception(error)


@contextlib.asynccontextmanager
async def access_timeout(path: object, *, accesses: int = 0) -> AsyncIterator[None]:
    """Time-out of blocking file access that runs in a thread.

    After a time-out the thread continues. The step is retried later, unless the watcher has reported by then that the
    directory cannot be accessed.

    Parameters
    ----------
    accesses : number of files accessed in turn; each adds 0.1 s to `ANSWER_S`.

    Raises
    ------
    StorageFault
        After the time-out.
    """
    time_s = ANSWER_S + accesses / 10
    try:
        async with asyncio.timeout(time_s) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():  # the file access itself raised it
            raise
        problem = f"cannot be accessed: its file server has not answered for {time_s:g} s"
        raise StorageFault(str(path), problem, "check that its mount answers") from error


def in_thread(work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """Run work in a new daemon thread; return the future of its outcome.

    asyncio.to_thread is unsuitable: the interpreter waits for the executor's threads before it exits.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.cancelled():
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, work())
        except BaseException as error:  # noqa: BLE001  the future raises it again
            outcome = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for the outcome
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
