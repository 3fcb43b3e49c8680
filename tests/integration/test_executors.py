"""Executors: one conformance suite for all kinds; then workers that die and hang in real processes."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers.errors import SettingsFault, StorageFault, Waiting, WorkerFault, WorkersUnavailable
from handlers.images.reduction import Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers import opening, results
from handlers.workers import pool as worker_pool
from handlers.workers import processes as worker_processes
from handlers.workers.backend import Backend
from handlers.workers.fork_server import PRELOADED
from handlers.workers.opening import ExecutorKind, open_executor
from handlers.workers.pool import WorkerPool, run_job
from handlers.workers.processes import ProcessExecutor
from handlers.workers.worker import NICENESS, WorkerContext, WorkerDeath
from tests.integration.cluster import running_cluster
from tests.integration.toy_jobs import release, toy_job
from tests.waiting import wait_for

SIDE = 64
HANG_LIMIT_S = 4.0
"""Time limit of jobs: on a busy machine, a job of milliseconds takes a second. A dask worker imports numpy first."""
HAS_MEMORY_LIMIT = "__import__('resource').getrlimit(__import__('resource').RLIMIT_AS)[0] > 0"
"""RLIM_INFINITY is -1. A dask worker is limited only while it has jobs, since other programs may use it."""


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture(scope="module")
def dask_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_scheduler()
        cluster.start_worker()
        yield cluster.address


@pytest.fixture(scope="module")
def dask_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start workers with nannies, which can restart them."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_scheduler()
        for _ in range(2):
            cluster.start_worker(nanny=True)
        yield cluster.address


@pytest.fixture(params=["inline", "processes", "dask"])
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    kind: ExecutorKind = request.param
    address = request.getfixturevalue("dask_address") if kind == "dask" else None
    with open_executor(kind, 2, address) as opened:
        yield opened


@pytest.fixture
def processes() -> Iterator[WorkerPool]:
    with open_executor("processes", 2) as opened:
        yield opened


def pids_of(executor: ProcessExecutor) -> list[int]:
    """Return the process ids of its workers, all of which have started."""
    return [process.pid for process in executor._context.started if process.pid]


def job_for(directory: Path, name: str = "a", **changes: Any) -> MipmapJob:
    """Return a job on a real image."""
    level0 = directory / "acquisition" / f"{name}.tif"
    if not level0.exists():
        level0.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (SIDE, SIDE), np.uint8)
        Image.fromarray(pixels).save(level0)
    outputs = tuple((level, directory / "mipmaps" / str(level) / f"{name}.tif") for level in (1, 2))
    values: dict[str, Any] = {"tile_id": name, "outputs": outputs, "width": SIDE, "height": SIDE, **changes}
    return MipmapJob(level0=level0, **values)


class TestEveryKind:
    async def test_a_job_runs_and_is_reported(self, pool: WorkerPool, tmp_path: Path) -> None:
        report = await run_job(pool, job_for(tmp_path))
        assert report.fault is None
        assert report.tile_id == "a"
        assert [(made.level, made.width) for made in report.made] == [(1, SIDE // 2), (2, SIDE // 4)]
        assert all(made.path.stat().st_size == made.bytes for made in report.made)

    async def test_a_bad_image_is_reported_and_other_jobs_succeed(self, pool: WorkerPool, tmp_path: Path) -> None:
        bad = job_for(tmp_path, "bad")
        bad.level0.write_bytes(b"no image")
        jobs = [job_for(tmp_path, "a"), bad, job_for(tmp_path, "c")]
        reports = await asyncio.gather(*(run_job(pool, job) for job in jobs))
        assert [report.fault.kind if report.fault else None for report in reports] == [None, "ImageFault", None]

    async def test_a_missing_mount_is_reported_as_a_fault_that_waiting_helps(
        self, pool: WorkerPool, tmp_path: Path
    ) -> None:
        job = job_for(tmp_path)
        missing = MipmapJob("t", tmp_path / "missing" / "a.tif", job.outputs, SIDE, SIDE)
        report = await run_job(pool, missing)
        assert report.fault is not None
        assert isinstance(report.fault.to_fault(), StorageFault)

    async def test_many_jobs_at_once_all_succeed(self, pool: WorkerPool, tmp_path: Path) -> None:
        jobs = [job_for(tmp_path, f"tile{number}") for number in range(30)]
        reports = await asyncio.gather(*(run_job(pool, job) for job in jobs))
        assert [report.tile_id for report in reports] == [job.tile_id for job in jobs]
        assert not [report.fault for report in reports if report.fault]

    async def test_a_repeated_job_makes_its_levels_again(self, pool: WorkerPool, tmp_path: Path) -> None:
        job = job_for(tmp_path)
        first = await run_job(pool, job)
        for made in first.made:
            made.path.unlink()
        again = await run_job(pool, job)
        assert again.made == first.made
        assert all(made.path.exists() for made in again.made)

    async def test_an_exception_of_a_submitted_function_is_raised(self, pool: WorkerPool) -> None:
        with pytest.raises(ZeroDivisionError):
            await results.result_of(pool.executor.submit(divmod, 1, 0))

    async def test_concurrent_copies_of_a_job_leave_no_temporary_file(self, pool: WorkerPool, tmp_path: Path) -> None:
        reports = await asyncio.gather(*(run_job(pool, job_for(tmp_path)) for _ in range(6)))
        assert not [report.fault for report in reports if report.fault]
        assert not list(tmp_path.rglob("*.tmp"))


class TestOpening:
    def test_an_unknown_kind_is_a_settings_fault(self) -> None:
        with pytest.raises(SettingsFault, match="'threads' is not one of"), open_executor("threads", 1):  # type: ignore[arg-type]
            pass

    def test_a_count_of_zero_workers_is_a_settings_fault(self) -> None:
        with (
            pytest.raises(SettingsFault, match=r"workers\.count: expected 1 .* found 0"),
            open_executor("processes", 0),
        ):
            pass


class TestWorkerProcesses:
    def test_workers_import_no_more_than_they_need(self, processes: WorkerPool) -> None:
        names = set(processes.executor.submit(eval, "set(__import__('sys').modules)").result(60))
        assert "handlers.mipmaps.make" in names
        unwanted = {
            "daemon",
            "aiohttp",
            "asyncio",
            "structlog",
            "sqlite3",
            "pytest",
            "pydantic",
            "watchdog",
        }
        assert not names & unwanted
        assert not {"handlers.workers.pool", "handlers.workers.opening"} & names

    def test_workers_import_nothing_that_the_fork_server_has_not_imported(self, tmp_path: Path) -> None:
        code = f"import sys, importlib; [importlib.import_module(name) for name in {PRELOADED}]; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-u", "-c", code], check=True, capture_output=True, text=True)
        with open_executor("processes", 1) as pool:
            assert pool.submit(job_for(tmp_path, "a")).result(60).fault is None
            names = set(pool.executor.submit(eval, "set(__import__('sys').modules)").result(60))
        assert names - set(done.stdout.split()) == set()

    def test_the_garbage_collector_ignores_the_objects_that_workers_share_with_the_fork_server(
        self, processes: WorkerPool
    ) -> None:
        gc_of_worker = "(g := __import__('gc')).isenabled(), g.get_freeze_count(), len(g.get_objects())"
        is_enabled, frozen, own = processes.executor.submit(eval, f"({gc_of_worker})").result(60)
        assert is_enabled
        assert frozen > 10 * own

    def test_signals_for_the_daemon_do_not_reach_workers_or_the_fork_server(self, processes: WorkerPool) -> None:
        executor = processes.executor
        worker = executor.submit(os.getpid).result(60)
        server = executor.submit(os.getppid).result(60)
        work = executor.submit(time.sleep, 0.3)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(worker, number)
            os.kill(server, number)
        work.result(60)
        assert executor.submit(os.getppid).result(60) == server

    def test_opening_a_pool_does_not_change_the_signal_mask(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with open_executor("processes", 1) as opened:
            opened.executor.submit(os.getpid).result(60)
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    def test_the_kernel_kills_workers_before_the_daemon_when_memory_runs_out(self, processes: WorkerPool) -> None:
        score = processes.executor.submit(eval, "open('/proc/self/oom_score_adj').read()").result(60)
        assert int(score) > int(Path("/proc/self/oom_score_adj").read_text())

    def test_workers_have_a_higher_niceness_than_the_daemon(self, processes: WorkerPool) -> None:
        assert processes.executor.submit(os.nice, 0).result(60) == min(19, os.nice(0) + NICENESS)

    def test_a_pool_that_is_kept_until_the_exit_leaks_no_semaphore(self) -> None:
        code = """
