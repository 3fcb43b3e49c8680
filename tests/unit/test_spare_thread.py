"""Blocking work in its own thread: its outcome, and the end of the process, which does not wait for the work."""

import subprocess
import sys
from pathlib import Path

import pytest

from handlers.workers.cluster.spare_thread import in_spare_thread

HANGING = """
import asyncio, time
from handlers.workers.cluster.spare_thread import in_spare_thread

async def main():
    try:
        async with asyncio.timeout(0.1):
            await in_spare_thread(time.sleep, 1e6)
    except TimeoutError:
        print("timed out")

asyncio.run(main())
"""


async def test_the_result_of_the_work_is_returned_and_its_exception_is_raised() -> None:
    assert await in_spare_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_spare_thread(divmod, 7, 0)


def test_work_that_never_ends_does_not_delay_the_end_of_the_process() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", HANGING], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "timed out\n", "")
