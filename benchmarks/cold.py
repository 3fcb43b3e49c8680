"""Target 14: tiles whose images are on a disk or a slow mount: not in the page cache, and on the disk also cached.

With the default number of workers. `--workers 8` measures another number, `--place mount-20` only one place.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.bare_storage import run_moves
from benchmarks.common import DISK_RESULTS, Options, Outcome, Row, cores, median_ratio, run_script, scheduled_s
from benchmarks.mipmap_kernel import LEVELS, texture
from daemon.config.worker_settings import default_processes
from handlers.generate_mipmaps import make_all
from handlers.images.encode import Encoding
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers.opening import open_executor
from handlers.workers.pool import WorkerPool
from handlers.workers.upcoming import ReadAheadLimit
from tests.acceptance.passthrough import WHY_NOT, Mount
from tests.page_cache import drop
from tests.worker_processes import worker_pids

DELAYS_S = {"mount-2": 0.002, "mount-20": 0.02}
"""Mount -> delay of its server's answers."""
PLACES = ("disk", *DELAYS_S)
MAX_IDLE = 0.1
SAMPLE_S = 0.003


@dataclass(frozen=True, slots=True)
class Run:
    """Figures of one run over all tiles. Except for the CPU, its first and last tiles are not counted."""

    tiles_per_s: float
    idle: float
    """Share of the cores for which no worker is runnable."""
    blocked_s: float
    """Time per tile in which a worker neither runs nor waits for a core. Other programs have no effect on it."""
    cpu_s: float
    """CPU of all threads of the workers, over the whole run."""


def measure(options: Options, places: Sequence[str] = PLACES, workers: Sequence[int] | None = None) -> Outcome:
    """Measure tiles from the disk, then from each mount, in turn with the storage alone."""
    side, tiles, rounds = (512, 12, 1) if options.quick else (3840, 32, 2)
    DISK_RESULTS.mkdir(parents=True, exist_ok=True)
    source = DISK_RESULTS / "cold"  # files on tmpfs are always in memory
    images = write_images(source, side, tiles)
    rows: list[Row] = []
    try:
        with asyncio.Runner() as runner:
            for count in workers or (default_processes(cores()),):
                with open_executor("processes", count) as pool:
                    bench = Bench(runner, pool, options.directory / "levels", side, rounds)
                    for place in places:
                        rows += _rows(bench, place, images, options.directory / "mount")
    finally:
        shutil.rmtree(source)
    return Outcome(rows)


def _rows(bench: "Bench", place: str, images: Sequence[Path], mount: Path) -> Iterator[Row]:
    if place == "disk":
        yield bench.warm_row(images)
        yield bench.row("a disk", images, "tif")
        yield bench.row("a disk", images, "png")
        on_disk = bench.with_levels_in(images[0].parent / "levels")
        yield on_disk.row("a disk, levels on it too", images, "tif", writes=True)
    elif not WHY_NOT:
        with mounted(images[0].parent, mount, DELAYS_S[place]):
            seen = [mount / image.name for image in images]
            for kind in ("tif", "png"):
                yield bench.row(f"a mount with {DELAYS_S[place] * 1e3:g} ms", seen, kind)


def write_images(directory: Path, side: int, count: int) -> list[Path]:
    """Write distinct images."""
    directory.mkdir(parents=True, exist_ok=True)
    images = [directory / f"{number:03}.tif" for number in range(count)]
    for number, image in enumerate(images):
        pixels = texture(side, 8).copy()
        pixels[0, 0] = number
        Image.fromarray(pixels).save(image)
    return images


def jobs_of(images: Sequence[Path], kind: str, levels: Path, side: int) -> list[MipmapJob]:
    """Return the job of each image."""
    return [
        MipmapJob(
            image.stem,
            image,
            tuple((level, levels / str(level) / f"{image.stem}.{kind}") for level in LEVELS),
            side,
            side,
            encoding=Encoding(kind),
        )
        for image in images
    ]


@contextlib.contextmanager
def mounted(source: Path, target: Path, delay_s: float) -> Iterator[None]:
    """Mount a directory whose server answers after a delay."""
    mount = Mount(source, target, delay_s)
    try:
        yield
    finally:
        mount.close()


