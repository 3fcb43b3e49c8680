"""Fixtures that fail a test which leaves tasks, threads or unretrieved exceptions behind."""

import asyncio
import gc
import inspect
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog.dev
from hypothesis import settings

# No test depends on how fast the machine is. HYPOTHESIS_PROFILE=thorough draws more.
settings.register_profile("temwatch", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "temwatch"))

# structlog's own format of a traceback shows the locals of each frame: half a second of CPU each.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

GRACE_S = 5.0
"""Time for a stopped thread or task to end on a busy machine."""
OF_KILLED_DASK_WORKERS = "AsyncProcess Dask Worker process"
"""Threads of a nanny whose hanging worker was killed; they end later, and so does the thread of the nanny's queue."""
KEPT_BY_DISTRIBUTED = ("IO loop", "Dask-", "Profile", "TCP-Executor")
"""Parts of the names of threads that distributed starts once for a process or a worker, and never ends."""


class _Unretrieved(logging.Handler):
    """Collect asyncio's reports of tasks and futures that are freed with an unretrieved exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reports: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reports.append(self.format(record))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test after which a thread runs on or an exception was never retrieved."""
    before = set(threading.enumerate())
    unretrieved = _Unretrieved()
    logger = logging.getLogger("asyncio")
    logger.addHandler(unretrieved)
    try:
        yield
    finally:
        gc.collect(1)
        logger.removeHandler(unretrieved)
    assert not unretrieved.reports, "\n".join(unretrieved.reports)
    assert not _left_running(before)


@pytest.fixture(autouse=True)
def async_tests_end_their_tasks(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:
    """Apply `no_task_left_behind` to async tests; other tests need no event loop."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("no_task_left_behind")


@pytest.fixture
async def no_task_left_behind() -> AsyncIterator[None]:
    """Fail an async test, its fixtures ended, if one of its tasks is not done."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # the tasks of a closed server are cancelled, and end now
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    assert not left, "\n".join(map(repr, left))


def _left_running(before: set[threading.Thread]) -> list[str]:
    deadline = time.monotonic() + GRACE_S
    while left := [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]:
        kept = KEPT_BY_DISTRIBUTED
        if any(OF_KILLED_DASK_WORKERS in thread.name for thread in left):
            kept = (*kept, OF_KILLED_DASK_WORKERS, "QueueFeederThread")
        names = [thread.name for thread in left if not any(part in thread.name for part in kept)]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.01)
    return []
