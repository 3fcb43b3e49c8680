"""Watch for long turns of the event loop: the longest time between two of its turns.

Time is the CPU time of this process: other processes on a shared machine do not count, while code that
holds the interpreter's lock in another thread counts like code on the loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

TURN_S = 0.05
"""The longest turn that is allowed."""


@dataclass
class LoopWatch:
    """The longest turn since the watch began."""

    longest_s: float = 0.0
    turns: int = 0


@contextlib.contextmanager
def watching_the_loop(every_s: float = 0.002) -> Iterator[LoopWatch]:
    """Watch the running loop within the context."""
    watch, loop = LoopWatch(), asyncio.get_running_loop()

    def look(before_s: float) -> None:
        now_s = time.process_time()
        watch.turns += 1
        watch.longest_s = max(watch.longest_s, now_s - before_s)
        nonlocal handle
        handle = loop.call_later(every_s, look, time.process_time())

    handle = loop.call_later(every_s, look, time.process_time())
    try:
        yield watch
    finally:
        handle.cancel()
