"""Target 1: tiles whose levels are synced, by as many workers as cores and by more, beside the storage alone.

A worker that waits for a sync leaves its core to the next tile, if there is another worker to make it.
"""

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bare_storage import all_moved
from benchmarks.cold import all_made, at_once, jobs_of, write_images
from benchmarks.common import Options, Outcome, Plot, Row, cores, file_system, median_ratio, run_script, scheduled_s
from daemon.config.worker_settings import default_processes
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool
from handlers.workers.processes import ProcessExecutor


@dataclass(frozen=True, slots=True)
class Tile:
    """Milliseconds of a tile among others."""

    wall: float
    """From one to the next: less than each takes, since several are made at once."""
    cpu: float
    """Of its worker."""
    blocked: float
    """In which its worker neither runs nor waits for a core."""


def measure(options: Options) -> Outcome:
    """Measure each number of workers in turn, and as many processes that move and sync the same bytes."""
    side, tiles, rounds = (512, 6, 2) if options.quick else (3840, 48, 5)
    levels = options.directory / "levels"
    jobs = jobs_of(write_images(options.directory / "images", side, tiles), "tif", levels, side)
    counts = (cores(), default_processes(cores()), 2 * cores())
    made: dict[int, list[Tile]] = {count: [] for count in counts}
    moved: dict[int, list[Tile]] = {count: [] for count in counts}
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        pools = {count: stack.enter_context(open_executor("processes", count)) for count in counts}
        for number in range(rounds + 1):
            for count, pool in pools.items():
                for taken, run in ((made, all_made), (moved, partial(all_moved, writes=True))):
                    shutil.rmtree(levels, ignore_errors=True)
                    os.sync()
                    tile = _tile(runner, pool, run(pool, jobs, at_once(count)), tiles)
                    if number:  # the first round is not counted
                        taken[count].append(tile)
    rows = [_row(side, count, made[count], moved[cores()], options.directory) for count in counts]
    lines = {"temwatch": made, "storage alone": moved}
    plot = Plot(
        "syncing",
        f"A tile of {side}x{side}, six levels, synced",
        "workers",
        "milliseconds",
        {name: [(count, _middle(many, "wall")) for count, many in each.items()] for name, each in lines.items()},
    )
    return Outcome(rows, [plot])


def _tile(runner: asyncio.Runner, pool: WorkerPool, work: Coroutine[Any, Any, object], tiles: int) -> Tile:
    """Return what a tile takes while all are made."""
    executor = pool.executor
    assert isinstance(executor, ProcessExecutor)
    pids = executor.pids()
    began, before = time.perf_counter(), scheduled_s(pids)
    runner.run(work)
    seconds, after = time.perf_counter() - began, scheduled_s(pids)
    ran, waited = (now - then for now, then in zip(after, before, strict=True))
    return Tile(*(each * 1e3 / tiles for each in (seconds, ran, len(pids) * seconds - ran - waited)))


def _middle(many: Sequence[Tile], name: str) -> float:
    return statistics.median(getattr(each, name) for each in many)


def _row(side: int, count: int, made: Sequence[Tile], floor: Sequence[Tile], directory: Path) -> Row:
    """Compare with as many processes as cores that only move the bytes."""
    ratio = median_ratio([each.wall for each in made], [each.wall for each in floor])
    is_judged = file_system(directory) != "tmpfs" and count == default_processes(cores())
    return Row(
        1,
        f"a tile among others, synced, {side}x{side}, 8 bit, {count} workers",
        _middle(made, "wall"),
        "ms",
        1.3 if is_judged else None,
        floor=_middle(floor, "wall"),
        floor_is=f"bytes in, bytes out and synced, {cores()} processes",
        ratio=ratio,
        ratio_is="measured / floor",
        judged=ratio,
        note=f"CPU {_middle(made, 'cpu'):.2f} ms, blocked {_middle(made, 'blocked'):.2f} ms",
    )


if __name__ == "__main__":
    run_script("syncing", measure)
