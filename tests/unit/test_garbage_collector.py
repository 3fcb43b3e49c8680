"""Times of the full passes of the garbage collector."""

import asyncio
import contextlib
import gc
import subprocess
import sys
from collections.abc import Callable

from daemon.system.garbage_collector import collect_while_idle, no_full_passes


def full_passes() -> int:
    return gc.get_stats()[2]["collections"]


async def until(holds: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110  the condition has no event
            await asyncio.sleep(0.001)


def make_garbage() -> None:
    """Create so many objects that survive that an automatic full pass would run."""
    kept = [{"n": [number]} for number in range(400_000)]
    assert len(kept) == 400_000


def test_automatic_full_passes_are_disabled():
    gc.collect()
    with no_full_passes():
        before = full_passes()
        make_garbage()
        assert full_passes() == before
    assert gc.get_threshold()[2] < 100


async def test_a_full_pass_is_made_while_the_daemon_is_idle():
    idle, checks = False, 0

    def is_idle() -> bool:
        nonlocal checks
        checks += 1
        return idle

    task = asyncio.create_task(collect_while_idle(is_idle, every_s=0.001))
    await until(lambda: checks > 0)
    before = full_passes()
    await until(lambda: checks > 10)
    assert full_passes() == before
    idle = True
    await until(lambda: full_passes() > before)
    await end(task)


async def test_full_passes_also_run_in_a_daemon_that_is_never_idle():
    before = full_passes()
    task = asyncio.create_task(collect_while_idle(lambda: False, every_s=0.001, max_s=0.01))
    await until(lambda: full_passes() > before + 1)
    await end(task)
    assert gc.get_threshold()[2] < 100


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_a_command_makes_few_passes_while_it_imports_and_excludes_its_objects_from_the_last_pass():
    code = """
import atexit, gc, sys
from daemon.__main__ import main

def passes():
    return sum(generation["collections"] for generation in gc.get_stats())

before = passes()
atexit.register(lambda: print(passes() - before, len(gc.get_objects()), file=sys.stderr))
sys.argv = ["temwatch", "check-config", "--print-example"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    made, left = map(int, done.stderr.split())
    assert "[[watch]]" in done.stdout
    assert made < 10  # with Python's own thresholds, more than a hundred
    assert left < 1000  # all other objects are frozen, so the pass at exit skips them
