"""Outages of render-ws with all parts in this process: no attempt is counted, and work resumes automatically."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from standin_control import Standin, client_of

from daemon.montages.states import MontageState, Step
from daemon.pipeline.order import retry
from daemon.pipeline.order.retry import Tries
from daemon.pipeline.steps.failures import FailureHandler
from handlers.errors import RenderBroken
from tests.integration.inprocess import Bench, bench

pytestmark = pytest.mark.usefixtures("fast_retries")

DATABASE = r"^(?!GET .*/versionInfo)"
"""Matches every request that needs the database of render-ws."""
SETTLED, COMPLETE, FAILED = MontageState.SETTLED, MontageState.COMPLETE, MontageState.FAILED


async def attempts_at(running: Bench, metafile: Path, step: str) -> list[dict[str, Any]]:
    montage = await running.montage(metafile)
    assert montage is not None
    return [each for each in await running.assembly.journal.attempts(montage.id) if each["step"] == step]


async def test_a_single_montage_waits_while_every_request_to_the_database_fails(
    tmp_path: Path, service: Standin
) -> None:
    async with client_of(service.url) as client, bench(tmp_path, client) as running:
        await service.set_fault(DATABASE, "status", status=500)
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: running.assembly.gate.fault)
        outage = running.assembly.gate.outage
        await running.until(lambda: running.assembly.gate._circuit.openings >= 20)
        assert (await running.reaches(metafile, SETTLED)).state is SETTLED
        assert len(await attempts_at(running, metafile, "ingest")) <= 2
        assert running.assembly.gate.outage == outage
        await service.clear_faults()
        await running.reaches(metafile, COMPLETE)
        assert running.assembly.gate.fault is None


READ_ONLY = {
    "no write succeeds": r"^(PUT|POST|DELETE) ",
    "no PUT succeeds": r"^PUT ",
    "no stack can be created": r"^POST ",
}
"""Database that can be read and not written: what fails -> the requests that fail."""


@pytest.mark.parametrize(
    ("failure", "answer"),
    [
        ("no write succeeds", {"status": 500, "text": "a bug"}),
        ("no write succeeds", {"status": 200}),
        ("no PUT succeeds", {"status": 500, "text": "a bug"}),
        ("no stack can be created", {"status": 500, "text": "a bug"}),
    ],
)
async def test_a_single_montage_waits_while_the_database_can_be_read_and_not_written(
    tmp_path: Path, service: Standin, failure: str, answer: dict[str, Any]
) -> None:
    async with client_of(service.url) as client, bench(tmp_path, client) as running:
        await service.set_fault(READ_ONLY[failure], "status", **answer)
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: running.assembly.gate._circuit.openings >= 3, 60)
        assert running.assembly.gate.fault is not None
        assert (await running.reaches(metafile, SETTLED, FAILED)).state is SETTLED
        await service.clear_faults()
        await running.reaches(metafile, COMPLETE)
        assert running.assembly.gate.fault is None


async def test_an_applied_montage_waits_while_the_database_can_be_read_and_not_written(
    tmp_path: Path, service: Standin
) -> None:
    async with client_of(service.url) as client, bench(tmp_path, client) as running:
        await service.set_fault(r"PUT .*/state/COMPLETE", "status", status=500, text="a bug")
        await service.set_fault(r"PUT .*/resolutionValues", "status", status=500, text="a bug")
        metafile = running.write()
        await running.notice(metafile)
        await running.until(lambda: running.assembly.gate._circuit.openings >= 3, 60)
        assert (await running.reaches(metafile, MontageState.APPLIED, FAILED)).state is MontageState.APPLIED
        await service.clear_faults()
        await running.reaches(metafile, COMPLETE)


async def test_a_montage_fails_after_five_attempts_if_only_its_own_request_fails(
    tmp_path: Path, service: Standin
) -> None:
    async with client_of(service.url) as client, bench(tmp_path, client) as running:
        await service.set_fault(r"PUT .*/stack/s_raw/z/", "status", status=500, text="a bug")
        metafile = running.write()
        await running.notice(metafile)
        await running.reaches(metafile, FAILED)
        assert len(await attempts_at(running, metafile, "ingest")) == 5
        assert running.assembly.gate.fault is None


@pytest.mark.slow
async def test_a_successful_step_ends_a_series_of_failures(tmp_path: Path, service: Standin) -> None:
    """Different montages that fail without a success between them would open the circuit."""
    async with client_of(service.url) as client, bench(tmp_path, client, close=False) as running:
        await service.set_fault(r"PUT .*/stack/s_raw/z/105[0-9]", "status", status=500, text="a bug")
        for grid in range(1050, 1056):
            failing, good = running.write(grid), running.write(grid + 1000)
            await running.notice(failing)
            await running.reaches(failing, FAILED)
            await running.notice(good)
            await running.reaches(good, COMPLETE)
        assert running.assembly.gate.outage == 0


class OutageGate:
    """A gate for which each failure begins another outage."""

    is_closed_circuit = False
    pause_s = 0.0

    def __init__(self) -> None:
        self.outage = 0

    async def failed(self, work: object, fault: object, written: object) -> None:
        self.outage += 1


async def test_a_failure_in_an_outage_is_retried_and_not_counted() -> None:
    enqueued: list[float] = []
    queue: Any = SimpleNamespace(enqueue=lambda _, delay_s: enqueued.append(delay_s))
    nothing: Any = SimpleNamespace()
    gate: Any = OutageGate()
    tries = Tries()
    handler = FailureHandler(journal=nothing, queue=queue, settler=nothing, superseder=nothing, gate=gate, tries=tries)
    montage: Any = SimpleNamespace(id=1, attempt=100, fault=None, raw_stack="em/v1/raw", mipmapped_stack=None)
    fault = RenderBroken("em/v1/raw", "answered 500")
    for _ in range(10):
        await handler.handle(montage, Step.INGEST, fault)
    assert len(enqueued) == 10
    assert tries.delay_s(1, fault, 100, 0.5) == retry.FIRST_DELAY_S
