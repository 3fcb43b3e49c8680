"""The render gate: an unavailable service, a failing service, and work that fails by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from standin_control import MIPS, RAW, RESOLUTION_NM, Standin, client_of, standin, tile_spec

from daemon.pipeline.gates import render_gate as gate_module
from daemon.pipeline.gates.render_gate import RenderGate
from handlers.errors import (
    AccessRefused,
    Fault,
    RenderBroken,
    RenderUnavailable,
    RequestForbidden,
    StackMissing,
    ZFault,
)
from handlers.render.http.access import Access
from handlers.render.http.time_limits import TimeLimits
from handlers.render.opening import ensure_loading

DATABASE = r"^(?!GET .*/versionInfo)"
BROKEN = RenderBroken("em/v1/raw", "tried to put tiles, and render-ws answered 500: a bug")


class Gated:
    """A render gate, and the stand-in behind it."""

    def __init__(self, service: Standin, gate: RenderGate) -> None:
        self.service = service
        self.gate = gate

    async def failed(self, fault: Fault, work: int = 1) -> None:
        assert self.gate.admit(work)
        await self.gate.failed(work, fault)
        self.gate.leave(work)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110  the condition has no event
                await asyncio.sleep(0.01)

    async def until_queried(self, times: int) -> None:
        """Wait until the database was queried this many times."""
        async with asyncio.timeout(60):
            while len(await self.service.requests("GET", RAW.path)) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


SHORT_LIMITS = TimeLimits(connect_s=2, silence_s=2, request_s=3, complete_s=0.3, ping_s=0.5)


@pytest.fixture
async def gated() -> AsyncIterator[Gated]:
    async with standin() as service, client_of(service.url, time_limits=SHORT_LIMITS) as client:
        yield Gated(service, RenderGate(client, RAW, on_open=lambda: None))


@contextlib.asynccontextmanager
async def probing(gate: RenderGate) -> AsyncIterator[None]:
    running = asyncio.create_task(gate.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_failed_work_does_not_count_as_an_outage_while_the_database_answers(gated: Gated) -> None:
    for _ in range(10):
        await gated.failed(BROKEN)
    assert gated.gate.is_closed_circuit
    assert gated.gate.fault is None
    assert len(await gated.service.requests("GET", RAW.path)) == 10


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500, "text": "Timed out after 30000 ms while waiting for a server"},
        {"status": 500},
        {"status": 200},
        {"status": 200, "text": "{}"},
        {"status": 404, "text": "404 page not found"},
        {"status": 404},
        {"status": 403},
        {"status": 302},
        {"status": 400},
        {"kind": "stall", "seconds": 60},
    ],
)
async def test_failed_work_is_an_outage_if_the_database_does_not_answer(
    gated: Gated, answer: dict[str, object]
) -> None:
    await gated.service.set_fault(DATABASE, **{"kind": "status", **answer})
    await gated.failed(BROKEN)
    assert not gated.gate.is_closed_circuit
    assert gated.gate.fault is BROKEN
    assert not gated.gate.admit(2)


@pytest.mark.parametrize(
    "answer", [{"status": 500, "text": "a bug"}, {"status": 200}, {"kind": "stall", "seconds": 60}]
)
async def test_failed_work_is_an_outage_until_a_success_if_its_stack_can_be_read_and_not_written(
    gated: Gated, answer: dict[str, object]
) -> None:
    async with client_of(gated.service.url) as client:
        await ensure_loading(client, MIPS, RESOLUTION_NM)
    await gated.service.set_fault("^PUT ", **{"kind": "status", **answer})
    assert gated.gate.admit(1)
    await gated.gate.failed(1, BROKEN, MIPS)
    gated.gate.leave(1)
    assert gated.gate.fault is BROKEN
    async with probing(gated.gate):
        await gated.until(lambda: gated.gate.is_open)
        assert gated.gate.fault is BROKEN, "a probe proves no write"
        await gated.gate.failed(MIPS, StackMissing("em/v1/raw", "does not exist"))
        assert gated.gate.fault is BROKEN, "a refusal proves no write"
        gated.gate.worked()
        assert gated.gate.fault is None


@pytest.mark.parametrize("state", [None, "LOADING", "COMPLETE", "READ_ONLY"])
async def test_failed_work_is_no_outage_and_changes_no_stack_while_its_stack_can_be_written(
    gated: Gated, state: str | None
) -> None:
    async with client_of(gated.service.url) as client:
        if state is not None:
            await ensure_loading(client, MIPS, RESOLUTION_NM)
            await client.put_tiles(MIPS, 1.0, [tile_spec("a", 1.0)])
        for each in ("COMPLETE", "READ_ONLY")[: {"COMPLETE": 1, "READ_ONLY": 2}.get(state or "", 0)]:
            await gated.service.send("PUT", f"{MIPS.path}/state/{each}")
        before = await client.stack(MIPS)
        for _ in range(10):
            assert gated.gate.admit(1)
            await gated.gate.failed(1, BROKEN, MIPS)
            gated.gate.leave(1)
        assert gated.gate.is_closed_circuit
        assert await client.stack(MIPS) == before


async def test_the_database_is_not_queried_for_each_failure_of_an_outage(gated: Gated) -> None:
    await gated.service.set_fault(DATABASE, "status", status=500)
    for work in range(4):
        assert gated.gate.admit(work)
    await asyncio.gather(*(gated.gate.failed(work, BROKEN) for work in range(4)))
    assert len(await gated.service.requests("GET", RAW.path)) == 1


async def test_an_answer_of_render_ws_itself_ends_an_outage(gated: Gated) -> None:
    await gated.failed(RenderUnavailable("render", "away"))
    assert gated.gate.fault is not None
    await gated.gate.failed(1, ZFault("m", "no z"))
    assert not gated.gate.is_closed_circuit
    gated.gate.worked()
    assert gated.gate.is_closed_circuit


@pytest.mark.slow
async def test_an_outage_ends_when_the_database_answers_and_not_when_only_the_version_is_returned(gated: Gated) -> None:
    await gated.service.set_fault(DATABASE, "status", status=500)
    await gated.failed(BROKEN)
    known = len(await gated.service.requests("GET", RAW.path))
    async with probing(gated.gate):
        await gated.until_queried(known + 2)
        assert not gated.gate.is_open
        await gated.service.clear_faults()
        await gated.until(lambda: gated.gate.is_open)
        assert gated.gate.admit(MIPS)


@pytest.mark.parametrize("answer", [{"status": 200}, {"status": 404}, {"status": 200, "text": "[]"}])
async def test_a_proxy_page_in_place_of_an_idle_service_is_an_outage(gated: Gated, answer: dict[str, object]) -> None:
    await gated.service.set_fault(".", "status", **answer)
    async with probing(gated.gate):
        await gated.until(lambda: gated.gate.fault is not None)


async def test_the_database_is_queried_while_work_hangs(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "HANGS_S", 0.1)
    monkeypatch.setattr(gate_module, "PROBE_EVERY_S", 0.02)
    await gated.service.set_fault(DATABASE, "stall", seconds=60)
    async with probing(gated.gate):
        await asyncio.sleep(0.3)
        assert gated.gate.fault is None, "nothing is under way, so nothing hangs"
        assert gated.gate.admit(1)
        await gated.until(lambda: gated.gate.fault is not None)
        assert not gated.gate.is_open


async def test_long_work_does_not_count_as_an_outage_while_the_database_answers(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "HANGS_S", 0.1)
    monkeypatch.setattr(gate_module, "PROBE_EVERY_S", 0.02)
    async with probing(gated.gate):
        assert gated.gate.admit(1)
        await gated.until_queried(3)
        assert gated.gate.is_closed_circuit


# -- logins --------------------------------------------------------------------------------------------------------


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("old")
    path.chmod(0o600)
    return path


@pytest.fixture
async def with_login(password: Path) -> AsyncIterator[Gated]:
    access = Access(username="em", password_file=password)
    async with standin() as service, client_of(service.url, access=access) as client:
        yield Gated(service, RenderGate(client, RAW, on_open=lambda: None))


async def test_a_refused_login_is_probed_again_when_its_file_changes_and_not_before(
    with_login: Gated, password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "LOGIN_CHECK_S", 0.02)
    gate, service = with_login.gate, with_login.service
    await service.set_fault(".", "status", status=401)
    async with probing(gate):
        await with_login.until(lambda: gate.needs_person)
        known = len(await service.requests())
        await asyncio.sleep(0.3)
        assert len(await service.requests()) == known
        assert "asks for a login (401" in str(gate.fault)
        assert not gate.admit(1)
        await service.clear_faults()
        password.write_text("new")
        await with_login.until(lambda: gate.fault is None)
        assert gate.admit(1)


async def test_a_person_can_request_a_probe_of_the_login(with_login: Gated) -> None:
    gate, service = with_login.gate, with_login.service
    await service.set_fault(".", "status", status=401)
    async with probing(gate):
        await with_login.until(lambda: gate.needs_person)
        await service.clear_faults()
        gate.probe_soon()
        await with_login.until(lambda: gate.fault is None)


async def test_a_forbidden_request_is_reported_and_other_work_continues(gated: Gated) -> None:
    forbidden = RequestForbidden("em/v1/raw", "the proxy asks for a login that is allowed to do this (403)")
    await gated.failed(forbidden)
    assert gated.gate.is_closed_circuit
    assert gated.gate.fault is forbidden
    assert gated.gate.needs_person
    assert gated.gate.admit(2)
    gated.gate.worked()
    assert gated.gate.fault is None


async def test_after_forbidden_requests_of_several_montages_the_gate_pauses_for_long(gated: Gated) -> None:
    for work in range(3):
        await gated.failed(RequestForbidden("em/v1/raw", "403"), work)
    assert not gated.gate.is_open
    assert gated.gate.pause_s > 100


async def test_a_certificate_that_does_not_verify_needs_a_person_and_is_probed_like_an_outage(gated: Gated) -> None:
    await gated.failed(AccessRefused("render", "the certificate has expired"))
    assert gated.gate.needs_person
    assert 0 < gated.gate.pause_s < 2
