"""Target 15: tiles through a dask cluster: throughput by workers, cost of a job, memory over many tiles.

`--tiles 1000000` makes the run with small tiles last hours; `--minutes 60` ends it after that time.
"""

import argparse
import asyncio
import contextlib
import itertools
import math
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.common import Options, Outcome, Plot, Row, cores, median_ratio, own_cpu_s, run_script
from benchmarks.processes import Program, cpu_of, family, wait_for
from benchmarks.worker_pool import jobs_for, one_by_one, reports
from handlers.mipmaps.job import MipmapJob
from handlers.workers.pool import WorkerPool, open_executor, run_job

TILES = 4_000
AT_ONCE = 32
"""Tiles that are submitted at once while small ones are counted."""
SAMPLE_S = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def measure(options: Options, tiles: int = TILES, minutes: float = math.inf) -> Outcome:
    """Measure clusters of one, two and four workers in turn; then many small tiles through two workers."""
    side, rounds = (512, 2) if options.quick else (3840, 5)
    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        clusters = {count: stack.enter_context(cluster(options.directory, count)) for count in (1, 2, 4)}
        pools = {count: each.pool for count, each in clusters.items()}
        rates = throughput(runner, pools, jobs_for(options.directory, side, 16), rounds)
        small = jobs_for(options.directory, 64, AT_ONCE)
        alone = runner.run(one_by_one(pools[1], small[0], 20 if options.quick else 200))
        many = runner.run(soak(clusters[2], small, 200 if options.quick else tiles, 60 * minutes))
    rows = [*throughput_rows(side, rates), *many.rows()]
    rows.insert(
        3,
        Row(15, "a small tile, submit to report, beyond its work, one at a time", 1e3 * statistics.median(alone), "ms"),
    )
    return Outcome(rows, many.plots(), {"tiles_per_s": rates, "tiles": many.done})


# --- a cluster on this machine


class Cluster:
    """A scheduler, its workers, and a pool that uses them; each part a process of its own but the pool."""

    def __init__(self, scheduler: Program, workers: list[Program], pool: WorkerPool) -> None:
        self.scheduler, self.workers, self.pool = scheduler, workers, pool

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of each part; of the workers together, without their nannies."""
        workers = [pid for worker in self.workers for pid in family(worker.pid)[1:]]
        parts = {"daemon's side": [os.getpid()], "scheduler": [self.scheduler.pid], "workers": workers}
        return {name: sum(map(_resident_bytes, pids)) / 2**20 for name, pids in parts.items()}

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of each part."""
        workers = sum(cpu_of(pid) for worker in self.workers for pid in family(worker.pid))
        return {"daemon's side": own_cpu_s(), "scheduler": cpu_of(self.scheduler.pid), "workers": workers}


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


