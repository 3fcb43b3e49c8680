"""Rechecks of FAILED montages, with a real journal and real files."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.journal.journal import Journal
from daemon.montages.records import AwaitedFile, Montage
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import Event, MontageState
from daemon.pipeline.changes import recheck
from daemon.pipeline.changes.recheck import Recheck
from handlers.errors import Evidence, ImagesMissing
from handlers.identity import FileIdentity

SETTINGS: Any = SimpleNamespace(watch=[SimpleNamespace(scan_interval_s=0.01)])


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite") as opened:
        yield opened


class Bench:
    """A recheck that records enqueued montages."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.observable = True
        self.enqueued: list[int] = []
        self.recheck = Recheck(
            lambda: SETTINGS, journal, is_observable=lambda _: self.observable, enqueue=self._enqueue
        )

    async def _enqueue(self, montage: Montage) -> None:
        self.enqueued.append(montage.id)

    async def failed(self, evidence: Evidence | None, number: int = 0, watch: str = "w") -> int:
        sighting = Sighting(watch, Path(f"/data/_metadata_{number}_.json"), FileIdentity(1, 1, 1, number), FoundBy.SCAN)
        montage_id = await self.journal.notice(sighting)
        assert montage_id is not None
        await self.fail_again(montage_id, evidence)
        return montage_id

    async def fail_again(self, montage_id: int, evidence: Evidence | None) -> None:
        fault = ImagesMissing("image", "is not there")
        await self.journal.fail(montage_id, fault.with_evidence(evidence) if evidence else fault)


async def test_an_image_that_arrives_has_its_montage_retried_and_the_events_say_why(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    montage_id = await bench.failed(Evidence.of(image))
    assert await bench.recheck.check() == 0
    image.write_bytes(b"pixels")
    assert await bench.recheck.check() == 1
    assert bench.enqueued == [montage_id]
    montage = await journal.montage(montage_id)
    assert montage is not None
    assert montage.state is MontageState.NOTICED
    last = (await journal.events(montage_id))[-1]
    assert last["event"] == Event.RETRIED
    assert last["detail"]["because"] == f"{image} has appeared"


async def test_a_montage_that_fails_again_waits_until_the_file_changes_again(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    image.write_bytes(b"broken")
    montage_id = await bench.failed(Evidence.of(image))
    image.write_bytes(b"broken in another way")
    assert await bench.recheck.check() == 1
    await bench.fail_again(montage_id, Evidence.of(image))
    assert [await bench.recheck.check() for _ in range(5)] == [0] * 5
    image.write_bytes(b"whole")
    assert await bench.recheck.check() == 1


async def test_a_file_that_vanishes_is_no_reason_to_retry(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    image.write_bytes(b"broken")
    await bench.failed(Evidence.of(image))
    image.unlink()
    assert await bench.recheck.check() == 0


async def test_the_next_process_knows_the_awaited_files(tmp_path):
    image = tmp_path / "a.tif"
    async with Journal(tmp_path / "journal.sqlite") as journal:
        montage_id = await Bench(journal).failed(Evidence.of(image))
    image.write_bytes(b"pixels")
    async with Journal(tmp_path / "journal.sqlite") as journal:
        bench = Bench(journal)
        assert await bench.recheck.check() == 1
        assert bench.enqueued == [montage_id]


async def test_a_montage_that_was_replayed_or_failed_without_a_file_is_not_rechecked(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    replayed = await bench.failed(Evidence.of(image))
    await journal.record(replayed, Event.RETRIED)
    other = await bench.failed(None, 1)
    assert await journal.awaited() == []
    assert other != replayed


async def test_an_inaccessible_watch_is_not_rechecked(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    await bench.failed(Evidence.of(image))
    image.write_bytes(b"pixels")
    bench.observable = False
    assert await bench.recheck.check() == 0
    bench.observable = True
    assert await bench.recheck.check() == 1


async def test_a_dead_file_server_stalls_only_the_recheck_of_its_watch(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(recheck, "STUCK_S", 0.2)
    bench, image, free = Bench(journal), tmp_path / "a.tif", threading.Event()
    hanging = tmp_path / "dead_mount" / "b.tif"
    await bench.failed(Evidence(hanging, None), 1, "dead")
    await bench.failed(Evidence.of(image), 2, "alive")
    image.write_bytes(b"pixels")
    look = Evidence.of

    def of(path: Path) -> Evidence:
        if path == hanging:
            free.wait(30)
        return look(path)

    monkeypatch.setattr(recheck.Evidence, "of", of)
    try:
        assert await bench.recheck.check() == 1
        assert await bench.recheck.check() == 0
    finally:
        free.set()
    await asyncio.wait(bench.recheck._checks.values(), timeout=10)


async def test_a_montage_superseded_between_check_and_retry_stays_superseded(journal, tmp_path):
    bench, image = Bench(journal), tmp_path / "a.tif"
    montage_id = await bench.failed(Evidence.of(image))
    await journal.record(montage_id, Event.SUPERSEDED)
    assert await bench.recheck._retry(montage_id, f"{image} has changed") is False
    assert bench.enqueued == []


async def test_an_awaited_file_costs_one_stat(journal, tmp_path):
    bench, table = Bench(journal), tmp_path / "z.csv"
    table.write_text("grid,z\n")
    now = Evidence.of(table)
    rows = [
        AwaitedFile(number, "w", image, now if number % 2 else Evidence(image, None))
        for number in range(5000)
        if (image := tmp_path / f"{number}.tif")
    ]

    async def awaited() -> list[AwaitedFile]:
        return rows

    journal.awaited = awaited  # type: ignore[method-assign]
    began = time.process_time()
    assert await bench.recheck.check() == 0
    assert time.process_time() - began < 2.0  # some 30 ms on an idle machine
