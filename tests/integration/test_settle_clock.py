"""Settling while the wall clock is changed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon.pipeline.settling.settle import NotYet, Settler
from handlers.errors import MetafileFault

WATCH: Any = SimpleNamespace(
    ignore=(), directory=Path("/nowhere"), arrival_timeout_s=60.0, settle_s=1.0, scan_interval_s=5.0
)


class Clocks:
    """A settler with clocks that tests set, and a montage whose metafile is missing."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 100.0, 1_000_000.0
        self.settler = Settler(lambda: self.monotonic, lambda: self.wall)
        self.montage: Any = SimpleNamespace(id=1, metafile=Path("/nowhere/_metadata_1_.json"), changed_at=self.wall)

    async def check(self) -> Any:
        return await self.settler.check(self.montage, WATCH)


@pytest.mark.parametrize("step_s", [-1e6, 1e6])
async def test_a_change_of_the_wall_clock_does_not_change_the_age_of_a_montage(step_s):
    clocks = Clocks()
    assert isinstance(await clocks.check(), NotYet)
    clocks.wall += step_s
    clocks.monotonic += 50.0
    assert isinstance(await clocks.check(), NotYet)
    clocks.monotonic += 11.0
    with pytest.raises(MetafileFault, match="has been missing for more than"):
        await clocks.check()


async def test_the_age_of_a_montage_noticed_in_the_future_counts_from_the_first_check_of_this_process():
    clocks = Clocks()
    clocks.montage.changed_at += 1e6
    await clocks.check()
    clocks.monotonic += 61.0
    with pytest.raises(MetafileFault):
        await clocks.check()


async def test_the_time_before_the_start_of_this_process_counts():
    clocks = Clocks()
    clocks.wall += 61.0
    with pytest.raises(MetafileFault):
        await clocks.check()


async def test_a_montage_that_is_noticed_again_waits_the_full_time_again():
    clocks = Clocks()
    await clocks.check()
    clocks.monotonic += 59.0
    clocks.wall += 59.0
    clocks.montage.changed_at = clocks.wall
    await clocks.check()
    clocks.monotonic += 59.0
    assert isinstance(await clocks.check(), NotYet)
