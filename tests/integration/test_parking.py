"""A montage whose step crashes the process repeatedly is parked; other montages are not."""

from pathlib import Path

import pytest

from daemon.journal.journal import Journal
from daemon.montages.sighting import FoundBy, Sighting
from daemon.montages.states import MontageState, Step
from daemon.pipeline.order.retry import CRASHES_BEFORE_PARKING
from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.identity import FileIdentity
from tests.integration.inprocess import bench, retry_fast


async def crash(root: Path, metafile: Path, times: int) -> None:
    """Begin `times` attempts at settling that never end."""
    for _ in range(times):
        async with Journal(root / "journal.sqlite") as journal:
            await journal.count_crashes()
            identity = FileIdentity.of(metafile.stat())
            await journal.notice(Sighting("w", metafile, identity, FoundBy.SCAN))
            (montage,) = await journal.montages(limit=2)
            await journal.begin_attempts([montage.id], Step.SETTLE)


@pytest.mark.parametrize("missing_crashes", [1, 0])
async def test_a_montage_fails_at_the_tenth_crash_in_a_row_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing_crashes: int
) -> None:
    retry_fast(monkeypatch)
    assert CRASHES_BEFORE_PARKING == 10
    plan = plan_section(tiles=2, size=(64, 64), grid=1050, specimen_id="s")
    metafile = write_section(plan, tmp_path / "acquisition", pixels="noise").metafile
    await crash(tmp_path, metafile, 10 - missing_crashes)
    async with bench(tmp_path) as running:
        montage = await running.reaches(metafile, MontageState.COMPLETE, MontageState.FAILED)
        if missing_crashes:
            assert (montage.state, montage.fault) == (MontageState.COMPLETE, None)
        else:
            assert montage.fault is not None
            assert montage.fault.problem.startswith("the daemon died 10 times in a row")
