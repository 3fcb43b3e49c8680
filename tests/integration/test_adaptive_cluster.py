"""A cluster that grows and shrinks by the tasks that it sees."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.workers import pool as worker_pool
from handlers.workers.pool import WorkerPool, open_executor, run_job
from tests.integration import slow_tiles
from tests.integration.cluster import Cluster, is_ready, running_cluster, wait_for_crew
from tests.integration.test_executors import job_for

MOST, TILES = 3, 40


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def pool(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(worker_pool, "make_mipmaps", slow_tiles.made_slowly)
    with open_executor("dask", 2, cluster.address, job_timeout_s=60) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_adaptive_cluster_grows_from_no_worker_and_shrinks_with_tiles_under_way(
    cluster: Cluster, pool: WorkerPool, tmp_path: Path
) -> None:
    cluster.start_adaptive(MOST)
    crew = wait_for_crew(pool, lambda crew: not crew.fault, "the scheduler is used")
    assert crew.members == ()
    jobs = [job_for(tmp_path, f"tile{number}") for number in range(TILES)]
    tasks = [asyncio.create_task(run_job(pool, job)) for job in jobs]

    async def become(workers: int) -> None:
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: is_ready(crew, workers), f"{workers} workers", 60)
        assert pool.crew.tiles, "tiles are under way"

    await become(MOST)
    cluster.adapt(1)
    await become(1)
    cluster.adapt(MOST)
    await become(MOST)
    reports = await asyncio.wait_for(asyncio.gather(*tasks), 120)
    assert not [report.fault for report in reports if report.fault]
    assert [report.tile_id for report in reports] == [job.tile_id for job in jobs]
    assert all(len(report.made) == 2 for report in reports)
    files = sorted(path.relative_to(tmp_path / "mipmaps") for path in (tmp_path / "mipmaps").rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "mipmaps") for job in jobs for _, path in job.outputs)
    starts = [line.split() for line in (tmp_path / slow_tiles.STARTS).read_text().splitlines()]
    made = Counter(tile for tile, _ in starts)
    assert made.keys() == {job.tile_id for job in jobs}
    assert sum(made.values()) <= TILES + MOST, "only tiles under way in workers that left are made again"
    assert len({pid for _, pid in starts}) > MOST, "workers left and others came"
    await asyncio.to_thread(wait_for_crew, pool, lambda crew: not crew.members, "an idle cluster has no worker", 60)
    assert (await asyncio.wait_for(run_job(pool, job_for(tmp_path, "late")), 60)).fault is None
