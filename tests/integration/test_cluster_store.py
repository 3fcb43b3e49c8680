"""Workers of a cluster that write levels to an object store: each proves first that it can write there."""

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

UNKNOWN_KEY = "unknown"


def refuse_the_unknown_key(request: Request) -> object_store.Answer:
    """Answer as S3 does to a key that it does not know."""
    is_unknown = any(f"Credential={UNKNOWN_KEY}/" in value for value in request.headers.values())
    return object_store.error(403, "InvalidAccessKeyId", "The key does not exist.") if is_unknown else None


@pytest.fixture
def layer() -> Iterator[FaultLayer]:
    with object_store.moto_with_keys() as url, FaultLayer(url).running() as layer:
        object_store.make_bucket(url, "facility")
        layer.rule = refuse_the_unknown_key
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


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_a_worker_without_access_to_the_store_gets_no_tiles_and_others_do_them(
    cluster: Cluster, layer: FaultLayer, output_dir: ObjectPlace, tmp_path: Path
) -> None:
    cluster.environment["AWS_ACCESS_KEY_ID"] = UNKNOWN_KEY
    cluster.start_worker(wrapper=on_host("node1", "true"))
    with open_executor("dask", 2, cluster.address, job_timeout_s=60) as pool:
        jobs = [tile_of(tmp_path / f"section{number}", output_dir, "tile") for number in range(3)]
        first = asyncio.create_task(run_job(pool, jobs[0]))
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: list(crew.warnings()), "the worker is refused", 120)
        (warning,) = pool.crew.warnings()
        assert warning.startswith(f"workers on node1 get no tiles: {output_dir}/{PROOF_PREFIX}")
        assert "403" in warning
        del cluster.environment["AWS_ACCESS_KEY_ID"]
        cluster.start_worker(wrapper=on_host("node2", "true"))
        reports = [await asyncio.wait_for(first, 120)]
        reports += [await asyncio.wait_for(run_job(pool, job), 120) for job in jobs[1:]]
    assert not [report.fault for report in reports if report.fault]
    made = [level.path for report in reports for level in report.made]
    objects = Objects(output_dir.bucket)
    assert all(isinstance(place, ObjectPlace) and objects.stat(place) for place in made)
    proofs = [each.path for each in layer.requests if each.method == "PUT" and PROOF_PREFIX in each.path]
    assert {path.rpartition("/")[0] for path in proofs} == {"/facility/mipmaps"}, (
        "a worker proves it once, and not for each section"
    )
    assert not [name for name, _ in objects.list(output_dir) if PROOF_PREFIX in name]
