"""The journal counts tiles by minute, watch and scope."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon.journal.journal import Journal
from daemon.journal.tables import overview, tallies
from daemon.montages.records import Inspection, Settled
from daemon.montages.sighting import FoundBy, Sighting
from handlers.identity import FileIdentity

STACK = "em/test/raw"
IDENTITY = FileIdentity(10, 1, 1, 1)
DAY_S = 24 * 3600


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def journal(tmp_path: Path, clock: Clock) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "journal.sqlite", clock) as opened:
        yield opened


async def settled(journal: Journal, number: int, scope: str | None, tape: str | None = None) -> int:
    path = Path(f"/data/_metadata_{number}_.json")
    montage_id = await journal.notice(Sighting("temca2", path, IDENTITY, FoundBy.SCAN))
    assert montage_id is not None
    found = Settled(f"{number}", float(number), STACK, STACK, (f"{number}",), (), scope=scope, tape=tape)
    await journal.settle(Inspection(montage_id, IDENTITY, IDENTITY, f"{number}"), found)
    return montage_id


async def since(journal: Journal, minute: int) -> dict[tuple[str, str], int]:
    return await journal.read(lambda connection: tallies.tiles_since(connection, minute))


async def test_a_montage_has_its_scope_and_tape(journal):
    montage = await journal.montage(await settled(journal, 1, "5", "0151"))
    assert (montage.scope, montage.tape) == ("5", "0151")


async def test_tiles_are_counted_by_scope_and_minute(journal, clock):
    first, second = await settled(journal, 1, "5"), await settled(journal, 2, None)
    await journal.record_tiles(first, {"a": None, "b": None})
    clock.now_s += 600
    await journal.record_tiles(first, {"c": None})
    await journal.record_tiles(second, {"d": None})
    assert await since(journal, 0) == {("temca2", "5"): 3, ("temca2", ""): 1}
    assert await since(journal, int(clock.now_s // 60)) == {("temca2", "5"): 1, ("temca2", ""): 1}


async def test_totals_survive_a_restart_and_old_minutes_are_summed(tmp_path, clock):
    async with Journal(tmp_path / "journal.sqlite", clock) as journal:
        montage_id = await settled(journal, 1, "5")
        for tile in range(5):
            await journal.record_tiles(montage_id, {str(tile): None})
            clock.now_s += DAY_S
    async with Journal(tmp_path / "journal.sqlite", clock) as journal:
        assert await since(journal, 0) == {("temca2", "5"): 5}
        rows = await journal.read(lambda c: c.execute("SELECT minute > 0, tiles FROM tiles_made ORDER BY 1").fetchall())
        assert rows == [(0, 3), (1, 1), (1, 1)]


async def test_completed_sections_are_counted_by_an_index(journal):
    plan = await journal.read(
        lambda connection: connection.execute(f"EXPLAIN QUERY PLAN {overview._COMPLETED}", (0.0,)).fetchall()
    )
    assert "SEARCH montages USING COVERING INDEX montages_by_completion" in plan[0][3]