class Bench:
    """Runs over the same tiles through one pool."""

    def __init__(self, runner: asyncio.Runner, pool: WorkerPool, levels: Path, side: int, rounds: int) -> None:
        self._runner, self._pool, self._levels, self._side, self._rounds = runner, pool, levels, side, rounds
        self._limit = pool.read_ahead.max_bytes
        self._pids = worker_pids(os.getpid())

    def with_levels_in(self, levels: Path) -> "Bench":
        """Return the same bench with the levels in another directory."""
        return Bench(self._runner, self._pool, levels, self._side, self._rounds)

    def warm_row(self, images: Sequence[Path]) -> Row:
        """Compare the CPU with and without read-ahead of the next images, all of them in the page cache."""
        jobs = jobs_of(images, "tif", self._levels, self._side)
        ahead, alone = self._in_turn(
            *(partial(self._make, jobs, images, limit=limit, warm=True) for limit in (self._limit, 0)),
            rounds=4 * self._rounds,
        )
        cpu_ms = [statistics.median(each.cpu_s for each in many) * 1e3 / len(images) for many in (ahead, alone)]
        ratio = median_ratio([each.cpu_s for each in ahead], [each.cpu_s for each in alone])
        return Row(
            14,
            f"images of {self._side}x{self._side} in the page cache: tif, {len(self._pids)} workers",
            cpu_ms[0],
            "ms of CPU a tile",
            1.05,  # of the CPU: the rate depends on other programs
            peer=cpu_ms[1],
            peer_is="without read-ahead of the next images",
            ratio=ratio,
            ratio_is="measured / peer",
            judged=ratio,
            note=f"{statistics.median(_rates(ahead)):.0f} tiles/s, peer {statistics.median(_rates(alone)):.0f}",
        )

    def row(self, where: str, images: Sequence[Path], kind: str, *, writes: bool = False) -> Row:
        """Compare with the storage alone: either the workers or the storage should be busy."""
        images = images[: len(images) // 2] if kind == "png" else images  # png takes ten times as long
        jobs = jobs_of(images, kind, self._levels, self._side)
        ahead, storage = self._in_turn(
            partial(self._make, jobs, images, limit=self._limit),
            partial(self._move, jobs, images, writes=writes),
        )
        of_storage = median_ratio(_rates(ahead), _rates(storage))
        busy = 1 - statistics.median(each.idle for each in ahead)
        return Row(
            14,
            f"images of {self._side}x{self._side} on {where}, not cached: {kind}, {len(self._pids)} workers",
            statistics.median(_rates(ahead)),
            "tiles/s",
            1 - MAX_IDLE,
            at_most=False,
            floor=statistics.median(_rates(storage)),
            floor_is="the storage alone",
            ratio=max(busy, of_storage),
            ratio_is="busy share of the workers or of the storage, whichever is larger",
            judged=max(busy, of_storage),
            note=f"idle {1 - busy:.0%}; {of_storage:.2f} of the storage's own rate; {_blocked_text(ahead, storage)}",
        )

    def _in_turn(self, *variants: Callable[[], Run], rounds: int | None = None) -> list[list[Run]]:
        """Return the runs of each variant, run in turn, after a run of the first variant that is not counted."""
        variants[0]()
        runs = [[variant() for variant in variants] for _ in range(rounds or self._rounds)]
        return [list(each) for each in zip(*runs, strict=True)]

    def _make(self, jobs: Sequence[MipmapJob], images: Sequence[Path], *, limit: int, warm: bool = False) -> Run:
        return self._run(run_jobs(self._pool, jobs, at_once(len(self._pids))), images, limit, warm=warm)

    def _move(self, jobs: Sequence[MipmapJob], images: Sequence[Path], *, writes: bool) -> Run:
        return self._run(
            run_moves(self._pool, jobs, at_once(len(self._pids)), writes=writes), images, self._limit, warm=False
        )

    def _run(self, work: Coroutine[Any, Any, list[float]], images: Sequence[Path], limit: int, *, warm: bool) -> Run:
        shutil.rmtree(self._levels, ignore_errors=True)
        for image in images:
            if warm:
                image.read_bytes()
            else:
                drop(image)
        self._pool.read_ahead = ReadAheadLimit(limit)
        before = self._cpu_s()
        with Idleness(self._pids) as idleness:
            done_at = self._runner.run(work)
        skipped = min(len(self._pids), len(done_at) // 4)
        began, ended = done_at[skipped - 1], done_at[-skipped - 1]
        tiles = len(done_at) - 2 * skipped
        idle, blocked_s = idleness.between(began, ended)
        return Run(tiles / (ended - began), idle, blocked_s / tiles, self._cpu_s() - before)

    def _cpu_s(self) -> float:
        files = [file for pid in self._pids for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e9


def _rates(runs: Sequence[Run]) -> list[float]:
    return [each.tiles_per_s for each in runs]


def _blocked_text(made: Sequence[Run], moved: Sequence[Run]) -> str:
    blocked = (statistics.median(each.blocked_s for each in runs) * 1e3 for runs in (made, moved))
    return "workers are blocked for {:.1f} ms a tile, with the storage alone for {:.1f} ms".format(*blocked)


def at_once(workers: int) -> int:
    """Return the number of tiles that the daemon submits at once."""
    return workers + max(2, workers // 2)


async def run_jobs(pool: WorkerPool, jobs: Sequence[MipmapJob], at_once: int) -> list[float]:
    """Run all jobs as the daemon does; return the time at which each was done."""
    done_at: list[float] = []

    async def record(reports: list[MipmapReport]) -> None:
        for report in reports:
            if report.fault is not None:
                raise RuntimeError(str(report.fault))
            done_at.append(time.perf_counter())

    await make_all(pool, jobs, record, slots=asyncio.Semaphore(at_once), stop=asyncio.Event())
    return done_at


class Idleness:
    """Share of the cores for which no worker is runnable. A worker that waits for a core is runnable."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._states = [Path(f"/proc/{pid}/stat") for pid in pids]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="idleness")
        self._samples: list[tuple[float, float, float]] = []
        """Time, idle share of the cores, and the sum of the seconds for which workers have run or waited for a core."""

    def __enter__(self) -> "Idleness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, began: float, ended: float) -> tuple[float, float]:
        """Return the mean share between two times, and the sum of the seconds for which workers were blocked."""
        samples = [each for each in self._samples if began <= each[0] <= ended]
        if len(samples) < 2:
            return 0.0, 0.0
        (first, _, then), (last, _, now) = samples[0], samples[-1]
        return statistics.fmean(share for _, share, _ in samples), len(self._pids) * (last - first) - (now - then)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            runnable = sum(path.read_text().rpartition(")")[2].split()[0] == "R" for path in self._states)
            share = max(0, cores() - runnable) / cores()
            self._samples.append((time.perf_counter(), share, sum(scheduled_s(self._pids))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--place", choices=PLACES)
    parser.add_argument("--workers", type=int)
    given, others = parser.parse_known_args(sys.argv[1:])
    parts = [str(each) for each in (given.place, given.workers) if each]  # does not replace the results of all places
    run_script(
        "-".join(["cold", *parts]),
        lambda options: measure(
            options, [given.place] if given.place else PLACES, [given.workers] if given.workers else None
        ),
        others,
    )
