"""The daemon's HTTP routes over a real journal."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.config.settings import HttpSettings
from daemon.journal.journal import Journal
from daemon.journal.tables import quality
from daemon.montages.sighting import FoundBy, Sighting
from daemon.pipeline.health import Facts
from daemon.pipeline.metrics import Metrics
from daemon.watching.roots import RootStatus
from daemon.web import errors
from daemon.web.routes import make_app
from handlers.errors import MetafileFault
from handlers.identity import FileIdentity
from handlers.quality.numbers import SectionNumbers, TileNumbers
from handlers.quality.packing import Quality, pack
from tests.ready_facts import READY


class Api:
    """A client of the daemon's routes, with the facts of readiness."""

    def __init__(self, client: TestClient, journal: Journal) -> None:
        self.client = client
        self.journal = journal
        self.facts: Facts = READY
        self.http = HttpSettings()

    async def get(self, path: str) -> tuple[int, dict]:
        async with self.client.get(path) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        holder: list[Api] = []

        async def facts() -> Facts:
            return holder[0].facts

        async with TestClient(TestServer(make_app(journal, Metrics(), facts, http=lambda: holder[0].http))) as client:
            holder.append(Api(client, journal))
            yield holder[0]


async def noticed(journal: Journal, number: int) -> int:
    path = Path(f"/data/_metadata_{number}_.json")
    montage_id = await journal.notice(Sighting("temca2", path, FileIdentity(10, number, number, number), FoundBy.SCAN))
    assert montage_id is not None
    return montage_id


async def test_liveness_is_200_while_the_daemon_is_not_ready(api):
    api.facts = replace(READY, render_fault="away")
    assert await api.get("/healthz") == (200, {"alive": True})


async def test_ready_is_200_and_not_ready_503_with_the_reasons(api):
    assert (await api.get("/readyz"))[0] == 200
    api.facts = replace(READY, render_fault="away")
    status, body = await api.get("/readyz")
    assert (status, body["ready"], body["reasons"]) == (503, False, ["render-ws is unavailable: away"])


async def test_montages_are_listed_newest_first_by_state_and_up_to_a_limit(api):
    ids = [await noticed(api.journal, number) for number in range(5)]
    await api.journal.fail(ids[2], MetafileFault("m", "has no data", "write it again"))
    _, body = await api.get("/api/montages?limit=2")
    assert [row["id"] for row in body["montages"]] == [ids[4], ids[3]]
    assert body["counts"] == {"temca2": {"noticed": 4, "failed": 1}}
    _, body = await api.get("/api/montages?state=failed")
    assert [row["fault"]["hint"] for row in body["montages"]] == ["write it again"]


@pytest.mark.parametrize("status", [RootStatus.UNREACHABLE, RootStatus.PAUSED, RootStatus.OPENING])
async def test_a_montage_of_an_inaccessible_directory_is_shown_as_waiting_for_the_directory(api, status):
    ids = [await noticed(api.journal, number) for number in range(3)]
    for montage_id in ids:
        await api.journal.wait(montage_id, "the metafile is new or still changing")
    await api.journal.fail(ids[2], MetafileFault("m", "has no data"))
    away = replace(READY.roots[0], status=status, reasons=("no answer from its file server for 61 s",))
    api.facts = replace(READY, roots=(away,))
    _, listed = await api.get("/api/montages")
    _, single = await api.get(f"/api/montages/{ids[0]}")
    waits = {row["id"]: row["waiting_for"] for row in [*listed["montages"], single]}
    text = "the directory of watch temca2 cannot be accessed: no answer from its file server for 61 s"
    assert waits == {ids[0]: text, ids[1]: text, ids[2]: None}
    api.facts = READY
    _, single = await api.get(f"/api/montages/{ids[0]}")
    assert single["waiting_for"] == "the metafile is new or still changing"


async def test_a_montage_is_returned_with_its_events(api):
    montage_id = await noticed(api.journal, 1)
    await api.journal.fail(montage_id, MetafileFault("m", "has no data"))
    status, body = await api.get(f"/api/montages/{montage_id}")
    assert status == 200
    assert [event["event"] for event in body["events"]] == ["noticed", "failed"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/montages/999", 404),
        ("/api/montages/x", 404),
        ("/api/montages/99999999999999999999", 404),
        ("/api/montages?state=nope", 400),
        ("/api/montages?z=abc", 400),
        ("/api/montages?limit=0", 400),
        ("/api/montages?limit=1e9", 400),
        ("/api/montages?limit=000000001999999", 400),
        ("/api/montages?limit=10001", 400),
        ("/api/montages?limit=" + "9" * 30, 400),
        ("/api/montages?limit=" + "0" * 30 + "1", 400),
        ("/api/montages?limit=%C2%B2", 400),
        ("/api/montages?id=" + "9" * 30, 400),
        ("/nowhere", 404),
    ],
)
async def test_an_invalid_request_is_refused_in_one_sentence(api, path, status):
    answered, body = await api.get(path)
    assert answered == status
    assert set(body) == {"error"}


EVERY_ROUTE = ("/healthz", "/readyz", "/metrics", "/api/montages", "/api/montages/1", "/nowhere")


