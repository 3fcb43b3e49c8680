"""Target 15: throughput and memory of a dask cluster with two workers that make many of the smallest tiles.

A run with `--tiles 1000000` takes hours; `--minutes 60` ends it after an hour. `--lines FILE` writes each sample at
once, so that `--read FILE` can evaluate a run that was killed. For `--machines` see benchmarks/cluster.py.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.cluster import Cluster, cluster, network_of
from benchmarks.common import Options, Outcome, Plot, Row, run_script
from handlers.container import Container
from handlers.generate_mipmaps import make_all
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.plan import Level0, MipmapPlan
from handlers.mipmaps.report import MipmapReport
from handlers.mipmaps.tile_jobs import tile_job

TILES = 4_000
SECTION_TILES = 1_000
SECTIONS_AT_ONCE = 2
AT_ONCE = 64
"""Tiles that are submitted at once: the number of workers that the daemon assumes for a cluster by default."""
SIDE_PX = 2
"""Smallest side of an image from which a level 1 can be made."""
SAMPLE_S = 5.0


def measure(
    options: Options,
    tiles: int = TILES,
    minutes: float = math.inf,
    lines: Path | None = None,
    read: Path | None = None,
    machines: bool = False,
) -> Outcome:
    """Make this number of tiles, or as many as the minutes allow; or evaluate the lines of an earlier run."""
    found = Soak(lines) if read is None else Soak.read(read)
    if read is None:
        with network_of(wanted=machines) as net, cluster(options.directory, 2, net) as two, asyncio.Runner() as runner:
            runner.run(soak(two, found, options.directory, 400 if options.quick else tiles, 60 * minutes))
    return Outcome(found.rows(), found.plots(), {"samples": len(found.samples)})


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements at one time."""

    tiles: int
    seconds: float
    rss_bytes: Mapping[str, int]
    """Resident memory of each part."""
    cpu_s: Mapping[str, float]


@dataclass
class Soak:
    """Measurements of a run in which many small tiles were made."""

    lines: Path | None = None
    """File to which each sample is appended as a line of JSON."""
    samples: list[Sample] = field(default_factory=list)

    @classmethod
    def read(cls, lines: Path) -> "Soak":
        """Return a run from its lines."""
        return cls(samples=[Sample(**json.loads(line)) for line in lines.read_text().splitlines()])

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self.samples.append(sample)
        if self.lines:
            with self.lines.open("a") as file:
                file.write(json.dumps(asdict(sample)) + "\n")

    def growth_bytes(self, part: str) -> float:
        """Return the growth of a part's memory per tile, bytes: the slope over the last half of the tiles."""
        half = [each for each in self.samples if each.tiles >= self.samples[-1].tiles / 2]
        if len({each.tiles for each in half}) < 2:
            return 0.0
        return statistics.linear_regression(
            [each.tiles for each in half], [each.rss_bytes[part] for each in half]
        ).slope

    def rows(self) -> list[Row]:
        """Return the rows of the table."""
        first, last = self.samples[0], self.samples[-1]
        tiles, seconds = last.tiles - first.tiles, last.seconds - first.seconds
        cost = {part: 1e3 * (last.cpu_s[part] - first.cpu_s[part]) / tiles for part in last.cpu_s}
        rate = Row(
            15,
            f"{last.tiles:,} tiles of {SIDE_PX}x{SIDE_PX} through two workers of dask, {AT_ONCE} at once",
            tiles / seconds,
            "tiles/s",
            note="CPU of a tile: " + ", ".join(f"{part} {ms:.2f} ms" for part, ms in cost.items()),
        )
        return [rate, *(self._memory_row(part) for part in last.rss_bytes)]

    def _memory_row(self, part: str) -> Row:
        half = next(each for each in self.samples if each.tiles >= self.samples[-1].tiles / 2)
        then, now = (each.rss_bytes[part] / 2**20 for each in (half, self.samples[-1]))
        return Row(
            15,
            f"memory of the {part}: growth with each tile, over the last half of the tiles",
            self.growth_bytes(part),
            "bytes",
            note=f"{then:.1f} MiB after {half.tiles:,}, {now:.1f} MiB after {self.samples[-1].tiles:,}",
        )

    def plots(self) -> list[Plot]:
        """Return the plots of memory and rate."""
        memory = {
            part: [(each.tiles / 1e3, each.rss_bytes[part] / 2**20) for each in self.samples]
            for part in self.samples[-1].rss_bytes
        }
        rate = [
            (now.tiles / 1e3, (now.tiles - then.tiles) / (now.seconds - then.seconds))
            for then, now in itertools.pairwise(self.samples)
            if now.seconds > then.seconds
        ]
        x = "thousands of tiles"
        return [
            Plot("cluster_memory", "Memory while small tiles are made by a cluster", x, "MiB", memory),
            Plot("cluster_rate", "Small tiles a second", x, "tiles/s", {"two workers": rate}),
        ]


