"""Workers of a cluster whose levels go into an object store: each proves that it can write there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.container import Container
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.tile_jobs import tile_job
from handlers.objects.requests import Objects
from handlers.place import ObjectPlace
from handlers.workers.cluster.shared_directories import PROOF_PREFIX
from handlers.workers.opening import open_executor
from handlers.workers.pool import run_job
from tests import object_store
from tests.integration.cluster import Cluster, on_host, running_cluster, wait_for_crew
from tests.integration.test_executors import SIDE, job_for
from tests.object_store import FaultLayer, Request

STRANGER = "stranger"


def refusing_stranger(request: Request) -> object_store.Answer:
    """Answer as S3 does to a key that it does not know."""
    is_stranger = any(f"Credential={STRANGER}/" in value for value in request.headers.values())
    return object_store.error(403, "InvalidAccessKeyId", "The key does not exist.") if is_stranger else None


@pytest.fixture
def layer() -> Iterator[FaultLayer]:
    with object_store.moto_with_keys() as url, FaultLayer(url).running() as layer:
        object_store.make_bucket(url, "facility")
        layer.rule = refusing_stranger
        yield layer


@pytest.fixture
def output_dir(layer: FaultLayer) -> ObjectPlace:
    return object_store.place_at(layer.url, "facility", "mipmaps")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as cluster:
        cluster.start_scheduler()
        yield cluster


def tile_of(directory: Path, output_dir: ObjectPlace, name: str) -> MipmapJob:
    directory.mkdir()
    image = job_for(directory, name).level0
    assert isinstance(image, Path)
    plan, root = MipmapPlan(output_dir, levels=2), Container.of(directory.parent)
    return tile_job(Level0(name, image, None, SIDE, SIDE), plan, root)


@pytest.mark.timeout(400)
async def test_a_worker_without_access_to_the_store_gets_no_tiles_and_others_go_on(
    cluster: Cluster, layer: FaultLayer, output_dir: ObjectPlace, tmp_path: Path
) -> None:
    cluster.environment["AWS_ACCESS_KEY_ID"] = STRANGER
    cluster.start_worker(wrapper=on_host("poor", "true"))
    with open_executor("dask", 2, cluster.address, job_timeout_s=60) as pool:
        jobs = [tile_of(tmp_path / f"section{number}", output_dir, "tile") for number in range(3)]
        first = asyncio.create_task(run_job(pool, jobs[0]))
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: list(crew.warnings()), "the worker is refused", 120)
        (said,) = pool.crew.warnings()
        assert said.startswith(f"workers on poor get no tiles: {output_dir}/{PROOF_PREFIX}")
        assert "403" in said
        del cluster.environment["AWS_ACCESS_KEY_ID"]
        cluster.start_worker(wrapper=on_host("rich", "true"))
        reports = [await asyncio.wait_for(first, 120)]
        reports += [await asyncio.wait_for(run_job(pool, job), 120) for job in jobs[1:]]
    assert not [report.fault for report in reports if report.fault]
    made = [level.path for report in reports for level in report.made]
    objects = Objects(output_dir.bucket)
    assert all(isinstance(place, ObjectPlace) and objects.stat(place) for place in made)
    proofs = [each.path for each in layer.requests if each.method == "PUT" and PROOF_PREFIX in each.path]
    assert {path.rpartition("/")[0] for path in proofs} == {"/facility/mipmaps"}, "not again for each section"
    assert not [name for name, _ in objects.list(output_dir) if PROOF_PREFIX in name]
