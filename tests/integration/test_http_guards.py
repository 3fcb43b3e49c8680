"""The HTTP server with slow, numerous and faulty clients."""

import asyncio
import contextlib
import errno
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.pipeline.replay.replayer import Replayer
from daemon.web import server
from daemon.web.posts import Posts
from daemon.web.routes import make_app
from tests.ready_facts import READY

DEADLINE_S = 60


class Served:
    """A running server, with raw connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, sent: bytes = b"") -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        self.writers.append(writer)
        return reader

    async def answer_to(self, sent: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to raw bytes."""
        reader = await self.connect(sent)
        async with asyncio.timeout(DEADLINE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))

    async def is_alive(self) -> bool:
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/healthz") as answer:
            return answer.status == 200


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async def facts() -> Facts:
        return READY

    async with Journal(tmp_path / "journal.sqlite") as journal:
        posts = Posts(HttpSettings(), Replayer(lambda: None, journal, None), journal)
        async with server.serve(make_app(journal, Metrics(), facts, posts), "127.0.0.1", 0) as port:
            served = Served(port)
            yield served
            for writer in served.writers:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()


@pytest.fixture
def short_header_time(monkeypatch):
    monkeypatch.setattr(server, "IDLE_S", 0.2)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"], ids=["nothing", "half a header"]
)
async def test_a_connection_without_a_whole_request_is_closed(short_header_time, served, sent):
    reader = await served.connect(sent)
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""


async def test_a_header_that_arrives_slowly_is_cut_off(short_header_time, served):
    reader = await served.connect(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")

    async def trickle() -> None:
        while True:
            served.writers[-1].write(b"X-A: b\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
    trickling.cancel()


async def test_a_body_that_does_not_arrive_is_answered_with_408(monkeypatch, served):
    monkeypatch.setattr("daemon.web.posts.BODY_S", 0.1)
    head = (
        b"POST /api/replay HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
    )
    status, _, body = await served.answer_to(head)
    assert (status, json.loads(body)["error"]) == (408, "body: not received within 0.1 s")
    served.writers[-1].write(b"12345678")  # aiohttp reads the rest for 10 s, so that clients see the answer


@pytest.mark.slow
async def test_many_idle_connections_do_not_block_a_request(monkeypatch, served):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    readers = [await served.connect(b"GET /he") for _ in range(20)]
    assert await served.is_alive()
    async with asyncio.timeout(DEADLINE_S):
        for reader in readers[:10]:
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""


async def test_a_lack_of_descriptors_is_logged_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "ACCEPT_RETRY_S", 0.001)
    failures = iter(range(50))
    real = server._accept

    async def accept(*arguments):
        if next(failures, None) is not None:
            raise OSError(errno.EMFILE, "Too many open files")
        return await real(*arguments)

    monkeypatch.setattr(server, "_accept", accept)

    async def facts() -> Facts:
        return READY

    with capture_logs() as lines:
        async with (
            Journal(tmp_path / "journal.sqlite") as journal,
            server.serve(make_app(journal, Metrics(), facts), "127.0.0.1", 0) as port,
        ):
            assert await Served(port).is_alive()
    (line,) = [each for each in lines if each["event"] == "http.accept_failed"]
    assert "Too many open files" in line["reason"]


@pytest.mark.parametrize("body", [gzip.compress(b" " * 10_000_000), b"not gzip"], ids=["bomb", "not gzip"])
async def test_a_compressed_body_is_refused_without_reading_it(served, body):
    head = (
        f"POST /api/replay HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    status, _, answer = await served.answer_to(head.encode() + b"\r\nContent-Encoding: gzip\r\n\r\n" + body)
    assert (status, json.loads(answer)) == (415, {"error": "Content-Encoding: send the body uncompressed"})


REQUESTS = {
    "an answer": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    "no such page": (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
    "a bad header": (b"GET /healthz HTTP/1.1\r\nHost: a\0b\r\n\r\n", 400),
    "a header too long": (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", 400),
}


@pytest.mark.parametrize(("sent", "status"), REQUESTS.values(), ids=REQUESTS)
async def test_every_answer_is_json_and_forbids_sniffing_and_caching_and_names_no_version(served, sent, status):
    answered, headers, body = await served.answer_to(sent)
    assert answered == status
    assert set(json.loads(body)) in ({"alive"}, {"error"})
    assert headers["content-type"].startswith("application/json")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert not any(character.isdigit() for character in headers.get("server", ""))


async def test_the_root_lists_links_in_json(served):
    status, headers, body = await served.answer_to(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert "/readyz" in json.loads(body)["links"]