import atexit
from handlers.workers.fork_server import end_server
from handlers.workers.opening import open_executor

atexit.register(end_server)
with open_executor("processes", 2) as pool:
    kept = pool.executor
"""
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert done.stderr == ""

    def test_workers_end_with_the_pool(self) -> None:
        with open_executor("processes", 2) as opened:
            opened.executor.submit(time.sleep, 0.05)
            opened.executor.submit(time.sleep, 0.05).result(60)
            assert isinstance(opened.executor, ProcessExecutor)
            pids = pids_of(opened.executor)
        assert pids
        assert not [pid for pid in pids if is_running(pid)]

    def test_a_worker_that_hangs_at_shutdown_is_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(worker_pool, "END_TIMEOUT_S", 0.3)
        with open_executor("processes", 1) as opened:
            hanging = opened.executor.submit(time.sleep, 600)
            wait_for(hanging.running, "the job runs")
        with pytest.raises(BrokenExecutor):
            hanging.result(1)


class TestAWorkerThatDies:
    async def test_the_death_of_an_idle_worker_fails_no_job(self, processes: WorkerPool, tmp_path: Path) -> None:
        executor = processes.executor
        os.kill(executor.submit(os.getpid).result(60), signal.SIGKILL)
        reports = await asyncio.gather(*(run_job(processes, job_for(tmp_path, name)) for name in "abc"))
        assert not [report.fault for report in reports if report.fault]

    async def test_running_jobs_are_repeated_in_a_new_pool(self, processes: WorkerPool, tmp_path: Path) -> None:
        before = processes.executor
        worker = before.submit(os.getpid).result(60)
        before.submit(time.sleep, 60)
        before.submit(time.sleep, 60)
        under_way = [asyncio.create_task(run_job(processes, job_for(tmp_path, f"t{number}"))) for number in range(8)]
        await asyncio.sleep(0)
        os.kill(worker, signal.SIGKILL)
        reports = await asyncio.gather(*under_way)
        assert not [report.fault for report in reports if report.fault]
        assert processes.rebuilt == 1
        assert processes.executor is not before
        assert not list(tmp_path.rglob("*.tmp"))

    async def test_only_the_job_that_kills_its_worker_is_reported(
        self, processes: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        jobs = [job_for(tmp_path, name) for name in ("a", "b", "killer", "c", "d")]
        reports = await asyncio.gather(*(run_job(processes, job) for job in jobs))
        assert [report.tile_id for report in reports if report.fault] == ["killer"]
        fault = reports[2].fault
        assert fault is not None
        assert "SIGKILL" in fault.problem
        assert fault.subject == str(jobs[2].level0)
        assert fault.to_fault().waiting_helps is Waiting.LIMITED
        assert (await run_job(processes, job_for(tmp_path, "next"))).fault is None

    async def test_two_jobs_that_kill_workers_are_both_reported(
        self, processes: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        jobs = [job_for(tmp_path, name) for name in ("killer1", "a", "killer2")]
        reports = await asyncio.gather(*(run_job(processes, job) for job in jobs))
        assert [report.tile_id for report in reports if report.fault] == ["killer1", "killer2"]

    async def test_a_pool_that_cannot_be_rebuilt_is_reported_for_every_job_and_rebuilt_once(
        self, tmp_path: Path
    ) -> None:
        tried = []

        class Broken(Executor):
            def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
                raise BrokenExecutor

        def start(count: int) -> Executor:
            tried.append(count)
            if len(tried) > 1:
                time.sleep(0.1)
                raise WorkersUnavailable("worker processes", "did not start")
            return Broken()

        broken = WorkerPool(Backend(start, lambda executor, timeout_s: None, broken=(BrokenExecutor,)), 2)
        reports = await asyncio.gather(*(run_job(broken, job_for(tmp_path, name)) for name in "abc"))
        assert [report.fault.kind for report in reports if report.fault] == ["WorkersUnavailable"] * 3
        assert len(tried) == 2

    def test_a_cancelled_job_does_not_keep_other_futures_of_a_broken_pool_pending(self) -> None:
        with open_executor("processes", 1) as pool:
            assert isinstance(pool.executor, ProcessExecutor)
            futures = [pool.executor.submit(time.sleep, 60) for _ in range(6)]
            assert futures[4].cancel()
            os.kill(pids_of(pool.executor)[0], signal.SIGKILL)
            for future in (*futures[:4], futures[5]):
                assert isinstance(future.exception(timeout=60), BrokenExecutor)

    async def test_a_job_that_is_submitted_while_the_pool_breaks_is_submitted_again(
        self, processes: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pool fails its pending futures just before the job's future is added to them."""
        first, submit = processes.executor, ProcessPoolExecutor.submit

        def too_late(executor: Any, *arguments: Any, **named: Any) -> Any:
            if executor is not first:
                return submit(executor, *arguments, **named)
            executor._broken = "A child process terminated abruptly"
            return Future()

        monkeypatch.setattr(ProcessPoolExecutor, "submit", too_late)
        report = await asyncio.wait_for(run_job(processes, job_for(tmp_path)), 60)
        assert report.fault is None
        assert processes.rebuilt == 1

    def test_workers_that_are_killed_as_they_start_are_reported_as_unavailable(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory may be short: it is not a fault of the first job."""

        def killed(executor: ProcessExecutor, timeout_s: float) -> None:
            raise BrokenExecutor("A process in the process pool was terminated abruptly")

        monkeypatch.setattr(ProcessExecutor, "start_all", killed)
        with pytest.raises(WorkersUnavailable, match="did not start") as failed, open_executor("processes", 1):
            pass
        assert failed.value.waiting_helps is Waiting.ALWAYS

    async def test_a_cancelled_job_raises_cancelled_error(self, processes: WorkerPool, tmp_path: Path) -> None:
        for _ in range(8):
            processes.executor.submit(time.sleep, 0.1)
        waiting = asyncio.create_task(run_job(processes, job_for(tmp_path)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_a_job_that_the_executor_drops_raises_a_fault_and_no_cancellation(self) -> None:
        future: Future[MipmapReport] = Future()
        future.cancel()
        with pytest.raises(results.JobDropped):
            await results.result_of(future)


class TestAWorkerThatHangs:
    """Jobs that hang like a read from a dead mount, in processes and in the workers of a dask scheduler."""

    @pytest.fixture(params=["processes", pytest.param("dask", marks=pytest.mark.slow)])
    def limited(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        kind: ExecutorKind = request.param
        address = request.getfixturevalue("dask_processes") if kind == "dask" else None
        with open_executor(kind, 2, address, job_timeout_s=HANG_LIMIT_S) as opened:
            yield opened

    async def test_the_job_is_given_up_after_the_time_limit_and_others_succeed(
        self, limited: WorkerPool, tmp_path: Path
    ) -> None:
        jobs = [job_for(tmp_path, name) for name in ("a", "hang", "b", "c", "d", "e")]
        reports = await asyncio.gather(*(run_job(limited, job) for job in jobs))
        assert [report.tile_id for report in reports if report.fault] == ["hang"]
        fault = reports[1].fault
        assert fault is not None
        assert fault.subject == str(jobs[1].level0)
        assert "has not answered for" in fault.problem
        assert fault.to_fault().waiting_helps is Waiting.LIMITED
        assert limited.hung == 1

    async def test_when_all_workers_hang_new_workers_do_the_waiting_jobs(
        self, limited: WorkerPool, tmp_path: Path
    ) -> None:
        hanging = [job_for(tmp_path, name) for name in ("hang1", "hang2")]
        waiting = [job_for(tmp_path, f"t{number}") for number in range(6)]
        reports = await asyncio.gather(*(run_job(limited, job) for job in [*hanging, *waiting]))
        assert [report.tile_id for report in reports if report.fault] == ["hang1", "hang2"]

    async def test_waiting_in_a_long_queue_does_not_count_as_hanging(self, limited: WorkerPool, tmp_path: Path) -> None:
        """Jobs of 0.4 s, two at once: the last job waits longer than the time limit."""
        limit_s = limited._job_timeout_s
        assert limit_s is not None
        jobs = [job_for(tmp_path, f"slow{number}") for number in range(int(limit_s / 0.4 * 2) + 4)]
        reports = await asyncio.gather(*(run_job(limited, job) for job in jobs))
        assert not [report.fault for report in reports if report.fault]
        assert limited.hung == 0


class TestMemory:
    async def test_an_image_above_the_largest_is_refused_and_other_jobs_succeed(
        self, pool: WorkerPool, tmp_path: Path
    ) -> None:
        """The size comes from a metafile or render-ws; the image is not read."""
        large = job_for(tmp_path, "large", width=40_000, height=40_000)
        refused, done = await asyncio.gather(run_job(pool, large), run_job(pool, job_for(tmp_path)))
        assert done.fault is None
        assert refused.fault is not None
        assert (refused.fault.kind, refused.fault.subject) == ("ImageFault", str(large.level0))
        assert "40000x40000 pixels, but workers have memory for images of up to 268.435 megapixels" in (
            refused.fault.problem
        )

    def test_the_memory_limit_of_a_worker_grows_with_the_largest_image(self) -> None:
        limits = []
        for megapixels in (10, 60):
            with open_executor("processes", 1, largest_image_px=megapixels * 10**6) as opened:
                code = "__import__('resource').getrlimit(__import__('resource').RLIMIT_AS)[0]"
                limits.append(opened.executor.submit(eval, code).result(60))
        assert limits[1] - limits[0] == pytest.approx(16 * 50 * 10**6, abs=2**26)
        assert limits[0] < 2 * 2**30

    @pytest.mark.parametrize("kind", ["processes", "dask"])
    async def test_a_tile_that_needs_more_memory_fails_alone_and_its_worker_continues(
        self, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ExecutorKind
    ) -> None:
        address = request.getfixturevalue("dask_address") if kind == "dask" else None
        monkeypatch.setattr(opening, "worker_bytes", lambda largest_image_px: 50 << 20)
        level0 = tmp_path / "acquisition" / "large.tif"
        level0.parent.mkdir()
        Image.fromarray(np.zeros((12_000, 12_000), np.uint8)).save(level0, format="JPEG")  # is decoded as a whole
        size = {"width": 12_000, "height": 12_000, "reduction": Reduction("PIL", "LANCZOS")}
        with open_executor(kind, 1, address) as opened:
            workers = {opened.executor.submit(os.getpid).result(60) for _ in range(9)}
            failed = await run_job(opened, job_for(tmp_path, "large", **size))
            done = await run_job(opened, job_for(tmp_path, "a"))
            assert opened.executor.submit(os.getpid).result(60) in workers
            assert opened.executor.submit(eval, HAS_MEMORY_LIMIT).result(60)
        if address:
            from distributed import Client

            with Client(address, set_as_default=False) as client:  # beside the worker's jobs
                assert list(client.run(eval, HAS_MEMORY_LIMIT).values()) == [False]
        assert failed.fault is not None
        assert failed.fault.kind == "WorkerFault"
        assert "needs more memory than a worker may have, for 12000x12000 pixels" in failed.fault.problem
        assert done.fault is None
        assert not list(tmp_path.rglob("*.tmp"))


class TestReportedDeaths:
    async def test_a_worker_killed_during_a_job_is_reported_with_the_tile_and_the_signal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kernel does so when memory runs out. The job succeeds when it is repeated."""
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        deaths: list[WorkerDeath] = []
        with open_executor("processes", 2) as pool:
            pool.on_death = deaths.append
            assert isinstance(pool.executor, ProcessExecutor)
            jobs = [job_for(tmp_path, name) for name in ("held1", "held2")]
            running = [asyncio.create_task(run_job(pool, job)) for job in jobs]
            started = pool.executor._context.started
            await asyncio.to_thread(wait_for, lambda: all(each.tile_note.value for each in started), "both jobs run")
            killed = started[1]
            tile_id = killed.tile_note.value.decode()
            assert killed.pid is not None
            os.kill(killed.pid, signal.SIGKILL)
            release(jobs[0])
            reports = await asyncio.gather(*running)
        assert not [report.fault for report in reports if report.fault]
        assert deaths == [WorkerDeath(tile_id, "signal SIGKILL")]

    async def test_a_job_that_kills_its_worker_is_reported_each_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        deaths: list[WorkerDeath] = []
        with open_executor("processes", 1) as pool:
            pool.on_death = deaths.append
            assert (await run_job(pool, job_for(tmp_path, "killer"))).fault is not None
            assert (await run_job(pool, job_for(tmp_path, "a"))).fault is None
        assert deaths == [WorkerDeath("killer", "signal SIGKILL")] * 2

    def test_a_worker_that_is_killed_while_its_exit_status_is_read_has_ended_by_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = WorkerContext().Process(target=os._exit, args=(7,))
        process.start()
        connection.wait([process.sentinel])
        read_signed, is_read, may_return = forkserver.read_signed, threading.Event(), threading.Event()

        def held(descriptor: int) -> int:
            status: int = read_signed(descriptor)
            is_read.set()
            may_return.wait(60)
            return status

        monkeypatch.setattr(forkserver, "read_signed", held)
        with ThreadPoolExecutor(2) as threads:
            threads.submit(process.join)
            assert is_read.wait(60)
            monkeypatch.setattr(connection, "wait", lambda *_: [])  # the server has not closed its end of the pipe yet
            killed = threads.submit(process.kill)
            with contextlib.suppress(TimeoutError):  # as long as nothing waits for the status, it ends now
                killed.result(0.5)
            may_return.set()
            killed.result(60)
        assert process.death() == WorkerDeath("", "exit code 7")

    async def test_a_worker_that_the_pool_kills_is_not_reported_as_dead(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        deaths: list[WorkerDeath] = []
        with open_executor("processes", 1, job_timeout_s=HANG_LIMIT_S) as pool:
            pool.on_death = deaths.append
            assert (await run_job(pool, job_for(tmp_path, "hang"))).fault is not None
            assert (await run_job(pool, job_for(tmp_path, "a"))).fault is None
        assert deaths == []


class TestKilling:
    def test_a_worker_that_has_ended_is_not_signalled_because_another_process_may_have_its_number(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = WorkerContext()
        worker = context.Process(target=time.sleep, args=(0,))
        worker.start()
        assert connection.wait([worker.sentinel], 60)
        signalled: list[object] = []
        monkeypatch.setattr(os, "kill", lambda *signal_to: signalled.append(signal_to))
        context.kill()
        assert signalled == []
        assert worker.exitcode == 0

    def test_a_worker_whose_server_is_dead_is_killed(self) -> None:
        done = subprocess.run([sys.executable, "-c", KILLS_THE_SERVER], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        wait_for(lambda: not is_running(int(done.stdout)), "the worker is killed")


KILLS_THE_SERVER = """
import os, signal, time
from multiprocessing import connection, forkserver
from handlers.workers import fork_server
from handlers.workers.worker import WorkerContext

context = WorkerContext()
worker = context.Process(target=time.sleep, args=(600,))
worker.start()
os.kill(fork_server._server._forkserver_pid, signal.SIGKILL)
assert connection.wait([worker.sentinel], 60)
context.kill()
print(worker.pid)
"""


class TestAProcessThatHangs:
    async def test_a_hanging_worker_is_killed_and_other_workers_finish_their_jobs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        with open_executor("processes", 2, job_timeout_s=HANG_LIMIT_S) as pool:
            first = pool.executor
            assert isinstance(first, ProcessExecutor)
            before = pids_of(first)
            reports = await asyncio.gather(*(run_job(pool, job_for(tmp_path, name)) for name in ("hang", "slow")))
            assert [report.fault is None for report in reports] == [False, True]
            wait_for(lambda: not any(map(is_running, before)), "the processes of the pool that was given up end")
            assert pool.executor is not first
            assert pool.rebuilt == 0

    async def test_a_process_that_cannot_be_killed_delays_neither_jobs_nor_shutdown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that reads a dead mount survives SIGKILL until the mount answers."""
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        monkeypatch.setattr(worker_processes, "KILLED_S", 0.3)
        monkeypatch.setattr(worker_pool, "END_TIMEOUT_S", 0.3)
        unkillable: list[int] = []
        kill = WorkerContext.kill
        monkeypatch.setattr(WorkerContext, "kill", lambda context: None)
        with open_executor("processes", 1, job_timeout_s=HANG_LIMIT_S) as pool:
            assert isinstance(pool.executor, ProcessExecutor)
            hung = pool.executor
            unkillable += pids_of(hung)
            reports = await asyncio.gather(*(run_job(pool, job_for(tmp_path, name)) for name in ("hang", "a", "b")))
            assert [report.fault is None for report in reports] == [False, True, True]
            assert all(map(is_running, unkillable))
            last = pool.executor
            assert isinstance(last, ProcessExecutor)
            hanging = last.submit(time.sleep, 600)
            wait_for(hanging.running, "the job runs")
        for executor in (hung, last):
            kill(executor._context)
        wait_for(lambda: not any(map(is_running, unkillable)), "the test's own processes end")

    async def test_a_job_that_hangs_when_it_runs_alone_is_given_up_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        with open_executor("processes", 1, job_timeout_s=HANG_LIMIT_S) as pool:
            with pytest.raises(WorkerFault, match="and was replaced"):
                await pool.run_alone(job_for(tmp_path, "hang"))
            assert (await run_job(pool, job_for(tmp_path, "next"))).fault is None

    async def test_jobs_that_kill_or_hang_workers_are_reported_and_good_jobs_succeed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(worker_pool, "make_mipmaps", toy_job)
        names = [f"{kind}_{montage}" for montage in "xy" for kind in ("killer", "good1", "hang", "good2", "good3")]
        with open_executor("processes", 2, job_timeout_s=HANG_LIMIT_S) as pool:
            reports = await asyncio.gather(*(run_job(pool, job_for(tmp_path, name)) for name in names))
        faulty = {report.tile_id: str(report.fault) for report in reports if report.fault}
        assert set(faulty) == {name for name in names if not name.startswith("good")}, faulty


DAEMON = """
    import asyncio, os, sys
    from pathlib import Path
    from handlers.workers.opening import open_executor
    from handlers.workers.pool import run_job
    from handlers.mipmaps.job import MipmapJob

    async def main():
        level0, side, directory = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
        with open_executor("processes", 2) as pool:
            print("server", pool.executor.submit(os.getppid).result(), flush=True)
            async def forever(name):
                number = 0
                while True:
                    outputs = tuple((level, directory / str(level) / f"{name}.{number % 3}.tif") for level in (1, 2, 3))
                    report = await run_job(pool, MipmapJob(name, level0, outputs, side, side))
                    workers = [worker.pid for worker in pool.executor._context.started]  # all have started
                    print("done" if report.fault is None else report.fault, *workers, flush=True)
                    number += 1
            await asyncio.gather(forever("a"), forever("b"), forever("c"))

    if __name__ == "__main__":
        asyncio.run(main())
"""


@contextlib.contextmanager
def daemon(
    tmp_path: Path, side: int = 1024, **environment: str
) -> Iterator[tuple["subprocess.Popen[str]", Callable[[], list[str]]]]:
    """Run a process that makes levels. Yield it, and a function that returns the words of its next line."""
    script, level0 = tmp_path / "daemon_script.py", tmp_path / "a.tif"
    script.write_text(textwrap.dedent(DAEMON))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)).save(level0)
    command = [sys.executable, str(script), str(level0), str(side), str(tmp_path / "mipmaps")]
    options = {"text": True, "start_new_session": True, "env": {**os.environ, **environment}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        assert process.stdout is not None
        stdout = process.stdout
        try:
            yield process, lambda: stdout.readline().split()
        finally:
            process.kill()


def pids_after_start(line: Callable[[], list[str]]) -> tuple[int, list[int]]:
    """Return the process ids of the server and of both workers, once these have made levels."""
    word, server = line()
    assert word == "server"
    while True:
        done, *workers = line()
        assert done == "done"
        if len(workers) == 2:
            return int(server), [int(pid) for pid in workers]


def test_killing_the_daemon_leaves_no_process_and_no_partial_file(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    temporary = tmp_path_factory.mktemp("t")  # a socket's path is short
    with daemon(tmp_path, TMPDIR=str(temporary)) as (process, line):
        server, workers = pids_after_start(line)
        process.kill()
        process.wait(60)
        wait_for(lambda: not any(map(is_running, [server, *workers])), "workers and their server end")
    assert not list(temporary.iterdir())
    require_whole(tmp_path / "mipmaps", 1024)


def test_killing_a_worker_leaves_no_partial_file_and_later_jobs_remove_temporary_files(tmp_path: Path) -> None:
    with daemon(tmp_path) as (process, line):
        _, workers = pids_after_start(line)
        for _ in range(4):
            os.kill(workers[0], signal.SIGKILL)
            wait_for(lambda pid=workers[0]: not is_running(pid), "the worker dies")
            require_whole(tmp_path / "mipmaps", 1024)
            killed = workers[0]
            while killed in workers or len(workers) < 2:
                done, *shown = line()
                assert done == "done"
                workers = [int(pid) for pid in shown]
        made = {line()[0] for _ in range(12)}
        assert made == {"done"}
        os.kill(process.pid, signal.SIGSTOP)  # no job begins any more; running jobs end
        wait_for(lambda: not list((tmp_path / "mipmaps").rglob("*.tmp")), "temporary files of dead workers are removed")
    require_whole(tmp_path / "mipmaps", 1024)


def require_whole(directory: Path, side: int) -> None:
    """Assert that every file with a final name decodes and has its level's size."""
    files = [path for path in directory.rglob("*.tif") if not path.name.startswith(".")]
    assert files
    for path in files:
        with Image.open(path) as image:
            image.load()
            assert image.size == (side >> int(path.parent.name),) * 2


def test_a_console_script_is_not_imported_by_the_workers(tmp_path: Path) -> None:
    """The main module of `temwatch` has a file, which multiprocessing would run again in each worker."""
    script = tmp_path / "temwatch"
    script.write_text(
        textwrap.dedent("""
            import sys
            import sqlite3
            from handlers.workers.opening import open_executor
            if __name__ == "__main__":
                with open_executor("processes", 1) as pool:
                    print(pool.executor.submit(eval, "'sqlite3' in __import__('sys').modules").result())
                    print(sys.modules["__main__"].__file__)
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["False", str(script)], done.stderr


@pytest.mark.parametrize("begin", ["", "start_server()"])
def test_workers_import_no_module_of_the_working_directory(tmp_path: Path, begin: str) -> None:
    """Other users may be able to write to the working directory of temwatch."""
    hostile, script, imported = tmp_path / "hostile", tmp_path / "bin" / "temwatch", tmp_path / "imported"
    hostile.mkdir()
    script.parent.mkdir()
    for name in ("selectors", "threading", "signal", "numpy", "PIL", "handlers"):
        (hostile / f"{name}.py").write_text(f"open({str(imported)!r}, 'a').write({name!r})\nraise SystemExit(1)\n")
    script.write_text(
        textwrap.dedent(f"""
            from handlers.workers.opening import open_executor
            from handlers.workers.fork_server import end_server, start_server
            if __name__ == "__main__":
                {begin or "pass"}
                with open_executor("processes", 1) as pool:
                    path = pool.executor.submit(eval, "__import__('sys').path").result()
                    print("PYTHONSAFEPATH" in __import__("os").environ, {str(hostile)!r} in path or "" in path)
                end_server()
        """)
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=hostile)
    assert done.stdout.split() == ["False", "False"], done.stderr
    assert not imported.exists(), imported.read_text()


def test_workers_are_forked_from_the_fork_server_that_was_started_before() -> None:
    """In another process, since this process already has a server."""
    code = textwrap.dedent("""
        import os
        from pathlib import Path
        from handlers.workers.fork_server import start_server
        start_server()
        mine = f"/proc/self/task/{os.getpid()}/children"
        before = Path(mine).read_text().split()
        from handlers.workers.opening import open_executor
        with open_executor("processes", 1) as pool:
            print(str(pool.executor.submit(os.getppid).result()) in before)
            print(Path(mine).read_text().split() == before)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_a_released_fork_server_ends_before_this_process_and_the_next_pool_starts_another() -> None:
    """In another process, since this process already has a server."""
    code = textwrap.dedent("""
        import os
        from multiprocessing import forkserver
        from handlers.workers.fork_server import end_server, release_server, start_server
        from handlers.workers.opening import open_executor
        release_server()
        start_server()
        first = forkserver._forkserver._forkserver_pid
        with open_executor("processes", 1) as pool:
            print(pool.executor.submit(os.getppid).result() == first)
        release_server()
        release_server()
        print(os.waitpid(first, 0) == (first, 0))
        with open_executor("processes", 1) as pool:
            print(pool.executor.submit(os.getppid).result() not in (first, os.getpid()))
        end_server()
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True"] * 3, done.stderr
    assert not done.stderr


def test_the_temporary_directory_may_have_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """In another process with its own temporary directory."""
    long = tmp_path / ("d" * 120)
    long.mkdir()
    code = textwrap.dedent("""
        from handlers.workers.fork_server import end_server
        from handlers.workers.opening import open_executor
        with open_executor("processes", 1) as pool:
            print(pool.executor.submit(len, "four").result())
        end_server()
    """)
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "TMPDIR": str(long)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.stdout, done.stderr) == ("4\n", "")
    assert not list(long.iterdir())


def test_a_dead_fork_server_is_replaced(tmp_path_factory: pytest.TempPathFactory) -> None:
    """In another process with its own temporary directory."""
    code = textwrap.dedent("""
        import os, signal, tempfile
        from multiprocessing import forkserver
        from pathlib import Path
        from handlers.workers.fork_server import end_server, start_server
        from handlers.workers.opening import open_executor
        start_server()
        descriptors = len(os.listdir("/proc/self/fd"))
        first = forkserver._forkserver._forkserver_pid
        os.kill(first, signal.SIGKILL)
        os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
        start_server()
        print(len(os.listdir("/proc/self/fd")) == descriptors)
        with open_executor("processes", 1) as pool:
            print(pool.executor.submit(os.getppid).result() not in (first, os.getpid()))
        print(os.listdir(tempfile.gettempdir()) == [])
        end_server()
    """)
    environment = {**os.environ, "TMPDIR": str(tmp_path_factory.mktemp("t"))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == ["True"] * 3, done.stderr
    assert not done.stderr


def test_no_thread_and_no_process_is_left_when_a_pool_is_closed(tmp_path: Path) -> None:
    threads = set(threading.enumerate())
    with open_executor("processes", 2) as opened:
        opened.submit(job_for(tmp_path)).result(60)
    wait_for(lambda: set(threading.enumerate()) <= threads, "the pool's threads end")
