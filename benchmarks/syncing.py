"""Target 1: tiles with synced levels, with as many workers as cores and with more, compared with the storage alone.

While a worker waits for a sync, another worker can use its core.
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

from benchmarks.bare_storage import run_moves
from benchmarks.cold import at_once, jobs_of, run_jobs, write_images
from benchmarks.common import Options, Outcome, Plot, Row, cores, file_system, median_ratio, run_script, scheduled_s
from daemon.config.worker_settings import default_processes
from handlers.workers.opening import open_executor
from tests.worker_processes import worker_pids


@dataclass(frozen=True, slots=True)
class Tile:
    """Milliseconds per tile of a run."""

    wall: float
    """Time of the run divided by its tiles, several of which are made at once."""
    cpu: float
    """CPU of the workers."""
    blocked: float
    """Time in which a worker neither runs nor waits for a core."""


def measure(options: Options) -> Outcome:
    """Measure each number of workers in turn with as many processes that move and sync the same bytes."""
    side, tiles, rounds = (512, 6, 2) if options.quick else (3840, 48, 3)
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
                for taken, run in ((made, run_jobs), (moved, partial(run_moves, writes=True))):
                    shutil.rmtree(levels, ignore_errors=True)
                    os.sync()
                    tile = _tile(runner, count, run(pool, jobs, at_once(count)), tiles)
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


def _tile(runner: asyncio.Runner, count: int, work: Coroutine[Any, Any, object], tiles: int) -> Tile:
    """Return the milliseconds per tile of a run by `count` workers."""
    pids = worker_pids(os.getpid())  # those of the other pools are idle
    began, before = time.perf_counter(), scheduled_s(pids)
    runner.run(work)
    seconds, after = time.perf_counter() - began, scheduled_s(pids)
    ran, waited = (now - then for now, then in zip(after, before, strict=True))
    return Tile(*(each * 1e3 / tiles for each in (seconds, ran, count * seconds - ran - waited)))


def _middle(many: Sequence[Tile], name: str) -> float:
    times: list[float] = [getattr(each, name) for each in many]
    return statistics.median(times)


def _row(side: int, count: int, made: Sequence[Tile], floor: Sequence[Tile], directory: Path) -> Row:
    """Compare with processes that only move the bytes, as many as there are cores."""
    ratio = median_ratio([each.wall for each in made], [each.wall for each in floor])
    is_judged = file_system(directory) != "tmpfs" and count == default_processes(cores())
    return Row(
        1,
        f"time per tile of {side}x{side}, 8 bit, six levels, synced, {count} workers",
        _middle(made, "wall"),
        "ms",
        1.3 if is_judged else None,
        floor=_middle(floor, "wall"),
        floor_is=f"the same bytes read, written and synced by {cores()} processes",
        ratio=ratio,
        ratio_is="measured / floor",
        judged=ratio,
        note=f"CPU {_middle(made, 'cpu'):.2f} ms, blocked {_middle(made, 'blocked'):.2f} ms",
    )


if __name__ == "__main__":
    run_script("syncing", measure)
