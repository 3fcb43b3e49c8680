"""A dask cluster of separate processes: schedulers and workers end and return, and no tile is lost."""

import asyncio
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.errors import Waiting
from handlers.mipmaps.report import MipmapReport
from handlers.workers import pool as worker_pool
from handlers.workers.cluster import leftovers
from handlers.workers.cluster.access import ClusterAccess, WorkerPath
from handlers.workers.cluster.connection import Connection, SchedulerAway
from handlers.workers.cluster.on_worker import versions_here
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool, run_job
from handlers.workers.worker import WorkerDeath
from tests.integration.cluster import (
    Cluster,
    is_ready,
    make_certificates,
    on_host,
    running_cluster,
    tls_options,
    wait_for,
    wait_for_crew,
)
from tests.integration.test_executors import job_for
from tests.integration.toy_jobs import release, toy_job


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path / "cluster") as running:
        yield running


@pytest.fixture
def pool(cluster: Cluster) -> Iterator[WorkerPool]:
    with open_executor("dask", 2, cluster.address, job_timeout_s=60) as opened:
        yield opened


async def test_another_program_at_the_address_of_the_scheduler_is_named_as_such() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(SchedulerAway, match=r"is not a dask scheduler .start it there, or correct workers\."):
            async with Connection.connect(ClusterAccess(f"tcp://{host}:{port}")):
                pass


@pytest.mark.slow
async def test_a_job_waits_for_a_scheduler_and_a_worker_that_start_later(
    cluster: Cluster, pool: WorkerPool, tmp_path: Path
) -> None:
    wait_for_crew(pool, lambda crew: "does not answer" in crew.fault, "the scheduler is reported as missing")
    first = asyncio.create_task(run_job(pool, job_for(tmp_path, "first")))
    cluster.start_scheduler()
    cluster.start_worker()
    report = await asyncio.wait_for(first, 90)
    assert report.fault is None
    assert is_ready(pool.crew)


def run_with_the_others_held(pool: WorkerPool, directory: Path) -> "list[asyncio.Task[MipmapReport]]":
    """Start a job, and five jobs that wait until they are released."""
    names = ("first", *(f"held{number}" for number in range(5)))
    return [asyncio.create_task(run_job(pool, job_for(directory, name))) for name in names]


