"""Blocking work that may never end: a look at a dead file server. Such a thread must not hold up the stop."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from handlers.errors import StorageFault

Result = TypeVar("Result")

ANSWER_S = 30.0
"""How long one look at a file may take: a file server that is alive answers in milliseconds."""
MANY = 2**16
"""Threads: more than there ever is work at once."""
END_S = 3.0
"""How long the end of an executor waits for work under way."""


_Piece = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads(ThreadPoolExecutor):
    """An executor whose threads hold up no exit: a thread that hangs on a dead file server is left behind.

    There is a thread for each piece of work under way, so that one that hangs takes none from the others. The
    interpreter waits for the threads of a ThreadPoolExecutor before it ends, for ever; asyncio takes no other class.

    Parameters
    ----------
    name : of the threads.
    most : threads at once; None for as many as there is work.
    """

    def __init__(self, name: str, most: int | None = None) -> None:
        super().__init__(max_workers=most or MANY, thread_name_prefix=name)  # starts no thread by itself
        self._name = name
        self._most = most
        self._queue: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._own = threading.Lock()
        self._queued = 0
        self._idle = 0
        self._started: list[threading.Thread] = []
        self._closed = False

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """The result to come. Raises RuntimeError after `shutdown`."""
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
        """Take no more work; wait `END_S` at most for what is under way."""
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
            del piece  # or its arguments live until the next one comes
            with self._own:
                self._idle += 1


def _settle(future: Future[Result], work: Callable[[], Result]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001  raised again where the future is awaited
        future.set_exception(error)


@contextlib.asynccontextmanager
async def answers_within(path: Path, *, looks: int = 0) -> AsyncIterator[None]:
    """A context for blocking work on files, in a thread, that is given up if it takes too long.

    The thread is left to itself. What it would have found is looked for again by a later attempt; once the watcher has
    seen that the directory cannot be accessed, there is none.

    Parameters
    ----------
    looks : files that are looked at one after the other; each has a tenth of a second more.

    Raises
    ------
    StorageFault
        If it takes longer.
    """
    time_s = ANSWER_S + looks / 10
    try:
        async with asyncio.timeout(time_s) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():  # the file server reported it
            raise
        problem = f"cannot be accessed: its file server does not answer for {time_s:g} s"
        raise StorageFault(str(path), problem, "see that its mount answers") from error


def in_thread(work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """Starts work in a thread of its own, which does not keep the process alive; the future gets its outcome.

    asyncio.to_thread would not do: the interpreter waits for the executor's threads before it ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.cancelled():
            outcome()

    def run() -> None:
        try:
            outcome = partial(future.set_result, work())
        except BaseException as error:  # noqa: BLE001  raised again where the future is awaited
            outcome = partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
