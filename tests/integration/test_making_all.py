"""Jobs in the pool and unrecorded reports together never exceed the slots."""

import asyncio

from daemon.simulator.section import plan_section
from daemon.simulator.temca import write_section
from handlers.generate_mipmaps import make_all
from handlers.mipmaps.job import MipmapJob
from handlers.workers.opening import open_executor


async def test_a_slow_journal_limits_the_tiles_in_work_to_the_slots(tmp_path):
    section = write_section(plan_section(tiles=12, size=(64, 64)), tmp_path, pixels="noise")
    jobs = [MipmapJob(image.stem, image, ((1, tmp_path / "mipmaps" / image.name),), 64, 64) for image in section.images]
    recorded, most_unrecorded = 0, 0

    async def record(reports):
        nonlocal recorded, most_unrecorded
        await asyncio.sleep(0.2)  # a busy disk: the tiles are far quicker
        made = len(list((tmp_path / "mipmaps").glob("*.tif")))
        most_unrecorded = max(most_unrecorded, made - recorded)
        assert not [report.fault for report in reports if report.fault]
        recorded += len(reports)

    with open_executor("processes", 2) as pool:
        slots = asyncio.Semaphore(3)
        await make_all(pool, jobs, record, slots=slots, stop=asyncio.Event())
    assert recorded == len(jobs)
    assert 1 <= most_unrecorded <= 3
    assert not slots.locked()
