"""Montages that put and delete the same tiles at once; the journal is real, the stack is a set."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import daemon.pipeline.steps.perform
from daemon.journal.journal import Journal
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from daemon.pipeline.order.tile_holds import TileHolds
from daemon.pipeline.steps.perform import Steps
from handlers.identity import FileIdentity
from handlers.render.names import StackId

STACK = StackId("em", "test", "raw")
NOTHING: frozenset[str] = frozenset()


class StepsOnASet:
    """Real steps with a stack that is a set. The deletion of tiles waits for `may_delete`."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = journal
        self.present: set[str] = set()
        self.about_to_delete, self.may_delete = asyncio.Event(), asyncio.Event()
        self._number = 0
        keeper: Any = SimpleNamespace(write=self._write)
        parts: dict[str, Any] = dict.fromkeys(("settings", "disks", "pool", "metrics"))
        client: Any = SimpleNamespace(tile_bounds=self._tile_bounds)
        self.steps = Steps(**parts, client=client, journal=journal, keeper=keeper, in_flight=1)
        monkeypatch.setattr(daemon.pipeline.steps.perform, "ingest_tiles", self._ingest_tiles)

    async def _write(
        self, watch: str, stack: StackId, resolution_nm: object, put: Callable[[], Awaitable[object]]
    ) -> None:
        await put()

    async def _tile_bounds(self, stack: StackId, z: float) -> list[SimpleNamespace]:
        return [SimpleNamespace(tile_id=each) for each in self.present]

    async def _ingest_tiles(
        self,
        client: object,
        stack: StackId,
        z: float,
        specs: list[dict[str, str]],
        transforms: object,
        *,
        unwanted: Collection[str],
    ) -> None:
        self.present |= {spec["tileId"] for spec in specs}
        if unwanted:
            self.about_to_delete.set()
            await self.may_delete.wait()
            self.present -= set(unwanted)

    async def settle(self, name: str, *tiles: str) -> int:
        self._number += 1
        identity = FileIdentity(1, self._number, self._number, self._number)
        montage_id = await self.journal.notice(Sighting("w", Path(f"/data/{name}.json"), identity, FoundBy.SCAN))
        assert montage_id is not None
        inspection = Inspection(montage_id, identity, identity, f"{self._number}")
        settled = Settled(f"{self._number}", 1.0, str(STACK), str(STACK), tiles, ())
        settling = await self.journal.settle(inspection, settled)
        assert not settling.rivals
        return montage_id

    async def ingest(self, montage_id: int) -> None:
        montage = await self.journal.montage(montage_id)
        specs = [{"tileId": each} for each in await self.journal.tile_ids(montage_id)]
        section: Any = SimpleNamespace(
            montage=montage,
            watch=SimpleNamespace(name="w"),
            raw=STACK,
            mipmapped=STACK,
            z=1.0,
            specs=specs,
            transform=None,
            resolution_nm=(1, 1, 1),
        )
        await self.steps.ingest(section)


@pytest.fixture
async def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StepsOnASet]:
    async with Journal(tmp_path / "journal.sqlite") as journal:
        yield StepsOnASet(journal, monkeypatch)


async def test_a_tile_that_another_metafile_takes_over_during_the_deletion_is_kept(steps):
    await steps.ingest(await steps.settle("a", "t1", "t2"))
    without = await steps.settle("a", "t1")
    deleting = asyncio.create_task(steps.ingest(without))
    await steps.about_to_delete.wait()
    taking_over = asyncio.create_task(steps.ingest(await steps.settle("b", "t2")))
    others = asyncio.create_task(steps.ingest(await steps.settle("c", "t3")))
    await others  # a step that shares no tile does not wait
    assert not taking_over.done()
    steps.may_delete.set()
    await asyncio.gather(deleting, taking_over)
    assert steps.present == {"t1", "t2", "t3"}


async def test_a_tile_that_another_metafile_took_over_before_the_deletion_is_kept(steps):
    await steps.ingest(await steps.settle("a", "t1", "t2"))
    without = await steps.settle("a", "t1")
    await steps.settle("b", "t2")
    await steps.ingest(without)
    assert steps.present == {"t1", "t2"}


async def test_two_steps_that_exchange_tiles_do_not_deadlock():
    holds = TileHolds()
    done: list[str] = []

    async def write(name: str, puts: str, deletes: str) -> None:
        async with holds.hold(STACK, frozenset({puts}), frozenset({deletes})):
            await asyncio.sleep(0)
            done.append(name)

    async with asyncio.timeout(60):
        await asyncio.gather(write("a", "t1", "t2"), write("b", "t2", "t1"))
    assert sorted(done) == ["a", "b"]


async def test_a_cancelled_step_releases_its_tiles():
    holds = TileHolds()
    held = asyncio.Event()

    async def write(puts: frozenset[str], deletes: frozenset[str], until: asyncio.Event) -> None:
        async with holds.hold(STACK, puts, deletes):
            held.set()
            await until.wait()

    never, at_once = asyncio.Event(), asyncio.Event()
    at_once.set()
    first = asyncio.create_task(write(NOTHING, frozenset({"t1"}), never))
    await held.wait()
    waiting = asyncio.create_task(write(frozenset({"t1"}), NOTHING, at_once))
    given_up = asyncio.create_task(write(frozenset({"t1"}), frozenset({"t1"}), at_once))
    await asyncio.sleep(0)
    given_up.cancel()
    first.cancel()
    async with asyncio.timeout(60):
        await waiting
        await asyncio.wait([first, given_up])
    assert first.cancelled()
    assert given_up.cancelled()
