"""Threads for work that may never end."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.system.threads import DaemonThreads

ROOT = Path(__file__).resolve().parents[2]


def test_hanging_work_takes_no_thread_from_other_work() -> None:
    threads, release = DaemonThreads("test"), threading.Event()
    hanging = [threads.submit(release.wait) for _ in range(50)]
    assert threads.submit(lambda: 5).result(10) == 5
    release.set()
    assert all(each.result(10) for each in hanging)
    threads.shutdown()


def test_idle_threads_are_reused() -> None:
    threads = DaemonThreads("test")
    names = {threads.submit(lambda: threading.current_thread().name).result(10) for _ in range(50)}
    assert len(names) < 10
    threads.shutdown()


def test_a_single_thread_runs_work_in_order() -> None:
    threads, done = DaemonThreads("test", most=1), list[int]()
    pieces = [threads.submit(done.append, number) for number in range(100)]
    threads.shutdown()
    assert done == list(range(100))
    assert all(piece.done() for piece in pieces)


def test_the_future_raises_the_exception_of_its_work() -> None:
    threads = DaemonThreads("test")
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(10)
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(print)


def test_queued_work_is_cancelled_by_shutdown_on_request() -> None:
    threads, release = DaemonThreads("test", most=1), threading.Event()
    begun, waiting = threads.submit(release.wait), threads.submit(print)
    while not begun.running():
        pass
    threads.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert begun.result(10)
    assert waiting.cancelled()


async def test_a_cancelled_task_leaves_its_thread_running() -> None:
    release, threads = threading.Event(), DaemonThreads("test")
    asyncio.get_running_loop().set_default_executor(threads)
    task = asyncio.create_task(asyncio.to_thread(release.wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()


HANGING = """
import asyncio, threading
from daemon.system import threads
threads.END_S = 0.1

async def main():
    asyncio.get_running_loop().set_default_executor(threads.DaemonThreads("files"))
    asyncio.ensure_future(asyncio.to_thread(threading.Event().wait))
    await asyncio.sleep(0.1)

asyncio.run(main())
print("ended")
"""


def test_the_interpreter_exits_while_a_thread_hangs() -> None:
    run = subprocess.run([sys.executable, "-c", HANGING], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "ended\n", "")
