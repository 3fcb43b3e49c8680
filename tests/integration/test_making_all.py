"""Jobs in the pool and unrecorded reports together never exceed the slots."""

import asyncio

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.generate_mipmaps import make_all
from handlers.mipmaps.job import MipmapJob
from handlers.workers.opening import open_executor

SLOTS = 3


async def test_a_slow_journal_limits_unrecorded_tiles_to_the_slots(tmp_path):
    section = write_section(plan_section(tiles=12, size=(64, 64)), tmp_path, pixels="noise")
    jobs = [MipmapJob(image.stem, image, ((1, tmp_path / "mipmaps" / image.name),), 64, 64) for image in section.images]
    recorded, unrecorded = 0, []

    def made() -> int:
        return len(list((tmp_path / "mipmaps").glob("*.tif")))

    async def record(reports):
        nonlocal recorded
        async with asyncio.timeout(60):
            while made() - recorded < min(SLOTS, len(jobs) - recorded):  # noqa: ASYNC110  workers make them
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # a further tile would be made in this time
        unrecorded.append(made() - recorded)
        assert not [report.fault for report in reports if report.fault]
        recorded += len(reports)

    with open_executor("processes", 2) as pool:
        slots = asyncio.Semaphore(SLOTS)
        await make_all(pool, jobs, record, slots=slots, stop=asyncio.Event())
    assert recorded == len(jobs)
    assert max(unrecorded) == SLOTS
    assert not slots.locked()
