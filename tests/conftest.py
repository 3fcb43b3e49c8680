"""Fixtures that fail a test if it leaves running tasks or threads, or an exception that was never retrieved."""

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

from tests.environment import forget_caller
from tests.order import begin_with_longest

forget_caller(os.environ)

# Tests must not depend on the speed of the machine. HYPOTHESIS_PROFILE=thorough draws more examples; `repeatable` draws
# the same ones in each run, so that a change is judged by what it changes.
settings.register_profile("temwatch", deadline=None, max_examples=50)
settings.register_profile("thorough", settings.get_profile("temwatch"), max_examples=300)
settings.register_profile("repeatable", settings.get_profile("temwatch"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "temwatch"))

# structlog's own format shows the locals of each frame, which takes half a second of CPU for each traceback.
structlog.dev.ConsoleRenderer.get_active().exception_formatter = structlog.dev.plain_traceback

LONG_TEST_S = 900.0
"""Time-out of a test that is marked as slow and has none of its own, for a machine that is several times busier."""
GRACE_S = 30.0
"""Time for a stopped thread or task to end on a busy machine."""
KILLED_DASK_WORKER = "AsyncProcess Dask Worker process"
"""Part of the names of a nanny's threads. They end some time after the nanny killed its hanging worker."""
KEPT_BY_DISTRIBUTED = ("IO loop", "Dask-", "Profile", "TCP-Executor")
"""Parts of the names of threads that distributed starts once for each process or worker, and never ends."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests more time, and let each process of pytest-xdist begin with one of the longest of them."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TEST_S))
    if processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        items[:] = begin_with_longest(items, _minutes, processes)


def _minutes(item: pytest.Item) -> float:
    """Return the time of a test marked `slow(minutes=...)`; 0 for others."""
    mark = item.get_closest_marker("slow")
    return float(mark.kwargs.get("minutes", 0)) if mark else 0.0


class _Unretrieved(logging.Handler):
    """Collect asyncio's reports of tasks and futures that are freed with an unretrieved exception."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.reports: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.reports.append(self.format(record))


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail a test that leaves a running thread, or an exception that was never retrieved."""
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
    """Fail an async test if one of its tasks still runs after its other fixtures have ended."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:  # the tasks of a closed server are cancelled, and need another turn of the loop to end
        _, left = await asyncio.wait(left, timeout=GRACE_S)
    assert not left, "\n".join(map(repr, left))


def _left_running(before: set[threading.Thread]) -> list[str]:
    """Return the names of new threads that do not end within GRACE_S."""
    deadline = time.monotonic() + GRACE_S
    while left := [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()]:
        kept = KEPT_BY_DISTRIBUTED
        if any(KILLED_DASK_WORKER in thread.name for thread in left):
            kept = (*kept, KILLED_DASK_WORKER, "QueueFeederThread")  # of the nanny's queue
        names = [thread.name for thread in left if not any(part in thread.name for part in kept)]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.01)
    return []
