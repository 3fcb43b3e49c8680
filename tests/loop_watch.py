"""Measure the longest turn of the event loop.

The time is CPU time of this process. So other processes on a shared machine do not count, but code of another thread
that holds the interpreter's lock counts like code on the loop.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

MAX_TURN_S = 0.05
"""Limit of a turn."""


@dataclass
class LoopWatch:
    """Longest turn and number of turns since the watch began."""

    longest_s: float = 0.0
    turns: int = 0


@contextlib.contextmanager
def watching_the_loop(every_s: float = 0.002) -> Iterator[LoopWatch]:
    """Watch the running loop within the context."""
    watch, loop = LoopWatch(), asyncio.get_running_loop()

    def note_turn(before_s: float) -> None:
        now_s = time.process_time()
        watch.turns += 1
        watch.longest_s = max(watch.longest_s, now_s - before_s)
        nonlocal handle
        handle = loop.call_later(every_s, note_turn, time.process_time())

    handle = loop.call_later(every_s, note_turn, time.process_time())
    try:
        yield watch
    finally:
        handle.cancel()
