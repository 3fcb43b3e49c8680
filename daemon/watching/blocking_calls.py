"""Run calls that a dead file server may block forever: one at a time for each root, each in its own thread."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import structlog

from daemon.system.threads import Result, in_thread
from daemon.watching.root import RootScanner
from daemon.watching.roots import Reason
from handlers.text import printable

log = structlog.get_logger()

_MIN_WAIT_S = 0.05


class RootCalls:
    """Runs the methods of one scanner in threads, and detects a call without progress.

    Parameters
    ----------
    name : name of the root.
    limit_s : a call without progress for this long is stuck. May be changed.
    stop_s : longest wait of `end` for the running call, and again for closing the scanner.
    on_wait : called when a call ends and, before that, whenever `limit_s` may have passed.
    """

    def __init__(
        self, name: str, scanner: RootScanner, *, limit_s: float, stop_s: float, on_wait: Callable[[], None]
    ) -> None:
        self.limit_s = limit_s
        self._name = name
        self._scanner = scanner
        self._stop_s = stop_s
        self._on_wait = on_wait
        self._call: asyncio.Future[object] | None = None
        self._began = 0.0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a method of the scanner in a thread after the previous call has ended; return its result.

        If this is cancelled, the thread continues and `end` waits for it.
        """
        await self._wait()
        call = in_thread(partial(self._scanner.run_and_release, work), f"scan {self._name}")
        self._call, self._began = call, time.monotonic()  # type: ignore[assignment]
        await self._wait()
        return call.result()

    async def _wait(self) -> None:
        while self._call is not None and not self._call.done():
            await asyncio.wait([self._call], timeout=max(_MIN_WAIT_S, self.limit_s - self._idle_s()))
            self._on_wait()

    async def end(self) -> None:
        """End the running call, then close the scanner. A second call does nothing."""
        if self._scanner.tree.stop.is_set():
            return
        self._scanner.tree.stop.set()
        if self._call is not None and not self._call.done():
            await asyncio.wait([self._call], timeout=self._stop_s)
            if not self._call.done():
                where = printable(self._scanner.tree.current)
                log.warning("watch.thread_abandoned", watch=self._name, directory=where)
                return  # the thread still uses the scanner; `run_and_release` closes it when the call returns
        closing = in_thread(self._scanner.close, f"close {self._name}")
        await asyncio.wait([closing], timeout=self._stop_s)

    def stuck(self) -> Reason | None:
        """Return why the running call counts as stuck; None if it does not."""
        idle_s = self._idle_s()
        if not self._is_running() or idle_s < self.limit_s:
            return None
        where = printable(self._scanner.tree.current)
        return Reason("stuck", f"{where} has not answered for {idle_s:.0f} s: check that its file server is up")

    def _is_running(self) -> bool:
        return self._call is not None and not self._call.done()

    def _idle_s(self) -> float:
        """Return the seconds since the running call began its last directory."""
        return time.monotonic() - max(self._began, self._scanner.tree.moved_at)
