"""Target 14: level 0 on a disk and on mounts that answer late, none of it in the cache; and all of it in the cache."""

import asyncio
import contextlib
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.common import DISK_RESULTS, Options, Outcome, Row, cores, median_ratio, run_script
from benchmarks.mipmap_kernel import LEVELS, texture
from handlers.generate_mipmaps import make_all
from handlers.images.encode import Encoding
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.report import MipmapReport
from handlers.workers.pool import WorkerPool, open_executor
from handlers.workers.processes import ProcessExecutor
from handlers.workers.upcoming import ReadAheadLimit
from tests.acceptance.passthrough import WHY_NOT, Mount
from tests.page_cache import drop

DELAYS_S = (0.002, 0.02)
MOST_IDLE = 0.1
SAMPLE_S = 0.003


@dataclass(frozen=True, slots=True)
class Taken:
    """One run over all tiles."""

    tiles_per_s: float
    idle: float
    """Share of the cores for which no worker was runnable."""


def measure(options: Options) -> Outcome:
    """Measure the disk, then each mount; with the next images announced and without, in turn."""
    side, tiles, rounds = (512, 6, 1) if options.quick else (3840, 24, 5)
    DISK_RESULTS.mkdir(parents=True, exist_ok=True)
    source = DISK_RESULTS / "cold"  # images in memory are never cold
    images = write_images(source, side, tiles)
    rows: list[Row] = []
    try:
        with asyncio.Runner() as runner:
            for count in (cores(), 4 * cores()):
                with open_executor("processes", count) as pool:
                    bench = Bench(runner, pool, options.directory, side, rounds)
                    if count == cores():
                        rows += [bench.row("disk, warm", images, "tif", warm=True), bench.row("disk", images, "tif")]
                    for delay_s in DELAYS_S if not WHY_NOT else ():
                        with mounted(source, options.directory / "mount", delay_s) as mount:
                            seen = [mount / image.name for image in images]
                            rows += [bench.row(f"mount, {delay_s * 1e3:g} ms", seen, kind) for kind in ("tif", "png")]
    finally:
        for image in images:
            image.unlink()
        source.rmdir()
    return Outcome(rows)


def write_images(directory: Path, side: int, count: int) -> list[Path]:
    """Write distinct images."""
    directory.mkdir(parents=True, exist_ok=True)
    images = [directory / f"{number:03}.tif" for number in range(count)]
    for number, image in enumerate(images):
        pixels = texture(side, 8).copy()
        pixels[0, 0] = number
        Image.fromarray(pixels).save(image)
    return images


@contextlib.contextmanager
def mounted(source: Path, target: Path, delay_s: float) -> Iterator[Path]:
    """Mount a directory whose server answers after a delay."""
    mount = Mount(source, target, delay_s)
    try:
        yield target
    finally:
        mount.close()


class Bench:
    """Runs over the same tiles through one pool."""

    def __init__(self, runner: asyncio.Runner, pool: WorkerPool, directory: Path, side: int, rounds: int) -> None:
        self._runner, self._pool, self._directory, self._side, self._rounds = runner, pool, directory, side, rounds
        self._limit = pool.read_ahead.most_bytes

    def row(self, where: str, images: Sequence[Path], kind: str, *, warm: bool = False) -> Row:
        """Compare runs with the next images announced and without."""
        self._run(images, kind, self._limit, warm=warm)
        ahead: list[Taken] = []
        alone: list[Taken] = []
        for _ in range(self._rounds):
            ahead.append(self._run(images, kind, self._limit, warm=warm))
            alone.append(self._run(images, kind, 0, warm=warm))
        gain = median_ratio([each.tiles_per_s for each in ahead], [each.tiles_per_s for each in alone])
        idle, idle_alone = (statistics.median(each.idle for each in many) for many in (ahead, alone))
        executor = self._pool.executor
        assert isinstance(executor, ProcessExecutor)
        return Row(
            14,
            f"{where}: {kind} of {self._side}x{self._side}, {len(executor.pids())} workers",
            statistics.median(each.tiles_per_s for each in ahead),
            "tiles/s",
            0.95 if warm else MOST_IDLE if kind == "png" else None,  # tif asks for more than a mount has
            at_most=not warm,
            peer=statistics.median(each.tiles_per_s for each in alone),
            peer_is="only its own image announced",
            ratio=gain,
            ratio_is="rate / rate of the peer",
            judged=gain if warm else idle,
            note=f"idle {idle:.0%}, peer {idle_alone:.0%}",
        )

    def _run(self, images: Sequence[Path], kind: str, limit: int, *, warm: bool) -> Taken:
        out = self._directory / "levels"
        jobs = [
            MipmapJob(
                image.stem,
                image,
                tuple((level, out / str(level) / f"{image.stem}.{kind}") for level in LEVELS),
                self._side,
                self._side,
                encoding=Encoding(kind),
            )
            for image in images
        ]
        for image in images:
            _ = image.read_bytes() if warm else drop(image)
        self._pool.read_ahead = ReadAheadLimit(limit)
        executor = self._pool.executor
        assert isinstance(executor, ProcessExecutor)
        with Idleness(executor.pids()) as idleness:
            began = time.perf_counter()
            self._runner.run(all_made(self._pool, jobs, len(executor.pids())))
            seconds = time.perf_counter() - began
        return Taken(len(jobs) / seconds, idleness.share)


async def all_made(pool: WorkerPool, jobs: Sequence[MipmapJob], workers: int) -> None:
    """Run all jobs as the daemon does."""

    async def record(reports: list[MipmapReport]) -> None:
        for report in reports:
            if report.fault is not None:
                raise RuntimeError(str(report.fault))

    slots = asyncio.Semaphore(workers + max(2, workers // 2))
    await make_all(pool, jobs, record, slots=slots, stop=asyncio.Event())


class Idleness:
    """Share of the cores for which no worker is runnable: one that waits for a core that others have is not idle."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._states = [Path(f"/proc/{pid}/stat") for pid in pids]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="idleness")
        self._samples: list[float] = []

    def __enter__(self) -> "Idleness":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def share(self) -> float:
        return statistics.fmean(self._samples)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            runnable = sum(path.read_text().rpartition(")")[2].split()[0] == "R" for path in self._states)
            self._samples.append(max(0, cores() - runnable) / cores())


if __name__ == "__main__":
    run_script("cold", measure)
