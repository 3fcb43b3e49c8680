"""Rechecks of FAILED montages, with a real journal and real files."""

import asyncio
import threading
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


class Rechecks:
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


async def test_a_montage_is_retried_when_its_image_arrives_and_the_event_contains_the_reason(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    montage_id = await rechecks.failed(Evidence.of(image))
    assert await rechecks.recheck.check() == 0
    image.write_bytes(b"pixels")
    assert await rechecks.recheck.check() == 1
    assert rechecks.enqueued == [montage_id]
    montage = await journal.montage(montage_id)
    assert montage is not None
    assert montage.state is MontageState.NOTICED
    last = (await journal.events(montage_id))[-1]
    assert last["event"] == Event.RETRIED
    assert last["detail"]["because"] == f"{image} has appeared"


async def test_a_montage_that_fails_again_waits_until_the_file_changes_again(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    image.write_bytes(b"broken")
    montage_id = await rechecks.failed(Evidence.of(image))
    image.write_bytes(b"broken in another way")
    assert await rechecks.recheck.check() == 1
    await rechecks.fail_again(montage_id, Evidence.of(image))
    assert [await rechecks.recheck.check() for _ in range(5)] == [0] * 5
    image.write_bytes(b"whole")
    assert await rechecks.recheck.check() == 1


async def test_a_montage_is_not_retried_when_its_file_is_deleted(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    image.write_bytes(b"broken")
    await rechecks.failed(Evidence.of(image))
    image.unlink()
    assert await rechecks.recheck.check() == 0


async def test_the_next_process_knows_the_awaited_files(tmp_path):
    image = tmp_path / "a.tif"
    async with Journal(tmp_path / "journal.sqlite") as journal:
        montage_id = await Rechecks(journal).failed(Evidence.of(image))
    image.write_bytes(b"pixels")
    async with Journal(tmp_path / "journal.sqlite") as journal:
        rechecks = Rechecks(journal)
        assert await rechecks.recheck.check() == 1
        assert rechecks.enqueued == [montage_id]


async def test_a_montage_that_was_replayed_or_failed_without_a_file_is_not_rechecked(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    replayed = await rechecks.failed(Evidence.of(image))
    await journal.record(replayed, Event.RETRIED)
    other = await rechecks.failed(None, 1)
    assert await journal.awaited() == []
    assert other != replayed


async def test_an_inaccessible_watch_is_not_rechecked(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    await rechecks.failed(Evidence.of(image))
    image.write_bytes(b"pixels")
    rechecks.observable = False
    assert await rechecks.recheck.check() == 0
    rechecks.observable = True
    assert await rechecks.recheck.check() == 1


async def test_a_dead_file_server_stalls_only_the_recheck_of_its_watch(journal, tmp_path, monkeypatch):
    monkeypatch.setattr(recheck, "STUCK_S", 0.05)
    rechecks, image, release = Rechecks(journal), tmp_path / "a.tif", threading.Event()
    hanging = tmp_path / "dead_mount" / "b.tif"
    await rechecks.failed(Evidence(hanging, None), 1, "dead")
    await rechecks.failed(Evidence.of(image), 2, "alive")
    image.write_bytes(b"pixels")
    real = Evidence.of

    def of(path: Path) -> Evidence:
        if path == hanging:
            release.wait(60)
        return real(path)

    monkeypatch.setattr(recheck.Evidence, "of", of)
    try:
        async with asyncio.timeout(50):
            while not await rechecks.recheck.check():  # on a slow machine, this check is stuck at first, too
                pass
        assert await rechecks.recheck.check() == 0
        assert len(rechecks.enqueued) == 1
    finally:
        release.set()
    await asyncio.wait(rechecks.recheck._checks.values(), timeout=60)


async def test_a_montage_that_is_superseded_between_check_and_retry_is_not_retried(journal, tmp_path):
    rechecks, image = Rechecks(journal), tmp_path / "a.tif"
    montage_id = await rechecks.failed(Evidence.of(image))
    await journal.record(montage_id, Event.SUPERSEDED)
    assert await rechecks.recheck._retry(montage_id, f"{image} has changed") is False
    assert rechecks.enqueued == []


async def test_each_awaited_file_is_examined_once_even_if_many_montages_wait_for_it(journal, tmp_path, monkeypatch):
    rechecks, table = Rechecks(journal), tmp_path / "z.csv"
    table.write_text("grid,z\n")
    files = [Evidence.of(table), *(Evidence(tmp_path / f"{number}.tif", None) for number in range(2_500))]
    rows = [AwaitedFile(number, "w", tmp_path / f"{number}.json", files[number % 2_501]) for number in range(5_000)]
    examined: list[Path] = []
    real = Evidence.of

    def of(path: Path) -> Evidence:
        examined.append(path)
        return real(path)

    async def awaited() -> list[AwaitedFile]:
        return rows

    monkeypatch.setattr(recheck.Evidence, "of", of)
    monkeypatch.setattr(journal, "awaited", awaited)
    assert await rechecks.recheck.check() == 0
    assert sorted(examined) == sorted(file.path for file in files)
