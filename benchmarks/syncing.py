"""Target 1: tiles whose levels are synced, by as many workers as cores and by more, beside the storage alone.

A worker that waits for a sync leaves its core to the next tile, if there is another worker to make it.
"""

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare_storage import all_moved
from benchmarks.cold import all_made, at_once, jobs_of, write_images
from benchmarks.common import Options, Outcome, Plot, Row, cores, file_system, median_ratio, run_script
from daemon.config.worker_settings import default_processes
from handlers.mipmaps.job import MipmapJob
from handlers.workers.pool import WorkerPool, open_executor


def measure(options: Options) -> Outcome:
    """Measure each number of workers in turn, and the storage alone with as many processes as cores."""
    side, tiles, rounds = (512, 6, 2) if options.quick else (3840, 48, 15)
    images = write_images(options.directory / "images", side, tiles)
    counts = (cores(), default_processes(cores()), 2 * cores())
    made: dict[int, list[float]] = {count: [] for count in counts}
    moved: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        pools = {count: stack.enter_context(open_executor("processes", count)) for count in counts}
        jobs = jobs_of(images, "tif", options.directory / "levels", side)
        for number in range(rounds + 1):
            for count, pool in pools.items():
                for times, writes in ((made, None), (moved, True)):
                    seconds = _tile_s(runner, pool, count, jobs, options.directory / "levels", writes)
                    if number:  # the first round is not counted
                        times[count].append(seconds)
    rows = [_row(side, count, made[count], moved[cores()], options.directory) for count in counts]
    middle = {
        name: {n: statistics.median(many) * 1e3 for n, many in each.items()}
        for name, each in (("made", made), ("moved", moved))
    }
    plot = Plot(
        "syncing",
        f"A tile of {side}x{side}, six levels, synced",
        "workers",
        "milliseconds",
        {"temwatch": list(middle["made"].items()), "storage alone": list(middle["moved"].items())},
    )
    return Outcome(rows, [plot], {"ms_a_tile": middle})


def _tile_s(
    runner: asyncio.Runner, pool: WorkerPool, count: int, jobs: Sequence[MipmapJob], levels: Path, writes: bool | None
) -> float:
    """Return the seconds of a tile, into an empty directory; None: made by temwatch."""
    shutil.rmtree(levels, ignore_errors=True)
    os.sync()
    began = time.perf_counter()
    if writes is None:
        runner.run(all_made(pool, jobs, at_once(count)))
    else:
        runner.run(all_moved(pool, jobs, at_once(count), writes=writes))
    return (time.perf_counter() - began) / len(jobs)


def _row(side: int, count: int, made: Sequence[float], floor: Sequence[float], directory: Path) -> Row:
    """Compare with as many processes as cores that only move the bytes."""
    ratio = median_ratio(made, floor)
    return Row(
        1,
        f"a tile among others, levels synced, {side}x{side}, 8 bit, {count} workers",
        statistics.median(made) * 1e3,
        "ms",
        1.3 if file_system(directory) != "tmpfs" else None,
        floor=statistics.median(floor) * 1e3,
        floor_is=f"bytes in, bytes out and synced, {cores()} processes",
        ratio=ratio,
        ratio_is="measured / floor",
        judged=ratio,
        note=f"of the quickest runs {min(made) / min(floor):.2f}",
    )


if __name__ == "__main__":
    run_script("syncing", measure)