async def soak(cluster: Cluster, found: Soak, directory: Path, tiles: int, seconds: float) -> None:
    """Make small tiles, section by section, as the daemon does."""
    sections, done, began = Sections(directory), itertools.count(1), time.perf_counter()
    numbers = iter(range(-(-tiles // SECTION_TILES)))
    slots, stop = asyncio.Semaphore(AT_ONCE), asyncio.Event()
    asyncio.get_running_loop().call_later(min(seconds, 1e8), stop.set)
    made = 0

    async def record(reports: Sequence[MipmapReport]) -> None:
        nonlocal made
        for report in reports:
            if report.fault is not None:
                raise RuntimeError(str(report.fault))
            made = next(done)

    def sample() -> None:
        found.add(Sample(made, time.perf_counter() - began, cluster.memory_bytes(), cluster.cpu_s()))

    async def sampling() -> None:
        while True:
            sample()
            await asyncio.sleep(SAMPLE_S)

    async def work() -> None:
        for number in numbers:
            with sections.section(number, min(SECTION_TILES, tiles)) as jobs:
                await make_all(cluster.pool, jobs, record, slots=slots, stop=stop)
            if stop.is_set():
                return

    with sections.section(-1, AT_ONCE) as jobs:  # warms up: the workers import their modules
        await make_all(cluster.pool, jobs, record, slots=slots, stop=stop)
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(sampling())
        await asyncio.gather(*(group.create_task(work()) for _ in range(SECTIONS_AT_ONCE)))
        watch.cancel()
    sample()


class Sections:
    """Sections of small tiles, each with its own paths. A section is removed when it is done."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._image = directory / "image.tif"
        Image.fromarray(np.zeros((SIDE_PX, SIDE_PX), np.uint8)).save(self._image)
        for name in ("images", "mipmaps"):
            (directory / name).mkdir()
        self._root = Container.of(directory / "images")
        output = directory / "mipmaps"
        self._plan = MipmapPlan(output, levels=1, container=Container.of(output))

    @contextlib.contextmanager
    def section(self, number: int, tiles: int) -> Iterator[list[MipmapJob]]:
        """Yield the jobs of a section whose images are copies of one file."""
        images = self._directory / "images" / f"section{number}"
        images.mkdir()
        levels = self._plan.path(1, images / "tile.tif").parent
        assert isinstance(levels, Path)
        try:
            yield [self._job(images / f"tile{tile}.tif") for tile in range(tiles)]
        finally:
            shutil.rmtree(images)
            shutil.rmtree(levels, ignore_errors=True)

    def _job(self, image: Path) -> MipmapJob:
        shutil.copyfile(self._image, image)  # a new link would change the status time (ctime) of all images
        tile = Level0(f"{image.parent.name}.{image.stem}", image, None, SIDE_PX, SIDE_PX)
        return tile_job(tile, self._plan, self._root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--lines", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--machines", action="store_true")
    given, others = parser.parse_known_args(sys.argv[1:])
    run_script("cluster_soak", lambda options: measure(options, **vars(given)), others)
