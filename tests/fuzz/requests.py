"""Fuzzer of requests to the daemon's HTTP server, which must stay alive, log no error and never answer with 5xx."""

import asyncio
import logging
import queue
import random
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.replay.replayer import Replayer
from daemon.web import server
from daemon.web.posts import Posts
from daemon.web.routes import make_app
from tests.acceptance.faults.broken_requests import ask, backup_request, request, status_of
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.ready_facts import READY

ANSWER_TIMEOUT_S = 0.2
"""Short, because the server waits for the rest of incomplete requests."""
PATH_CHARACTERS = 230
JOURNAL_HERE = "the journal of this daemon".ljust(PATH_CHARACTERS, "_")
"""Placeholder for the path of the journal, which differs from run to run and has the same length."""
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def journal_in(place: Path) -> Path:
    """Return a path of the journal with PATH_CHARACTERS characters."""
    return place / "journal".ljust(PATH_CHARACTERS - len(f"{place}/"), "_")


class ErrorLog(logging.Handler):
    """Collects errors that libraries log; aiohttp logs the traceback of a handler."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect an error with its traceback."""
        self.errors.append(logging.Formatter().format(record))


@asynccontextmanager
async def _served(place: Path) -> AsyncIterator[int]:
    async def facts() -> Facts:
        return READY

    async with Journal(journal_in(place)) as journal:
        posts = Posts(HttpSettings(), Replayer(lambda: None, journal, None), journal)
        async with server.serve(make_app(journal, Metrics(), facts, posts), "127.0.0.1", 0) as port:
            yield port


@contextmanager
def _port(place: Path) -> Iterator[int]:
    """Run a server in a thread; yield its port."""
    ports: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    stop = asyncio.Event()

    async def serve() -> None:
        # Each thread reserves 64 MiB of the address space, which is limited.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2, "files"))
        async with _served(place) as port:
            ports.put(port)
            await stop.wait()

    def run(runner: asyncio.Runner) -> None:
        try:
            runner.run(serve())
        finally:
            ports.put(None)

    with asyncio.Runner() as runner, ThreadPoolExecutor(1, "http server") as thread:
        loop = runner.get_loop()
        serving = thread.submit(run, runner)
        try:
            port = ports.get()
            if port is not None:
                yield port
        finally:
            loop.call_soon_threadsafe(stop.set)
            serving.result()


@contextmanager
def open_check(place: Path) -> Iterator[Check]:
    """Yield the check of a request."""
    log = ErrorLog()
    logging.getLogger().addHandler(log)
    try:
        with _port(place) as port:
            journal = str(journal_in(place)).encode()

            def check(content: bytes) -> None:
                check_request(("127.0.0.1", port), content.replace(JOURNAL_HERE.encode(), journal), log)
                require_no_copies(place)

            yield check
    finally:
        logging.getLogger().removeHandler(log)


def draw_request(rng: random.Random) -> bytes:
    """Return a request; one in ten asks for a copy of the journal."""
    return backup_request(rng, JOURNAL_HERE) if rng.random() < 0.1 else request(rng)


def require_no_copies(place: Path) -> None:
    """Raise AssertionError if a copy of the journal is left 10 s after its request."""
    deadline = time.monotonic() + 10.0
    while left := list(place.glob(".*")):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def check_request(address: tuple[str, int], content: bytes, log: ErrorLog) -> None:
    """Send a request, then a valid one. Raises AssertionError."""
    status = status_of(ask(address, content, ANSWER_TIMEOUT_S)) or 0
    assert status < 500, status
    assert not log.errors, log.errors[0]
    assert status_of(ask(address, ALIVE, 5.0)) == 200


REQUESTS = Fuzzer("requests", draw_request, open_check)
