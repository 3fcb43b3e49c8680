"""The stand-in: faults on request, slow derivations, and the process."""

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

from daemon.simulator.standin import stack_routes, tile_routes
from daemon.simulator.standin.faults import Fault
from daemon.simulator.standin.server import serve_standin
from tests.contract.conftest import Service, StackUnderTest, affine, session, tile, upload
from tests.integration.standin_control import Hold


@pytest.fixture
async def stack() -> AsyncIterator[StackUnderTest]:
    async with serving() as stack:
        yield stack


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[StackUnderTest]:
    """Run a stand-in; yield a new stack in it."""
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


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Wait for an async condition."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


PUT = "/resolvedTiles?deriveData=true"

# -- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["refuse", "cut_upload"])
async def test_no_work_is_done_when_the_connection_ends_before_it(stack: StackUnderTest, kind: str) -> None:
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


async def test_a_status_has_a_page_like_that_of_jetty_or_the_given_text(stack: StackUnderTest) -> None:
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


async def test_an_answer_can_be_cut_in_its_body(stack: StackUnderTest) -> None:
    await stack.put(tile("a"), tile("b"))
    whole = await stack.send("GET", "/z/1/tileBounds")
    await set_fault(stack, "cut", "tileBounds")
    async with stack.service.http.get(stack.service.url + stack.path + "/z/1/tileBounds") as answer:
        assert answer.status == 200
        assert answer.content_length == len(whole.body)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_the_work_of_a_late_answer_is_done_even_if_the_client_disconnects(stack: StackUnderTest) -> None:
    await set_fault(stack, "late", "^PUT ", seconds=60, times=1)
    asking = asyncio.create_task(stack.send("PUT", PUT, upload(tile("a"))))
    await until(lambda: _has_tiles(stack, 1))
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    assert await stack.tile_ids() == ["a"]
    await set_fault(stack, "late", "^PUT ", seconds=0.1, times=1)
    begun = time.monotonic()
    await stack.put(tile("b"))
    assert time.monotonic() - begun >= 0.1


async def _has_tiles(stack: StackUnderTest, count: int) -> bool:
    return len(await stack.tile_ids()) == count


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


async def test_after_a_reset_the_stand_in_is_empty_and_has_no_faults(stack: StackUnderTest) -> None:
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


async def test_a_stand_in_can_have_faults_from_the_start() -> None:
    fault = Fault.model_validate({"match": "owners", "kind": "status", "status": 418})
    async with serving(faults=[fault]) as stack:
        assert (await stack.service.send("GET", "/owners")).status == 418


async def test_requests_are_listed_with_their_status(stack: StackUnderTest) -> None:
    await stack.put(tile("a"))
    await stack.send("GET", "/tile/b")
    assert [entry for entry in await requests(stack) if entry[0] != "GET" or entry[1] == "b"] == [
        ("POST", "s", 201),
        ("PUT", "resolvedTiles?deriveData=true", 201),
        ("GET", "b", 404),
    ]


# -- slow derivations ------------------------------------------------------------------------------------------------


@pytest.fixture
def derivation(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds derivations until the test releases them."""
    return Hold(monkeypatch, stack_routes)


@pytest.fixture
async def slow(derivation: Hold) -> AsyncIterator[StackUnderTest]:
    """A stack with tile `a` whose derivation is held."""
    async with serving(derive_s=1.0) as stack:
        await stack.put(tile("a"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_complete(stack))
            await derivation.begun.wait()
            yield stack
            derivation.release()


async def _complete(stack: StackUnderTest) -> None:
    assert (await stack.state("COMPLETE")).status == 201


async def _is_complete(stack: StackUnderTest) -> bool:
    return bool((await stack.meta())["state"] == "COMPLETE")


async def test_a_stack_is_loading_while_it_is_derived_and_new_tiles_are_not_counted(
    slow: StackUnderTest, derivation: Hold
) -> None:
    assert (await slow.meta())["state"] == "LOADING"
    await slow.put(tile("b"))
    derivation.release()
    await until(lambda: _is_complete(slow))
    assert (await slow.meta())["stats"]["tileCount"] == 1
    assert [row["tileCount"] for row in (await slow.send("GET", "/sectionData")).json] == [1]
    assert await slow.tile_ids() == ["a", "b"]


async def test_reopening_during_a_derivation_has_no_effect(slow: StackUnderTest, derivation: Hold) -> None:
    assert (await slow.state("LOADING")).status == 201
    derivation.release()
    await until(lambda: _is_complete(slow))
    assert (await slow.send("PUT", PUT, upload(tile("b")))).status == 500


async def test_a_derivation_restores_the_metadata_of_its_beginning(slow: StackUnderTest, derivation: Hold) -> None:
    await slow.send("PUT", "/resolutionValues", [4, 4, 45])
    derivation.release()
    await until(lambda: _is_complete(slow))
    assert "stackResolutionX" not in (await slow.meta())["currentVersion"]


async def test_a_derivation_continues_when_its_client_disconnects(derivation: Hold) -> None:
    async with serving(derive_s=1.0) as stack:
        await stack.put(tile("a"))
        asking = asyncio.create_task(stack.send("PUT", "/state/COMPLETE"))
        await derivation.begun.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()
        assert (await stack.meta())["state"] == "LOADING"
        derivation.release()
        await until(lambda: _is_complete(stack))


async def test_a_write_whose_check_preceded_the_close_puts_tiles_into_a_complete_stack(
    stack: StackUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the state and the write are two steps in render-ws; a completion fits between them."""
    await stack.put(tile("a"))
    await set_fault(stack, "slow", "^PUT .*resolvedTiles", times=1)
    write = Hold(monkeypatch, tile_routes)
    async with asyncio.TaskGroup() as tasks:
        late = tasks.create_task(stack.send("PUT", PUT, upload(tile("b"))))
        await write.begun.wait()
        await stack.state("COMPLETE")
        write.release()
    assert late.result().status == 201
    assert (await stack.meta())["stats"]["tileCount"] == 1
    assert await stack.tile_ids() == ["a", "b"]


# -- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    """Run the stand-in as a process; yield it and its URL."""
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
            assert running.wait(60) == 0


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
