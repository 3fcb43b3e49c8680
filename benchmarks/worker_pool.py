"""Target 2: throughput of two workers, overhead of a job, import time of a worker."""

import asyncio
import functools
import os
import pickle
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import Options, Outcome, Plot, Row, interleaved, median_cpu_s, median_ratio, run_script
from handlers.mipmaps.job import MipmapJob
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool, run_job

LEVELS = range(1, 7)
PLOT_ROUNDS = 3
"""Rounds of the sizes that only the plot shows."""
IMPORTS = "import handlers.workers.preload"
SPIN = range(4_000_000)
"""Numbers whose sum takes about 0.1 s and no memory: how much faster two processes are on this machine at best."""


def measure(options: Options) -> Outcome:
    """Measure the throughput of one and two workers in turn, then small jobs, then the imports."""
    side, rounds = (1024, PLOT_ROUNDS) if options.quick else (3840, 7)
    rows, facts, lines = [], {}, {}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())  # a pool's locks belong to one event loop
        pools = {count: stack.enter_context(open_executor("processes", count)) for count in (1, 2)}
        for size, tiles in ((side // 2, 48), (side, 24), (side * 43 // 30, 12)):
            jobs = jobs_for(options.directory, size, tiles)
            for pool in pools.values():
                runner.run(reports(pool, jobs))  # warms up: workers allocate their buffers, and the files exist
            rates, spins = scaling(runner, pools, jobs, rounds if size == side else PLOT_ROUNDS)
            if size == side:
                rows.append(scaling_row(side, rates, spins))
            tiles_per_s = {count: statistics.median(each) for count, each in rates.items()}
            facts[f"tiles_per_s, {size}x{size}"] = tiles_per_s
            lines[f"{size} x {size}"] = [(count, each * size**2 / 1e6) for count, each in tiles_per_s.items()]
        small = jobs_for(options.directory, 64, 1)[0]
        rows += overhead_rows(runner, pools[1], small, 50 if options.quick else 400)
    rows.append(import_row(5 if options.quick else 15))
    plot = Plot("worker_pool", "8 bit, six levels, by size of tile", "workers", "megapixels per second", lines)
    return Outcome(rows, [plot], facts)


def jobs_for(directory: Path, side: int, tiles: int) -> list[MipmapJob]:
    """Return jobs with one image each; the images are links to one file."""
    image = directory / f"{side}.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)).save(image)
    job = MipmapJob("", image, (), side, side)

    def one(number: int) -> MipmapJob:
        level0 = directory / f"{side}-{number}.tif"
        os.link(image, level0)
        outputs = tuple((level, directory / f"{level}" / level0.name) for level in LEVELS)
        return replace(job, tile_id=f"tile.{number}", level0=level0, outputs=outputs)

    return [one(number) for number in range(tiles)]


async def reports(pool: WorkerPool, jobs: Sequence[MipmapJob]) -> None:
    """Run all jobs as the daemon does."""
    for report in await asyncio.gather(*(run_job(pool, job) for job in jobs)):
        if report.fault is not None:
            raise RuntimeError(str(report.fault))


def scaling(
    runner: asyncio.Runner, pools: dict[int, WorkerPool], jobs: list[MipmapJob], rounds: int
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Return tiles per second and sums per second of each pool, by round."""
    rates: dict[int, list[float]] = {count: [] for count in pools}
    spins: dict[int, list[float]] = {count: [] for count in pools}
    for _ in range(rounds):
        for count, pool in pools.items():
            began = time.perf_counter()
            runner.run(reports(pool, jobs))
            rates[count].append(len(jobs) / (time.perf_counter() - began))
            began = time.perf_counter()
            wait([pool.executor.submit(sum, SPIN) for _ in range(4)])
            spins[count].append(4 / (time.perf_counter() - began))
    return rates, spins


def scaling_row(side: int, rates: dict[int, list[float]], spins: dict[int, list[float]]) -> Row:
    """Compare two workers with one; the note has the same ratio for processes that neither read nor write."""
    gain, best = median_ratio(rates[2], rates[1]), median_ratio(spins[2], spins[1])
    return Row(
        2,
        f"tiles of {side}x{side}, 8 bit, six levels, by two workers",
        statistics.median(rates[2]),
        "tiles/s",
        1.85,
        at_most=False,
        peer=statistics.median(rates[1]),
        peer_is="one worker",
        ratio=gain,
        ratio_is="measured / peer",
        judged=gain,
        note=f"the ratio of processes that only add numbers is {best:.2f} in the same rounds",
    )


def overhead_rows(runner: asyncio.Runner, pool: WorkerPool, job: MipmapJob, jobs: int) -> list[Row]:
    """Measure the time from submit to report without the worker's own time: one job at a time, and many at once."""
    alone = runner.run(one_by_one(pool, job, jobs))
    began = time.perf_counter()
    futures = [pool.submit(job) for _ in range(jobs)]
    work_s = sum(future.result().seconds for future in futures)
    waiting = (time.perf_counter() - began - work_s) / jobs
    packed = pickle.dumps(job)
    pickled = interleaved({"both ways": lambda: pickle.loads(pickle.dumps(job))}, 200)["both ways"]
    note = f"a job is {len(packed)} bytes, pickled and back in {median_cpu_s(pickled) * 1e6:.0f} us"
    middle, tail = statistics.median(alone) * 1e3, statistics.quantiles(alone, n=20)[-1] * 1e3
    return [
        Row(2, "overhead of a job, submit to report, one at a time", middle, "ms", 1.0, note=f"95 %: {tail:.2f} ms"),
        Row(2, f"overhead of a job, {jobs} submitted at once", waiting * 1e3, "ms", 1.0, note=note),
    ]


async def one_by_one(pool: WorkerPool, job: MipmapJob, jobs: int) -> list[float]:
    """Return the overhead of each job: seconds from submit to report, without the worker's own time."""
    overheads_s: list[float] = []
    for _ in range(jobs):
        began = time.perf_counter()
        report = await run_job(pool, job)
        overheads_s.append(time.perf_counter() - began - report.seconds)
    return overheads_s


def import_row(runs: int) -> Row:
    """Measure the imports of a worker in a new interpreter, without its start; the modules are compiled."""

    def run(code: str) -> None:
        subprocess.run([sys.executable, "-c", code], check=True)

    timings = interleaved({"worker": functools.partial(run, IMPORTS), "bare": functools.partial(run, "pass")}, runs)
    walls = [each.wall_s - bare.wall_s for each, bare in zip(timings["worker"], timings["bare"], strict=True)]
    cpu = median_cpu_s(timings["worker"]) - median_cpu_s(timings["bare"])
    heavy = subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\nimport sys; print('skimage' in sys.modules, 'scipy' in sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    note = f"CPU {cpu:.3f} s; scikit-image {'imported' if 'True' in heavy else 'not imported'}"
    return Row(2, "imports of a worker", statistics.median(walls), "s", 0.3, note=note)


if __name__ == "__main__":
    run_script("worker_pool", measure)
