"""A cluster that starts and ends workers according to its tasks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers import pool as worker_pool
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool, run_job
from tests.integration import slow_tiles
from tests.integration.cluster import Cluster, running_cluster, wait_for_crew
from tests.integration.test_executors import job_for
from tests.waiting import wait_for

MAX_WORKERS = 3
CONCURRENT_TILES = 30


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def pool(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(worker_pool, "make_mipmaps", slow_tiles.make_slowly)
    with open_executor("dask", 2, cluster.address, job_timeout_s=60) as opened:
        yield opened


class Feed:
    """Keeps CONCURRENT_TILES tiles under way until `is_enough` is set."""

    def __init__(self, pool: WorkerPool, directory: Path) -> None:
        self._pool, self._directory = pool, directory
        self.jobs: list[MipmapJob] = []
        self.reports: list[MipmapReport] = []
        self.is_enough = False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CONCURRENT_TILES):
                group.create_task(self._run_some())

    async def _run_some(self) -> None:
        while not self.is_enough:
            job = job_for(self._directory, f"tile{len(self.jobs)}")
            self.jobs.append(job)
            self.reports.append(await run_job(self._pool, job))

    def starts(self) -> list[tuple[str, str]]:
        """Return tile id and process id of each start."""
        path = self._directory / slow_tiles.STARTS
        lines = path.read_text().splitlines() if path.exists() else []
        return [(tile, process) for tile, process in map(str.split, lines)]

    def processes(self) -> set[str]:
        """Return the ids of the processes that have started tiles."""
        return {process for _, process in self.starts()}


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_an_adaptive_cluster_grows_from_no_worker_and_shrinks_with_tiles_under_way(
    cluster: Cluster, pool: WorkerPool, tmp_path: Path
) -> None:
    cluster.start_adaptive(MAX_WORKERS)
    crew = wait_for_crew(pool, lambda crew: not crew.fault, "the scheduler is used")
    assert crew.members == ()
    feed = Feed(pool, tmp_path)
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(feed.run())
        await asyncio.to_thread(
            wait_for, lambda: len(feed.processes()) == MAX_WORKERS, "all workers have started tiles", 90
        )
        cluster.adapt(1)
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: len(crew.members) == 1, "one worker is left", 90)
        cluster.adapt(MAX_WORKERS)
        await asyncio.to_thread(
            wait_for, lambda: len(feed.processes()) == 2 * MAX_WORKERS - 1, "new workers have started tiles", 90
        )
        assert not feeding.done()
        feed.is_enough = True
    assert not [report.fault for report in feed.reports if report.fault]
    assert sorted(report.tile_id for report in feed.reports) == sorted(job.tile_id for job in feed.jobs)
    written = sorted(path for path in (tmp_path / "mipmaps").rglob("*") if path.is_file() and path.suffix == ".tif")
    assert written == sorted(path for job in feed.jobs for _, path in job.outputs)
    starts = feed.starts()
    assert len(set(starts)) == len(starts), "no process starts a tile twice"
    assert {tile for tile, _ in starts} == {job.tile_id for job in feed.jobs}
    # A worker that ends loses its tile under way, and those whose reports the client has not fetched yet.
    for index, (tile, _) in enumerate(starts):
        former = {process for each, process in starts[:index] if each == tile}
        later = {process for _, process in starts[index:]}
        assert not former & later, f"{tile} was started again, although its worker had not ended: {starts}"
    await asyncio.to_thread(wait_for_crew, pool, lambda crew: not crew.members, "an idle cluster has no worker", 90)
    assert (await asyncio.wait_for(run_job(pool, job_for(tmp_path, "late")), 90)).fault is None