UNKNOWN_HOSTS = (
    "evil.example",
    "evil.example:8787",
    "127.0.0.1.evil.example",
    "10.0.0.1",
    "[fe80::1]",
    "localhost.evil",
    "",
)
LOOPBACK_HOSTS = ("localhost", "LOCALHOST:8787", "localhost.", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8787")


@pytest.mark.parametrize("host", UNKNOWN_HOSTS)
@pytest.mark.parametrize("path", EVERY_ROUTE)
async def test_on_loopback_an_unknown_host_name_is_refused_on_every_route(api, path, host):
    """Otherwise a page that points its own name to 127.0.0.1 could read the answers (DNS rebinding)."""
    async with api.client.get(path, headers={"Host": host}) as answer:
        assert answer.status == 403
        assert "http.allowed_hosts" in (await answer.json())["error"]


@pytest.mark.parametrize("host", [*LOOPBACK_HOSTS, "render-pc:8787", "em.example"])
async def test_on_loopback_loopback_names_and_allowed_names_are_served(api, host):
    api.http = HttpSettings(allowed_hosts=("render-pc", "EM.example"))
    async with api.client.get("/healthz", headers={"Host": host}) as answer:
        assert answer.status == 200


async def test_a_request_without_a_host_is_served(api):
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 200 " in await reader.readline()
    writer.close()


OWN_HOSTS = ("em-server:8787", "EM-Server.example", "em-server.example.", "10.1.2.3:8787", "[fe80::1]:1", "localhost")


@pytest.mark.parametrize("host", [*OWN_HOSTS, "proxy.example"])
async def test_a_daemon_that_listens_for_other_machines_serves_its_addresses_and_names(api, monkeypatch, host):
    monkeypatch.setattr("daemon.web.hosts.own_names", lambda: frozenset({"em-server", "em-server.example"}))
    api.http = HttpSettings(host="0.0.0.0", allowed_hosts=("proxy.example",))
    async with api.client.get("/healthz", headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("host", ["evil.example", "em-server.evil.example", "10.1.2.3.evil.example", ""])
@pytest.mark.parametrize("path", EVERY_ROUTE)
async def test_a_daemon_that_listens_for_other_machines_refuses_other_names_on_every_route(
    api, monkeypatch, path, host
):
    monkeypatch.setattr("daemon.web.hosts.own_names", lambda: frozenset({"em-server", "em-server.example"}))
    api.http = HttpSettings(host="0.0.0.0")
    async with api.client.get(path, headers={"Host": host}) as answer:
        assert answer.status == 403
        assert "http.allowed_hosts" in (await answer.json())["error"]


async def test_the_name_in_http_host_is_served(api):
    api.http = HttpSettings(host="em-server.example")
    async with api.client.get("/healthz", headers={"Host": "em-server.example:8787"}) as answer:
        assert answer.status == 200


async def test_a_post_to_a_get_route_is_refused(api):
    async with api.client.post("/readyz", data=b"x" * 100) as answer:
        assert answer.status == 405


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=TEXT, z=TEXT, limit=TEXT, tail=TEXT)
async def test_any_query_is_answered_or_refused_without_an_internal_error(api, state, z, limit, tail):
    async with api.client.get("/api/montages", params={"state": state, "z": z, "limit": limit}) as answer:
        assert answer.status in (200, 400)
    async with api.client.get("/api/montages/" + tail.replace("/", "_").replace(".", "_")) as answer:
        assert answer.status in (200, 404, 400)


async def test_an_invalid_http_request_is_logged_in_one_line_without_a_traceback(api, caplog):
    reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\0b\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    (record,) = [each for each in caplog.records if each.name == "aiohttp.server"]
    assert record.getMessage().startswith("http.refused: Invalid header value char")
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert await api.get("/healthz") == (200, {"alive": True})


async def test_many_refused_requests_are_logged_in_one_line_a_minute_with_their_number(api, caplog, monkeypatch):
    async def refused() -> None:
        reader, writer = await asyncio.open_connection(api.client.server.host, api.client.server.port)
        writer.write(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n")
        assert b" 400 " in await reader.readline()
        writer.close()

    for _ in range(5):
        await refused()
    monkeypatch.setattr(errors, "LOG_EVERY_S", 0.0)
    await refused()
    first, last = [each.getMessage() for each in caplog.records if each.name == "aiohttp.server"]
    assert "more before" not in first
    assert last.endswith("; 4 more before")


def test_a_connection_that_closes_while_its_body_is_discarded_is_logged_as_a_refused_request():
    error = RuntimeError("Connection closed.")
    info = (RuntimeError, error, None)
    record = logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "Unhandled exception", (), info)
    assert errors.Refusals().filter(record)
    assert (record.getMessage(), record.exc_info) == ("http.refused: Connection closed., from unknown", None)


async def test_the_numbers_of_tiles_are_returned_by_column(api):
    montage_id = await noticed(api.journal, 1)
    numbers = {"mean": np.array([3.0, np.nan]), "raster_col": np.array([0.0, 1.0])}
    block = pack(Quality(TileNumbers.of(("a", "b"), numbers), SectionNumbers(overlap=0.07), 6, {"b": bytes([7] * 16)}))
    await api.journal.write(lambda connection: quality.store(connection, montage_id, block))
    status, body = await api.get(f"/api/montages/{montage_id}/tiles")
    assert status == 200
    assert body["tiles"] == ["a", "b"]
    assert body["numbers"]["mean"] == [3, None]
    assert body["numbers"].keys() == body["units"].keys()
    assert body["section"]["overlap"] == 0.07
    assert body["level_digests"] == [None, "07" * 16]


@pytest.mark.parametrize("montage_id", ["1", "2", "x"])
async def test_the_numbers_of_a_montage_without_numbers_are_not_found(api, montage_id):
    await noticed(api.journal, 1)
    status, body = await api.get(f"/api/montages/{montage_id}/tiles")
    assert status == 404
    assert "no " in body["error"]
