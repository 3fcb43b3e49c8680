"""The stand-in: misbehaviour on request, slow derivations, and as a process."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from daemon.simulator.standin.faults import Fault
from daemon.simulator.standin.server import serve_standin
from tests.contract.conftest import Service, StackUnderTest, affine, session, tile, upload


@pytest.fixture
async def stack() -> AsyncIterator[StackUnderTest]:
    async with serving() as stack:
        yield stack


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[StackUnderTest]:
    """A stack just created in a stand-in of its own."""
    async with serve_standin(**options) as url, session() as http:
        stack = StackUnderTest(Service(url, http, is_real=False), "s")
        if (await stack.send("GET")).status == 404:
            await stack.create()
        yield stack


async def set_fault(stack: StackUnderTest, kind: str, match: str, **more: Any) -> None:
    url = URL(stack.service.url).with_path("/faults")
    async with stack.service.http.post(url, json={"kind": kind, "match": match, **more}) as answer:
        assert answer.status == 201, await answer.text()


async def requests(stack: StackUnderTest) -> list[tuple[str, str, int | None]]:
    async with stack.service.http.get(URL(stack.service.url).with_path("/requests")) as answer:
        return [(entry["method"], entry["path"].rpartition("/")[2], entry["status"]) for entry in await answer.json()]


async def until(condition: Any, timeout_s: float = 5.0) -> None:
    """Wait for an async condition."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


PUT = "/resolvedTiles?deriveData=true"

# -- misbehaviour ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuse", "cut_upload"])
async def test_nothing_is_done_when_the_connection_ends_before_the_work(stack: StackUnderTest, kind: str) -> None:
    await set_fault(stack, kind, "^PUT .*resolvedTiles", times=1)
    big = upload(*(tile(f"t{n}", labels=["x" * 100]) for n in range(2000)))
    with pytest.raises(aiohttp.ClientError):
        await stack.send("PUT", PUT, big)
    assert await stack.tile_ids() == []
    assert ("PUT", "resolvedTiles?deriveData=true", None) in await requests(stack)
    assert (await stack.send("PUT", PUT, big)).status == 201


async def test_a_stalled_request_gets_no_answer_and_does_nothing(stack: StackUnderTest) -> None:
    await set_fault(stack, "stall", "^PUT ", seconds=0.05, times=1)
    with pytest.raises(aiohttp.ClientError):
        await stack.send("PUT", PUT, upload(tile("a")))
    await set_fault(stack, "stall", "^PUT ", seconds=60, times=1)
    with pytest.raises(TimeoutError):
        await stack.send("PUT", PUT, upload(tile("a")), timeout=aiohttp.ClientTimeout(total=0.1))
    assert await stack.tile_ids() == []


async def test_a_status_comes_with_a_page_like_jettys_or_with_the_given_text(stack: StackUnderTest) -> None:
    await set_fault(stack, "status", "^PUT ", times=1)
    answer = await stack.send("PUT", PUT, upload(tile("a")))
    assert answer.outcome == (503, "text/html")
    assert "HTTP ERROR 503 Service Unavailable" in answer.text
    await set_fault(stack, "status", "^PUT ", status=500, text="E11000 duplicate key error", times=1)
    answer = await stack.send("PUT", PUT, upload(tile("a")))
    assert (*answer.outcome, answer.text) == (500, "text/plain", "E11000 duplicate key error")
    assert await stack.tile_ids() == []


@pytest.mark.parametrize("kind", ["lost", "cut"])
async def test_the_work_is_done_when_the_connection_ends_after_it(stack: StackUnderTest, kind: str) -> None:
    await set_fault(stack, kind, "^PUT ", times=1)
    with pytest.raises(aiohttp.ClientError):
        await stack.send("PUT", PUT, upload(tile("a")))
    assert await stack.tile_ids() == ["a"]