@contextlib.contextmanager
def cluster(directory: Path, count: int) -> Iterator[Cluster]:
    """Yield a cluster with this number of workers, all of them registered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    log = directory / f"scheduler{count}.log"
    options = ("--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    programs = [Program(log, "distributed.cli.dask_scheduler", *options)]
    try:
        wait_for(lambda: "Scheduler at:" in log.read_text(), 60, str(log))
        common = (
            address,
            "--nthreads",
            "1",
            "--no-dashboard",
            "--memory-limit",
            "0",
            "--local-directory",
            str(directory),
        )
        for number in range(count):
            worker_log = directory / f"worker{count}-{number}.log"
            programs.append(Program(worker_log, "distributed.cli.dask_worker", *common))
        wait_for(lambda: log.read_text().count("Register worker") == count, 120, str(log))
        with open_executor("dask", 2 * count, address) as pool:
            yield Cluster(programs[0], programs[1:], pool)
    finally:
        for program in reversed(programs):
            program.stop(10)


# --- throughput


def throughput(
    runner: asyncio.Runner, pools: dict[int, WorkerPool], jobs: list[MipmapJob], rounds: int
) -> dict[int, list[float]]:
    """Return tiles per second of each pool, by round."""
    rates: dict[int, list[float]] = {count: [] for count in pools}
    for number, (count, pool) in itertools.product(range(rounds + 1), pools.items()):
        began = time.perf_counter()
        runner.run(reports(pool, jobs))
        if number:  # the first round warms up
            rates[count].append(len(jobs) / (time.perf_counter() - began))
    return rates


def throughput_rows(side: int, rates: dict[int, list[float]]) -> list[Row]:
    """Compare one, two and four workers."""
    return [
        Row(
            15,
            f"tiles of {side}x{side}, 8 bit, through {count} worker{'s' * (count > 1)} of dask on {cores()} cores",
            statistics.median(each),
            "tiles/s",
            ratio=median_ratio(each, rates[1]) if count > 1 else None,
            ratio_is="of one worker" if count > 1 else "",
        )
        for count, each in rates.items()
    ]


# --- many small tiles


class Soak:
    """What was seen while many small tiles were made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.done = 0
        self.samples: list[tuple[int, float, dict[str, float]]] = []
        self._began, self._cpu = time.perf_counter(), cluster.cpu_s()
        self.cpu_s: dict[str, float] = {}
        self.seconds = 0.0

    def sample(self) -> None:
        """Note the memory of each part."""
        self.samples.append((self.done, time.perf_counter() - self._began, self._cluster.memory_mib()))

    def finish(self) -> None:
        """Note the end."""
        self.seconds = time.perf_counter() - self._began
        now = self._cluster.cpu_s()
        self.cpu_s = {name: (now[name] - self._cpu[name]) / self.done for name in now}
        self.sample()

    def growth_mib(self, part: str) -> float:
        """Return what a part's memory grows by in 100,000 tiles, without the first fifth of them."""
        kept = [(done, memory[part]) for done, _, memory in self.samples if done >= self.done // 5]
        if len(kept) < 3 or kept[0][0] == kept[-1][0]:
            return 0.0
        return 1e5 * statistics.linear_regression([each[0] for each in kept], [each[1] for each in kept]).slope

    def rows(self) -> list[Row]:
        """Return the rows of the table."""
        cost = ", ".join(f"{name} {1e3 * seconds:.2f} ms" for name, seconds in self.cpu_s.items())
        last = self.samples[-1][2]
        growth = [
            Row(
                15,
                f"memory of the {part}, growth in 100,000 tiles",
                self.growth_mib(part),
                "MiB",
                note=f"{last[part]:.0f} MiB after {self.done:,}",
            )
            for part in last
        ]
        rate = Row(
            15,
            f"{self.done:,} small tiles, {AT_ONCE} at once, two workers",
            self.done / self.seconds,
            "tiles/s",
            note=f"CPU a tile: {cost}",
        )
        return [rate, *growth]

    def plots(self) -> list[Plot]:
        """Return the plots of memory and rate."""
        parts = self.samples[-1][2]
        memory = {part: [(done / 1e3, mib[part]) for done, _, mib in self.samples] for part in parts}
        rate = [
            (done / 1e3, (done - before) / (at - then))
            for (before, then, _), (done, at, _) in itertools.pairwise(self.samples)
            if at > then
        ]
        return [
            Plot(
                "cluster_memory", "Memory while small tiles are made by a cluster", "thousands of tiles", "MiB", memory
            ),
            Plot("cluster_rate", "Small tiles a second", "thousands of tiles", "tiles/s", {"two workers": rate}),
        ]


async def soak(cluster: Cluster, jobs: list[MipmapJob], tiles: int, seconds: float) -> Soak:
    """Make small tiles until there are so many, or the time is over; a few at once, as the daemon does."""
    await reports(cluster.pool, jobs)  # the workers have imported everything, and the files exist
    found, numbers = Soak(cluster), iter(range(tiles))
    deadline = time.monotonic() + seconds

    async def make(job: MipmapJob) -> None:
        for number in numbers:
            report = await run_job(cluster.pool, replace(job, tile_id=f"tile.{number}"))
            if report.fault is not None:
                raise RuntimeError(str(report.fault))
            found.done += 1
            if time.monotonic() > deadline:
                return

    async with asyncio.TaskGroup() as group:
        sampling = group.create_task(_sample(found))
        await asyncio.gather(*(group.create_task(make(job)) for job in jobs))
        sampling.cancel()
    found.finish()
    return found


async def _sample(found: Soak) -> None:
    while True:
        found.sample()
        await asyncio.sleep(SAMPLE_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--minutes", type=float, default=math.inf)
    given, others = parser.parse_known_args(sys.argv[1:])
    run_script("cluster", lambda options: measure(options, given.tiles, given.minutes), others)
