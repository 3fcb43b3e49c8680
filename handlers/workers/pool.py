"""The pool in which mipmap jobs run. It replaces an executor that breaks, and gives up a job whose worker hangs.

`run_job` turns every outcome of a job into a report.
"""

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

from handlers.errors import ImageFault, WorkerFault, WorkersUnavailable
from handlers.images.largest_image import LARGEST_IMAGE_PX, require_size
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import FaultReport, MipmapReport
from handlers.workers.backend import Backend
from handlers.workers.cluster.separate_process import ProcessKilled
from handlers.workers.crew import Crew, Member
from handlers.workers.results import JobTimedOut, NotStarted, result_in_time, result_of, result_of_running
from handlers.workers.started_jobs import StartedJobs
from handlers.workers.suspects import Suspects, worker_killed_report
from handlers.workers.upcoming import ReadAheadLimit, max_read_ahead
from handlers.workers.worker import WorkerDeath, make_mipmaps, run_politely

J = TypeVar("J")
R = TypeVar("R")

END_TIMEOUT_S = 30.0
"""Time for running jobs to end when the pool closes. Then their processes are killed."""


class SubmitFailed(NotStarted):
    """A broken executor refused a job."""


class WorkerPool:
    """An executor, replaced when it breaks or when one of its workers hangs.

    Parameters
    ----------
    count : number of workers.
    job_timeout_s : longest time that a worker may take for a job; None: no limit.
    largest_image_px : jobs with larger images are refused.
    """

    def __init__(
        self,
        backend: Backend,
        count: int,
        job_timeout_s: float | None = None,
        largest_image_px: int = LARGEST_IMAGE_PX,
    ) -> None:
        self._largest_image_px = largest_image_px
        self._backend = backend
        self._count = count
        self._job_timeout_s = job_timeout_s
        self._broken: tuple[type[BaseException], ...] = (SubmitFailed, *backend.broken)
        self._replacing = asyncio.Lock()
        self._one_suspect = asyncio.Lock()
        self._start_fault: WorkerFault | None = None
        self._start_failed_at = 0.0
        self._closed = False
        self._suspects = Suspects()
        self.read_ahead = ReadAheadLimit(max_read_ahead(count) if backend.is_local else 0)
        """Limit of images that jobs read ahead; 0 on other machines, where the worker of the next job is unknown."""
        self.rebuilt = 0
        """Number of executors that broke and were replaced."""
        self.hung = 0
        """Number of jobs that were given up because their workers hung."""
        self.on_death: Callable[[WorkerDeath], object] = lambda death: None
        """Called with each worker that died."""
        self.scheduler_news: str | None = None
        """Last argument of `on_scheduler`."""
        self.on_scheduler: Callable[[str], object] = lambda fault: None
        """Called in another thread with the fault when a scheduler is lost, and with "" when it answers again."""
        self.drain_s = END_TIMEOUT_S
        """Time for running jobs to end when the pool closes."""
        self._jobs = self._started(backend.start(count))  # last, since it may call `on_scheduler` immediately

    @property
    def executor(self) -> Executor:
        """The executor in use."""
        return self._jobs.executor

    def _started(self, executor: Executor) -> StartedJobs:
        if self._backend.watch:
            self._backend.watch(executor, self._scheduler_changed)
        return StartedJobs(executor, self._count)

    def _scheduler_changed(self, fault: str) -> None:
        self.scheduler_news = fault
        self.on_scheduler(fault)

    @property
    def broken(self) -> tuple[type[BaseException], ...]:
        """Exceptions of a job's future if the executor breaks while it has the job."""
        return self._backend.broken

    @property
    def killed_by_job(self) -> tuple[type[BaseException], ...]:
        """Exceptions of a job's future if workers died while they had the job."""
        return self._backend.killed_by_job

    def submit(self, job: MipmapJob) -> Future[MipmapReport]:
        """Return the future of a job without a time-out. Raises a member of `broken` if the executor is broken."""
        return self.executor.submit(make_mipmaps, job)

    async def run(self, job: MipmapJob) -> MipmapReport:
        """Return the report of a job.

        Raises
        ------
        ImageFault
            If the image is too large for the workers.
        NotStarted
            If the job must be submitted again.
        A member of `broken` or of `killed_by_job`
            If the executor broke while it had the job, or the job killed its workers.
        WorkerFault
            If the job's worker hangs, or no worker can be started.
        """
        require_size(str(job.level0), job.width, job.height, self._largest_image_px)
        jobs = self._jobs
        try:
            return await self._run_in(jobs, str(job.level0), make_mipmaps, job)
        except self._broken:
            await self._replace_broken(jobs.executor)
            raise

    async def run_politely(self, subject: str, fn: Callable[[J], R], job: J) -> R:
        """Return `fn(job)`, run once in a worker at the lowest priority. Raises the exceptions of `fn`.

        Parameters
        ----------
        subject : subject of a fault.
        fn : a function that workers can import.

        Raises
        ------
        WorkerFault
            If the worker died or hangs, or no worker can be started.
        """
        jobs = self._jobs
        try:
            return await self._run_in(jobs, subject, partial(run_politely, fn), job)
        except self.killed_by_job as error:
            raise WorkerFault(subject, f"killed the workers that had it: {error}") from error
        except self._broken as error:
            await self._replace_broken(jobs.executor)
            raise WorkersUnavailable(subject, "a worker process died meanwhile", "ask again") from error
        except NotStarted as error:
            raise WorkersUnavailable(subject, "its worker was replaced", "ask again") from error

    async def _run_in(self, jobs: StartedJobs, subject: str, fn: Callable[[J], R], job: J) -> R:
        key = f"temwatch-{uuid.uuid4().hex}" if self._backend.replace_worker else ""
        options = {"key": key} if key else {}
        try:
            future = jobs.executor.submit(fn, job, **options)
        except self.broken as error:
            raise SubmitFailed from error
        if self._job_timeout_s is None:
            return await result_of(future)
        try:
            if running_s := self._backend.running_s:
                has_run_s = partial(running_s, jobs.executor, key)
                return await result_of_running(future, self._job_timeout_s, has_run_s, jobs.was_replacing_worker)
            return await result_in_time(jobs, future, self._job_timeout_s)
        except JobTimedOut:
            try:
                await self._give_up(jobs, future, key)
            finally:
                future.cancel()
            raise self._hanging_fault(subject) from None
        finally:
            if jobs.remove(future) and self._backend.abandon:
                self._backend.abandon(jobs.executor)

    def _hanging_fault(self, subject: str) -> WorkerFault:
        self.hung += 1
        return WorkerFault(
            subject,
            f"its worker has not answered for {self._job_timeout_s:g} s and was replaced",
            "check that the disks of the image and of the mipmaps answer; the limit is workers.tile_timeout_s",
        )

    async def _give_up(self, jobs: StartedJobs, future: Future[Any], key: str) -> None:
        """Replace the hanging worker, or its whole executor, whose other running jobs may end."""
        if self._backend.replace_worker:
            with jobs.replacing_worker():
                await asyncio.to_thread(self._backend.replace_worker, jobs.executor, key, future.cancel)
            return
        if self._backend.abandon is None:
            return
        if jobs is self._jobs:
            with contextlib.suppress(WorkerFault):  # the next job tries again and reports the fault
                await self._replace(jobs.executor)
        jobs.retire(future)

    async def _replace_broken(self, broken: Executor) -> None:
        """Replace and end a broken executor, unless another job has done so. Raises WorkerFault as `_replace`."""
        if await self._replace(broken):
            self.rebuilt += 1
            await self._end_broken(broken)

    async def _end_broken(self, broken: Executor) -> list[WorkerDeath]:
        """End an executor whose workers may have died, and report each death."""
        await asyncio.to_thread(self._backend.end, broken, 0.0)
        deaths = self._backend.deaths(broken)
        for death in deaths:
            self.on_death(death)
        return deaths

    async def _replace(self, former: Executor) -> bool:
        """Replace an executor. Return False if another job has already replaced it.

        Raises
        ------
        WorkerFault
            If no new executor can be started now, or the pool is closed.
        """
        asked_at = time.monotonic()
        async with self._replacing:
            if self.executor is not former:
                return False
            if self._closed:
                raise WorkersUnavailable("workers", "are stopped", "the job runs again after the next start")
            if self._start_fault and self._start_failed_at >= asked_at:  # another job failed while this one waited
                raise self._start_fault
            try:
                started = await asyncio.to_thread(self._backend.start, self._count)
            except WorkerFault as fault:
                self._start_fault, self._start_failed_at = fault, time.monotonic()
                raise
            self._jobs = self._started(started)
            return True

    async def run_alone(self, job: MipmapJob) -> MipmapReport:
        """Return the report of a suspect, a job that was in an executor when this broke. It runs in its own executor.

        If a worker dies again, this job is the cause, and the report contains this fault.

        Raises
        ------
        WorkerFault
            If the job's worker hangs.
        """
        async with self._one_suspect:
            if self._backend.alone:
                return await self._run_beside_worker(self._backend.alone(make_mipmaps), job)
            executor = await asyncio.to_thread(self._backend.start, 1)
            deaths: list[WorkerDeath] = []
            try:
                return await self._run_in(StartedJobs(executor, 1), str(job.level0), make_mipmaps, job)
            except self._broken:
                pass  # reported below: the cause of the death is known only after the executor has ended
            finally:
                deaths += await self._end_broken(executor)
        how = next((f": {death.how}" for death in deaths if death.how), "")
        return worker_killed_report(job, f"killed its worker process, run alone{how}")

    async def _run_beside_worker(self, fn: Callable[[MipmapJob], MipmapReport], job: MipmapJob) -> MipmapReport:
        """Return the report of a job that a worker runs in a separate process."""
        try:
            return await self._run_in(self._jobs, str(job.level0), fn, job)
        except ProcessKilled as killed:
            self._suspects.add(job)
            self.on_death(WorkerDeath(job.tile_id, str(killed)))
            return worker_killed_report(job, f"killed its worker process, run alone: {killed}")
        except self.killed_by_job as error:
            raise WorkersUnavailable(str(job.level0), f"workers died again beside it: {error}") from error

    def is_suspect(self, job: MipmapJob) -> bool:
        """Whether the job has killed its process before, so that it must run alone."""
        return job in self._suspects

    @property
    def crew(self) -> Crew:
        """The workers as they are now."""
        if self._backend.crew:
            return self._backend.crew(self.executor)
        under_way = len(self._jobs)
        host = socket.gethostname()
        running = min(under_way, self._count)
        return Crew(tuple(Member(host, 1, int(number < running)) for number in range(self._count)), under_way)

    def close(self) -> None:
        """End the workers; jobs that have not started are cancelled."""
        self._closed = True
        self._backend.end(self.executor, self.drain_s)


async def run_job(pool: WorkerPool, job: MipmapJob) -> MipmapReport:
    """Return the report of a job, whatever happens to the job and to its worker.

    When a worker process dies, every job of its executor fails, and the executor does not report which job the worker
    had. A dask scheduler fails the jobs whose workers died several times. All these jobs run again alone, one at a
    time, while other jobs continue. A job that kills its process again is reported as the cause.
    """
    try:
        while True:
            try:
                return await (pool.run_alone(job) if pool.is_suspect(job) else pool.run(job))
            except NotStarted:
                continue
            except (*pool.killed_by_job, *pool.broken):
                return await pool.run_alone(job)
    except (WorkerFault, ImageFault) as fault:
        return MipmapReport(job.tile_id, fault=FaultReport.of(fault))