async def test_an_answer_can_end_in_the_middle_of_its_body(stack: StackUnderTest) -> None:
    await stack.put(tile("a"), tile("b"))
    whole = await stack.send("GET", "/z/1/tileBounds")
    await set_fault(stack, "cut", "tileBounds")
    async with stack.service.http.get(stack.service.url + stack.path + "/z/1/tileBounds") as answer:
        assert answer.status == 200
        assert answer.content_length == len(whole.body)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_the_work_of_a_late_answer_is_done_even_if_the_client_has_gone(stack: StackUnderTest) -> None:
    await set_fault(stack, "late", "^PUT ", seconds=60, times=1)
    with pytest.raises(TimeoutError):
        await stack.send("PUT", PUT, upload(tile("a")), timeout=aiohttp.ClientTimeout(total=0.2))
    assert await stack.tile_ids() == ["a"]
    await set_fault(stack, "late", "^PUT ", seconds=0.1, times=1)
    begun = time.monotonic()
    await stack.put(tile("b"))
    assert time.monotonic() - begun >= 0.1


async def test_a_fault_skips_some_requests_affects_some_and_ends(stack: StackUnderTest) -> None:
    await set_fault(stack, "status", "tileBounds$", skip=1, times=2)
    statuses = [(await stack.send("GET", "/z/1/tileBounds")).status for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    assert (await stack.send("GET", "/zValues")).status == 200


async def test_faults_apply_in_order_and_are_cleared_together(stack: StackUnderTest) -> None:
    await set_fault(stack, "status", "zValues", status=502, times=1)
    await set_fault(stack, "status", "zValues", status=504)
    statuses = [(await stack.send("GET", "/zValues")).status for _ in range(3)]
    assert statuses == [502, 504, 504]
    async with stack.service.http.delete(URL(stack.service.url).with_path("/faults")) as answer:
        assert answer.status == 204
    assert (await stack.send("GET", "/zValues")).status == 200


async def test_after_a_reset_it_is_as_newly_started(stack: StackUnderTest) -> None:
    await set_fault(stack, "status", "zValues", status=504)
    async with stack.service.http.delete(URL(stack.service.url).with_path("/state")) as answer:
        assert answer.status == 204
    assert await requests(stack) == []
    assert (await stack.send("GET")).status == 404
    await stack.create()
    assert (await stack.send("GET", "/zValues")).status == 200


@pytest.mark.parametrize(
    "body",
    [{}, {"match": "x"}, {"match": "x", "kind": "explode"}, {"match": "(", "kind": "cut"}, {"match": "x", "tims": 1}],
)
async def test_an_invalid_fault_is_refused(stack: StackUnderTest, body: dict[str, Any]) -> None:
    async with stack.service.http.post(URL(stack.service.url).with_path("/faults"), json=body) as answer:
        assert answer.status == 400


async def test_a_stand_in_can_misbehave_from_the_start() -> None:
    fault = Fault.model_validate({"match": "owners", "kind": "status", "status": 418})
    async with serving(faults=[fault]) as stack:
        assert (await stack.service.send("GET", "/owners")).status == 418


async def test_requests_are_listed_with_what_was_answered(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    await stack.send("GET", "/tile/b")
    assert [entry for entry in await requests(stack) if entry[0] != "GET" or entry[1] == "b"] == [
        ("POST", "s", 201),
        ("PUT", "resolvedTiles?deriveData=true", 201),
        ("GET", "b", 404),
    ]


# -- the hazards of a slow derivation --------------------------------------------------------------------------------


@pytest.fixture
async def slow() -> AsyncIterator[StackUnderTest]:
    """A stack with tile `a` whose derivation takes a while, under way."""
    async with serving(derive_s=0.4) as stack:
        await stack.put(tile("a"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_complete(stack))
            await until(lambda: _is_asked(stack, "COMPLETE"))
            yield stack


async def _complete(stack: StackUnderTest) -> None:
    assert (await stack.state("COMPLETE")).status == 201


async def _is_asked(stack: StackUnderTest, last: str) -> bool:
    return any(entry[1] == last for entry in await requests(stack))


async def _is_complete(stack: StackUnderTest) -> bool:
    return bool((await stack.meta())["state"] == "COMPLETE")


async def test_a_stack_is_loading_while_it_is_derived_and_new_tiles_are_not_counted(slow: StackUnderTest) -> None:
    assert (await slow.meta())["state"] == "LOADING"
    await slow.put(tile("b"))
    await until(lambda: _is_complete(slow))
    assert (await slow.meta())["stats"]["tileCount"] == 1
    assert [row["tileCount"] for row in (await slow.send("GET", "/sectionData")).json] == [1]
    assert await slow.tile_ids() == ["a", "b"]


async def test_reopening_during_a_derivation_has_no_effect(slow: StackUnderTest) -> None:
    assert (await slow.state("LOADING")).status == 201
    await until(lambda: _is_complete(slow))
    assert (await slow.send("PUT", PUT, upload(tile("b")))).status == 500


async def test_a_derivation_restores_the_metadata_of_its_beginning(slow: StackUnderTest) -> None:
    await slow.send("PUT", "/resolutionValues", [4, 4, 45])
    await until(lambda: _is_complete(slow))
    assert "stackResolutionX" not in (await slow.meta())["currentVersion"]


async def test_a_derivation_continues_when_its_client_disconnects() -> None:
    async with serving(derive_s=0.3) as stack:
        await stack.put(tile("a"))
        with pytest.raises(TimeoutError):
            await stack.send("PUT", "/state/COMPLETE", timeout=aiohttp.ClientTimeout(total=0.05))
        assert (await stack.meta())["state"] == "LOADING"
        await until(lambda: _is_complete(stack))


async def test_a_write_checked_before_closing_lands_in_a_complete_stack(stack: StackUnderTest) -> None:
    """The look at the state and the write are two steps in render-ws; COMPLETE fits between."""
    await stack.put(tile("a"))
    await set_fault(stack, "slow", "^PUT .*resolvedTiles", seconds=0.3, times=1)
    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(stack.send("PUT", PUT, upload(tile("b"))))
        await until(lambda: _has_two_uploads(stack))
        await stack.state("COMPLETE")
    assert late.result().status == 201
    assert (await stack.meta())["stats"]["tileCount"] == 1
    assert await stack.tile_ids() == ["a", "b"]


async def _has_two_uploads(stack: StackUnderTest) -> bool:
    return sum(entry[1].startswith("resolvedTiles") for entry in await requests(stack)) == 2


# -- size and time ---------------------------------------------------------------------------------------------------


async def test_twenty_thousand_tiles_of_16_megabytes_are_stored_and_returned(stack: StackUnderTest) -> None:
    specs = [tile(f"tile_{n:05d}", affine(1, 0, 0, 1, n, 0), labels=["x" * 550]) for n in range(20_000)]
    await stack.put(*specs)
    answer = await stack.send("GET", "/z/1/resolvedTiles")
    assert len(answer.body) > 16 * 2**20
    assert answer.body.count(b'tileId"') == 20_000
    assert (await stack.state("COMPLETE")).status == 201


# -- as a process ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def process(*arguments: str) -> Any:
    """The stand-in as a process, and its URL."""
    command = [sys.executable, "-m", "daemon.simulator.standin", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            yield running, running.stdout.readline().strip()
        finally:
            running.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_prints_its_url_and_ends_on_a_signal(signal_number: signal.Signals) -> None:
    with process("--port", "0") as (running, url):
        address = URL(url)
        assert address.path == "/render-ws/v1"
        with socket.create_connection((str(address.host), int(address.port or 0)), timeout=5):
            running.send_signal(signal_number)
            assert running.wait(10) == 0


async def test_the_state_file_of_a_killed_process_is_read_after_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    before: dict[str, Any] = {}
    for run in range(2):
        with process("--port", "0", "--state", str(state)) as (running, url):
            async with session() as http:
                stack = StackUnderTest(Service(url, http, is_real=False), "s")
                if run == 0:
                    await stack.create()
                    await stack.put(tile("a"))
                    await stack.state("COMPLETE")
                    before = await stack.meta()
                assert await stack.meta() == before
                assert await stack.tile_ids() == ["a"]
            running.kill()
            running.wait()
    assert json.loads(state.read_text())[0]["key"]["stack"] == "s"
