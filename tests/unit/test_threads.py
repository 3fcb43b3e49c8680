"""Daemon threads for work that may never end."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.system.threads import DaemonThreads
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


def test_hanging_work_does_not_block_other_work() -> None:
    threads, release = DaemonThreads("test"), threading.Event()
    hanging = [threads.submit(release.wait) for _ in range(50)]
    assert threads.submit(lambda: 5).result(60) == 5
    release.set()
    assert all(each.result(60) for each in hanging)
    threads.shutdown()


def test_idle_threads_are_reused() -> None:
    threads, names = DaemonThreads("test"), set()
    for _ in range(50):
        names.add(threads.submit(lambda: threading.current_thread().name).result(60))
        wait_for(lambda: threads._idle == 1, "the thread waits for work")
    assert len(names) == 1
    threads.shutdown()


def test_a_single_thread_runs_work_in_order() -> None:
    threads, done = DaemonThreads("test", most=1), list[int]()
    for piece in [threads.submit(done.append, number) for number in range(100)]:
        piece.result(60)
    threads.shutdown()
    assert done == list(range(100))


def test_the_future_raises_the_exception_of_its_work() -> None:
    threads = DaemonThreads("test")
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(60)
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(print)


def test_shutdown_cancels_queued_work_on_request() -> None:
    threads, release = DaemonThreads("test", most=1), threading.Event()
    begun, waiting = threads.submit(release.wait), threads.submit(print)
    wait_for(begun.running, "the first work runs")
    threads.shutdown(wait=False, cancel_futures=True)
    release.set()
    assert begun.result(60)
    assert waiting.cancelled()


async def test_a_cancelled_task_leaves_its_thread_running() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(60)
        ended.set()

    asyncio.get_running_loop().set_default_executor(DaemonThreads("test"))
    task = asyncio.create_task(asyncio.to_thread(work))
    async with asyncio.timeout(60):
        while not begun.is_set():  # noqa: ASYNC110  the thread cannot set an asyncio.Event
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    release.set()
    assert ended.wait(60)


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