@pytest.mark.slow
class TestLostProcesses:
    async def test_jobs_of_a_killed_scheduler_are_done_after_its_restart(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        faults: list[str] = []
        pool.on_scheduler = faults.append
        cluster.start_scheduler()
        worker = cluster.start_worker()
        wait_for_crew(pool, is_ready, "the worker is ready")
        jobs = run_with_the_others_held(pool, tmp_path)
        await asyncio.wait_for(jobs[0], 60)
        cluster.kill_scheduler()
        cluster.kill_worker(worker)
        crew = await asyncio.to_thread(wait_for_crew, pool, lambda crew: crew.fault, "the loss is noticed")
        assert crew.tiles
        assert next(crew.reasons()).startswith("the dask scheduler cannot be used: tcp://")
        release(job_for(tmp_path, "first"))
        cluster.start_scheduler()
        cluster.start_worker()
        reports = await asyncio.wait_for(asyncio.gather(*jobs), 90)
        assert not [report.fault for report in reports if report.fault]
        assert not pool.crew.fault
        assert faults[-1] == ""
        assert any(faults)
        assert pool.rebuilt == 0

    async def test_the_tiles_of_a_killed_worker_are_done_by_a_new_worker(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        cluster.start_scheduler()
        worker = cluster.start_worker()
        jobs = run_with_the_others_held(pool, tmp_path)
        await asyncio.wait_for(jobs[0], 60)
        cluster.kill_worker(worker)
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: not crew.members, "the worker's end is noticed")
        assert pool.crew.tiles
        release(job_for(tmp_path, "first"))
        cluster.start_worker()
        reports = await asyncio.wait_for(asyncio.gather(*jobs), 90)
        assert not [report.fault for report in reports if report.fault]

    async def test_a_worker_at_the_end_of_its_lifetime_leaves_its_tiles_to_other_workers(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`--lifetime` ends a worker before its batch job ends."""
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        cluster.start_scheduler()
        leaving = cluster.start_worker("--lifetime", "4 seconds")
        cluster.start_worker()
        done = 0
        while leaving.poll() is None:
            report = await asyncio.wait_for(run_job(pool, job_for(tmp_path, f"slow{done}")), 60)
            assert report.fault is None
            done += 1
        assert (await asyncio.wait_for(run_job(pool, job_for(tmp_path, "last")), 60)).fault is None


@pytest.mark.slow
class TestTilesThatKillWorkers:
    async def test_only_the_tile_that_kills_its_own_process_is_reported(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The scheduler blames every job of a worker that died."""
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        deaths: list[WorkerDeath] = []
        pool.on_death = deaths.append
        cluster.environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"
        cluster.start_scheduler()
        cluster.start_worker(threads=2, nanny=True)
        wait_for_crew(pool, is_ready, "the worker is ready")
        names = ("slow1", "killer", "slow2", "slow3")
        reports = await asyncio.wait_for(
            asyncio.gather(*(run_job(pool, job_for(tmp_path, name)) for name in names)), 90
        )
        assert [report.tile_id for report in reports if report.fault] == ["killer"]
        fault = reports[1].fault
        assert fault is not None
        assert fault.problem == "killed its worker process, run alone: signal SIGKILL"
        assert fault.to_fault().waiting_helps is Waiting.LIMITED
        workers = cluster.logs().count("Starting worker") + cluster.logs().count("Start worker at")
        again = await asyncio.wait_for(run_job(pool, job_for(tmp_path, "killer")), 60)
        assert again.fault == fault
        assert cluster.logs().count("Starting worker") + cluster.logs().count("Start worker at") == workers
        assert deaths == [WorkerDeath("killer", "signal SIGKILL")] * 2


class TestFileSystemsOfWorkers:
    @pytest.mark.slow
    async def test_a_worker_without_the_file_systems_gets_no_tiles_and_others_do_them(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path
    ) -> None:
        acquisition, mipmaps = tmp_path / "acquisition", tmp_path / "mipmaps"
        jobs = [job_for(tmp_path, f"tile{number}") for number in range(4)]
        mipmaps.mkdir()
        cluster.start_scheduler()
        cluster.start_worker(wrapper=on_host("blind", f"mount -t tmpfs none {shlex.quote(str(acquisition))}"))
        cluster.start_worker(wrapper=on_host("apart", f"mount -t tmpfs none {shlex.quote(str(mipmaps))}"))
        first = asyncio.create_task(run_job(pool, jobs[0]))
        await asyncio.to_thread(wait_for_crew, pool, lambda crew: len(list(crew.warnings())) == 2, "both are refused")
        assert sorted(pool.crew.warnings()) == [
            f"workers on apart get no tiles: cannot read the daemon's file in {mipmaps}/1: No such file or directory",
            f"workers on blind get no tiles: does not see {acquisition}/tile0.tif: No such file or directory",
        ]
        assert next(pool.crew.reasons()).startswith(f"no worker of the dask scheduler {cluster.address} can make tiles")
        cluster.start_worker(wrapper=on_host("sees", "true"))
        reports = [await asyncio.wait_for(first, 60)]
        reports += await asyncio.wait_for(asyncio.gather(*(run_job(pool, job) for job in jobs[1:])), 60)
        assert not [report.fault for report in reports if report.fault]
        assert not list(pool.crew.reasons())
        assert not list(mipmaps.rglob(".temwatch*"))

    @pytest.mark.slow
    async def test_a_worker_with_the_files_at_another_path_gets_its_own_paths(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
        data.mkdir()
        elsewhere.mkdir()
        job, missing = job_for(data), job_for(data, "missing")
        missing.level0.unlink()
        paths = (WorkerPath("node*", data, elsewhere),)
        cluster.start_scheduler()
        moved = f"mount --bind {shlex.quote(str(data))} {shlex.quote(str(elsewhere))}"
        cluster.start_worker(wrapper=on_host("node7", f"{moved} && mount -t tmpfs none {shlex.quote(str(data))}"))
        with open_executor("dask", 2, cluster.address, worker_paths=paths, job_timeout_s=60) as pool:
            report, failed = await asyncio.wait_for(asyncio.gather(run_job(pool, job), run_job(pool, missing)), 90)
        assert report.fault is None
        assert [made.path for made in report.made] == [path for _, path in job.outputs]
        assert all(path.exists() for _, path in job.outputs)
        assert failed.fault is not None
        assert failed.fault.subject == str(missing.level0)


def running_and_dead(on_node: list[str], running: int) -> list[str]:
    """Return the names of two writers on a host: a running process, and a process that has ended."""
    code = (
        "import subprocess; from handlers.stores.temporary import machine, maker\n"
        "ended = subprocess.Popen(['true']); ended.wait()\n"
        f"print(maker({running}), f'{{machine()}}-{{ended.pid}}-1')"
    )
    done = subprocess.run([*on_node, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def count_listings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that grows with each listing of directories."""
    real, listings = leftovers._left_in, list[object]()

    def counting(directories: Iterable[Path]) -> dict[Path, list[Path] | None]:
        listings.append(None)
        return real(directories)

    monkeypatch.setattr(leftovers, "_left_in", counting)
    return listings


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_temporary_files_of_dead_workers_are_removed_and_those_of_a_running_worker_on_another_host_stay(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "RETRY_S", 0.2)
    monkeypatch.setattr(leftovers, "QUIET_S", 0.2)
    listings, visited = count_listings(monkeypatch), tmp_path / "journal.sqlite-visited"
    on_node = on_host("node7", "true")
    cluster.start_scheduler()
    worker = cluster.start_worker(wrapper=on_node)
    levels = tmp_path / "mipmaps" / "2"
    with open_executor("dask", 2, cluster.address, visited=visited, job_timeout_s=60) as pool:
        await asyncio.wait_for(
            run_job(pool, job_for(tmp_path, "first")), 120
        )  # its process has cleaned the directories
        of_running, of_dead = (levels / f".a.tif.{writer}-0.tmp" for writer in running_and_dead(on_node, worker.pid))
        of_unknown, of_old = (levels / f".{name}.tif.00000000-1-1-0.tmp" for name in ("c", "d"))
        files = (of_running, of_dead, of_unknown, of_old)
        for path in files:
            path.write_bytes(b"half a lev")
        os.utime(of_old, (0, 0))
        assert (await asyncio.wait_for(run_job(pool, job_for(tmp_path, "second")), 120)).fault is None
        await asyncio.to_thread(wait_for, lambda: not of_dead.exists() and not of_old.exists(), "they are removed", 120)
        before = len(listings)
        await asyncio.to_thread(wait_for, lambda: len(listings) > before + 3, "the directories are listed again", 120)
        assert [path for path in files if path.exists()] == [of_running, of_unknown]
    cluster.kill_worker(worker)
    cluster.start_worker(wrapper=on_node)
    with open_executor("dask", 2, cluster.address, visited=visited, job_timeout_s=60):
        await asyncio.to_thread(wait_for, lambda: not of_running.exists(), "a new worker on that host removes it", 120)
        assert of_unknown.exists()


@pytest.mark.slow
class TestVersions:
    async def test_differing_versions_are_one_note_and_a_worker_with_another_temwatch_gets_no_tiles(
        self, cluster: Cluster, pool: WorkerPool, tmp_path: Path
    ) -> None:
        cluster.start_scheduler()
        cluster.start_worker(code=OTHER_TEMWATCH, wrapper=on_host("old", "true"))
        cluster.start_worker(code=OTHER_PYTHON, wrapper=on_host("strange", "true"))
        report = await asyncio.wait_for(run_job(pool, job_for(tmp_path)), 90)
        assert report.fault is None
        crew = wait_for_crew(
            pool,
            lambda crew: len(crew.hosts()) == 2 and "old" in str(crew.notes),
            "both workers have reported their versions",
        )
        (note,) = crew.notes
        here = versions_here()
        assert note == (
            f"versions differ in the cluster: python is {here['python']} here, 3.9.1 on strange; "
            f"temwatch is {here['temwatch']} here, 0.0.1 on old"
        )
        assert "\n" not in note
        refused = next(host for host in crew.hosts() if host.host == "old")
        assert refused.problems == (
            f"has temwatch 0.0.1 and the daemon {here['temwatch']}: install the same version there",
        )


OTHER_TEMWATCH = """
import importlib.metadata as metadata
original = metadata.version
metadata.version = lambda name: "0.0.1" if name == "temwatch" else original(name)
"""
OTHER_PYTHON = """
import platform
platform.python_version = lambda: "3.9.1"
"""
WITHOUT_TEMWATCH = """
import sys
sys.modules["handlers"] = sys.modules["daemon"] = None
"""


@pytest.mark.slow
async def test_a_scheduler_without_temwatch_keeps_nothing_of_finished_jobs(
    cluster: Cluster, pool: WorkerPool, tmp_path: Path
) -> None:
    import cloudpickle
    from distributed import Client

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the scheduler cannot import this module
    cluster.start_scheduler(WITHOUT_TEMWATCH)
    cluster.start_worker(threads=2)
    bad = job_for(tmp_path, "bad")
    bad.level0.write_bytes(b"no image")
    jobs = [bad, *(job_for(tmp_path, f"tile{number}") for number in range(40))]
    reports = await asyncio.wait_for(asyncio.gather(*(run_job(pool, job) for job in jobs)), 90)
    assert [report.tile_id for report in reports if report.fault] == ["bad"]
    cancelled = asyncio.create_task(run_job(pool, jobs[1]))
    await asyncio.sleep(0)
    cancelled.cancel()
    with Client(cluster.address, set_as_default=False) as client:
        wait_for(lambda: client.run_on_scheduler(kept_by) == KEPT_WHEN_IDLE, "the scheduler forgets the tasks", 60)
    wait_for_crew(pool, lambda crew: crew.tiles == 0, "no job is left here")


KEPT_WHEN_IDLE = {"tasks": 0, "groups": 0, "wanted": 0, "unrunnable": 0}


def kept_by(dask_scheduler: Any) -> dict[str, int]:
    """Return the numbers of objects that a scheduler keeps for tasks."""
    return {
        "tasks": len(dask_scheduler.tasks),
        "groups": len(dask_scheduler.task_groups),
        "wanted": sum(len(client.wants_what) for client in dask_scheduler.clients.values()),
        "unrunnable": len(dask_scheduler.unrunnable),
    }


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    for name in ("right", "wrong"):
        make_certificates(tmp_path / "certificates" / name)
    return tmp_path / "certificates"


class TestTls:
    @pytest.mark.slow
    async def test_jobs_use_tls_and_each_wrong_certificate_or_key_is_refused_with_the_reason(
        self, tmp_path: Path, certificates: Path
    ) -> None:
        right, wrong = certificates / "right", certificates / "wrong"
        with running_cluster(tmp_path / "cluster", protocol="tls") as cluster:
            cluster.tls = tls_options(right, "scheduler")
            cluster.start_scheduler()
            cluster.tls = tls_options(right, "worker")
            cluster.start_worker()
            access = ClusterAccess(cluster.address, right / "ca.pem", right / "client.pem", right / "client-key.pem")
            assert access.security().require_encryption, "dask may connect to a worker without TLS"
            with open_executor("dask", 1, access) as pool:
                report = await asyncio.wait_for(run_job(pool, job_for(tmp_path)), 90)
            assert report.fault is None
            with open_executor("dask", 1, replace(access, ca_file=wrong / "ca.pem")) as pool:
                crew = wait_for_crew(pool, lambda crew: "has not answered" not in crew.fault, "it is refused")
                assert crew.fault == f"{cluster.address}: its certificate does not verify: CERTIFICATE_VERIFY_FAILED"
            unknown = replace(access, certificate_file=wrong / "client.pem", key_file=wrong / "client-key.pem")
            with open_executor("dask", 1, unknown) as pool:
                crew = wait_for_crew(pool, lambda crew: "has not answered yet" not in crew.fault, "it is refused")
                assert crew.fault == f"{cluster.address} refuses the certificate in {wrong / 'client.pem'}"
            (right / "client-key.pem").chmod(0o644)
            with open_executor("dask", 1, access) as pool:
                crew = wait_for_crew(pool, lambda crew: "has not answered yet" not in crew.fault, "it is refused")
                assert crew.fault.startswith(f"workers.dask_key_file: {right}/client-key.pem is open to other users")
