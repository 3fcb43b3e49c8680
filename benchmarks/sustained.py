"""Target 3: tiles of six 50-megapixel scopes through the whole daemon: uploads, mipmaps, journal, closed stacks.

Images are links to one tile, so that the run fits into memory; the cost of writing them is measured separately. The
level files of COMPLETE montages are counted and deleted.
"""

import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks import processes, sections
from benchmarks.common import Options, Outcome, Plot, Row, cores, idle_s, own_cpu_s, run_script
from daemon.simulator.section import SectionPlan
from handlers.uris import mipmap_path

SCOPES = 6
TARGET_TILES_PER_S = 18.4
SIZE = (5504, 5504)
LEVELS = 6
TILES = 48
"""Tiles of a section. Real sections have some hundreds to 3,000: at the same rate, sections are more frequent here."""
SATURATED_SECTIONS = 8
OFFERED_S = 32.0
"""Two sections of each scope at the target's rate."""
SHARE_OFFERED = 0.85
"""Share of the measured capacity that the second part of the run offers, if the capacity is below the target's rate."""
PROFILE_S = 8
_SIZE = f"{SIZE[0]}x{SIZE[1]}"
WAITS = (
    "_worker (concurrent/futures/thread.py",
    "Condition.wait ",
    "Connection._recv ",
    "EpollSelector.select",
    "Inotify.read ",
    "SemLock.",
    "_PollLikeSelector.select",
)
"""Functions in which a sampler finds a waiting thread."""


@dataclass
class Run:
    """Observations of the run."""

    began: float = field(default_factory=time.monotonic)
    samples: list[dict[str, float]] = field(default_factory=list)
    given: dict[str, SectionPlan] = field(default_factory=dict)
    """Keys are paths of metafiles."""
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """COMPLETE montages, as the daemon reports them."""
    files: int = 0
    """Level files on disk of COMPLETE montages."""


def measure(options: Options) -> Outcome:
    """Saturate the daemon to measure its capacity; then offer the rate of six scopes, or a share of the capacity."""
    tiles = 6 if options.quick else TILES
    acquisition = options.directory / "acquisition"
    acquisition.mkdir()
    image = sections.write_image(options.directory / "tile.tif", SIZE)
    with processes.standin(options.directory) as (standin, render_url):
        config = processes.write_config(
            options.directory,
            render_url,
            acquisition,
            stacks={"close_after_s": 2},
            mipmaps={"levels": LEVELS, "min_free_bytes": 2**30},
        )
        with processes.daemon(options.directory, config) as (program, url):
            scene = Scene(options.directory, acquisition, image, tiles, standin, program, url)
            with scene.watched():
                scene.saturate(2 if options.quick else SATURATED_SECTIONS)
                offered = min(TARGET_TILES_PER_S, SHARE_OFFERED * scene.capacity)
                scene.offer(offered, 5.0 if options.quick else OFFERED_S)
    return _outcome(scene, offered, write_cost_s(image, options.directory))


class Scene:
    """A daemon under load, and the observations of it."""

    def __init__(
        self,
        directory: Path,
        acquisition: Path,
        image: Path,
        tiles: int,
        standin: processes.Program,
        program: processes.Program,
        url: str,
    ) -> None:
        self.directory, self.acquisition, self.image, self.tiles = directory, acquisition, image, tiles
        self.standin, self.program, self.url = standin, program, url
        self.run = Run()
        self.capacity = 0.0
        self.cpu: dict[str, float] = {}
        self.idle_share = self.own_share = 0.0
        self.profiles: dict[str, list[tuple[str, float]]] = {}
        self.offered_from = 0.0
        self.offered: list[Path] = []
        """Metafiles that `offer` delivered."""
        self._number = 0
        self._over = threading.Event()

    # --- the two parts

    def saturate(self, count: int, *, profiled: bool = True) -> None:
        """Deliver this number of sections at once, which keeps all cores busy; set the capacity, tiles a second."""
        self._give()
        self._wait_until_complete()  # warms up: modules are imported, stacks are created
        before, idle = self._cpu(), idle_s()
        made, began = self._made(), time.monotonic()
        given = [self._give() for _ in range(count)]
        profiling = threading.Thread(target=self._profile if profiled else bool)
        profiling.start()
        wanted = made + len(given) * self.tiles
        processes.wait_for(lambda: self._made() >= wanted, 600, f"{wanted} tiles made", every_s=0.1)
        seconds = time.monotonic() - began
        after = self._cpu()
        self.idle_share = (idle_s() - idle) / seconds / cores()
        self.own_share = sum(after[name] - before[name] for name in before) / seconds / cores()
        self.capacity = (wanted - made) / seconds
        self.cpu = {name: (after[name] - before[name]) / (wanted - made) for name in before}
        profiling.join()
        self._wait_until_complete()

    def offer(self, tiles_per_s: float, seconds: float) -> None:
        """Deliver sections at this rate, by six scopes whose sections end at different times."""
        self.offered_from = time.monotonic() - self.run.began
        period_s = SCOPES * self.tiles / tiles_per_s
        due = sorted(
            scope * period_s / SCOPES * 0.9 + turn * period_s
            for scope in range(SCOPES)
            for turn in range(1 + int(seconds / period_s))
        )
        began = time.monotonic()
        for at in [each for each in due if each < seconds]:
            time.sleep(max(0.0, began + at - time.monotonic()))
            self.offered.append(self._give())
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        self._wait_until_complete()

    def _give(self) -> Path:
        section = sections.plan(self.tiles, SIZE, self._number, temca=f"temca{1 + self._number % SCOPES}")
        self._number += 1
        sections.link_images(section, self.acquisition, self.image)
        metafile = Path(self.acquisition, section.directory, section.metafile_name)
        self.run.given[str(metafile)] = section
        return sections.put_metafile(section, self.acquisition)

    # --- observation

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take samples and delete the files of COMPLETE montages until the end."""
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._clean()
            made = self._made()
            self.run.samples.append(
                {
                    "at": time.monotonic() - self.run.began,
                    "backlog": len(self.run.given) * self.tiles - made,
                    "memory": self.program.memory_bytes(),
                }
            )

    def _clean(self) -> None:
        answer = processes.fetch(f"{self.url}/api/montages?state=complete&limit=10000")
        for row in answer["montages"] if answer else []:
            if row["metafile"] in self.run.rows:
                continue
            section = self.run.given[row["metafile"]]
            directory = Path(self.acquisition, section.directory)
            for level in range(1, LEVELS + 1):
                place = mipmap_path(self.directory / "mipmaps", level, directory / "x", "tif").parent
                self.run.files += sum(1 for _ in place.iterdir())
                shutil.rmtree(place)
            for image in directory.glob("*.tif"):
                image.unlink()
            self.run.rows[row["metafile"]] = row

    def _made(self) -> int:
        text = processes.fetch(f"{self.url}/metrics")
        lines = [line for line in str(text).splitlines() if line.startswith("temwatch_tiles_mipmapped_total ")]
        return int(float(lines[0].split()[-1])) if lines else 0

    def _wait_until_complete(self) -> None:
        processes.wait_for(lambda: len(self.run.rows) == len(self.run.given), 900, "all COMPLETE", every_s=0.1)

    def _cpu(self) -> dict[str, float]:
        main, *others = processes.family(self.program.pid)
        return {
            "daemon": processes.cpu_of(main),
            "workers": sum(map(processes.cpu_of, others)),
            "stand-in": self.standin.cpu_s(),
            "the benchmark": own_cpu_s(),
        }

    def _profile(self) -> None:
        """Sample with py-spy in which functions the daemon and its busiest worker spend their time."""
        main, *others = processes.family(self.program.pid)
        busiest = max(others, key=processes.cpu_of)
        runs = {name: self._sample(name, pid) for name, pid in (("daemon", main), ("worker", busiest))}
        for name, (process, output) in runs.items():
            if process is not None and process.wait() == 0:
                self.profiles[name] = profile_of(output.read_text())

    def _sample(self, name: str, pid: int) -> tuple[subprocess.Popen[bytes] | None, Path]:
        output = self.directory / f"{name}.profile"
        profiler = Path(sys.executable).with_name("py-spy")
        if not profiler.exists():
            return None, output
        options = ("--duration", str(PROFILE_S), "--rate", "100", "--format", "raw", "--output", output)
        command: list[str | Path] = [profiler, "record", *options, "--pid", str(pid)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), output


def profile_of(raw: str, limit: int = 14) -> list[tuple[str, float]]:
    """Return the functions with their shares of the samples that do not wait, largest first."""
    own: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        function = stack.rpartition(";")[2].rpartition(":")[0] + ")"
        if not function.startswith(WAITS):
            own[function] += int(count)
    return [(name, count / own.total()) for name, count in own.most_common(limit)]


def write_cost_s(image: Path, directory: Path) -> float:
    """Measure the CPU seconds of writing the image of a tile."""
    content = image.read_bytes()
    cpu_s = []
    for number in range(8):
        path = directory / f"written{number}.tif"
        began = own_cpu_s()
        path.write_bytes(content)
        cpu_s.append(own_cpu_s() - began)
        path.unlink()
    return statistics.median(cpu_s)


def _outcome(scene: Scene, offered: float, write_s: float) -> Outcome:
    run = scene.run
    during = [sample for sample in run.samples if sample["at"] >= scene.offered_from]
    latencies = sorted(
        (_seconds(row["noticed_at"]) - _seconds(min(each["noticed_at"] for each in run.rows.values())), _latency_s(row))
        for row in run.rows.values()
    )
    growth = _growth_per_s(during)
    expected = len(run.given) * scene.tiles * LEVELS
    cpu_s = sum(scene.cpu.values())
    work_s = scene.cpu["daemon"] + scene.cpu["workers"]
    rows = [
        Row(
            3,
            f"rate of the saturated daemon, tiles of {_SIZE}, {cores()} cores for it, its workers and the stand-in",
            scene.capacity,
            "tiles/s",
            limit=TARGET_TILES_PER_S,
            at_most=False,
            floor=cores() / (scene.cpu["workers"] or 1),
            floor_is="cores / workers' CPU",
            note=f"CPU of a tile: {', '.join(f'{name} {1000 * value:.1f} ms' for name, value in scene.cpu.items())}",
        ),
        Row(
            3,
            f"growth of the backlog while six scopes offer {offered:.1f} tiles/s",
            growth,
            "tiles/s",
            limit=0.02 * offered,
            note=f"at most {max(sample['backlog'] for sample in during):.0f} tiles wait",
        ),
        Row(
            3,
            f"metafile noticed to COMPLETE under that load, sections of {scene.tiles} tiles",
            statistics.median(_latency_s(run.rows[str(metafile)]) for metafile in scene.offered),
            "s",
            note="contains settle_s = 0.5 s and close_after_s = 2 s",
        ),
        Row(
            3,
            "level files on disk when their montage was COMPLETE",
            run.files,
            "files",
            limit=expected,
            at_most=False,
            note=f"{len(run.rows)} montages",
        ),
        Row(
            3,
            "share of the cores that was idle or used by other programs, while saturated",
            100 * (1 - scene.own_share),
            "%",
            note=f"idle {100 * scene.idle_share:.0f} %, this run {100 * scene.own_share:.0f} %, others the rest",
        ),
        Row(
            3,
            f"CPU of a tile of {_SIZE}, daemon and workers",
            1000 * work_s,
            "ms",
            note=f"with the stand-in and the benchmark {1000 * cpu_s:.1f} ms",
        ),
        Row(3, f"CPU of writing a tile of {_SIZE}, in addition", 1000 * write_s, "ms"),
        Row(3, "peak memory of the daemon with its workers", max(s["memory"] for s in run.samples) / 2**20, "MiB"),
    ]
    plots = [
        _plot(run, "memory", "Memory of the daemon and its workers", "MiB", lambda sample: sample["memory"] / 2**20),
        _plot(run, "backlog", "Tiles that wait", "tiles", lambda sample: sample["backlog"]),
        Plot(
            "latency",
            "From a metafile noticed to COMPLETE, under load",
            "seconds from the start of the run",
            "seconds",
            {f"sections of {scene.tiles} tiles": latencies},
        ),
    ]
    facts = {
        "capacity_tiles_per_s": scene.capacity,
        "offered_tiles_per_s": offered,
        "cpu_s_per_tile": {**scene.cpu, "writing, not in the run": write_s},
        "own_share": scene.own_share,
        "idle_share": scene.idle_share,
        "megapixels": SIZE[0] * SIZE[1] / 1e6,
        "cores": cores(),
        "profiles": scene.profiles,
    }
    return Outcome(rows, plots, facts)


def _plot(run: Run, name: str, title: str, unit: str, value: Callable[[dict[str, float]], float]) -> Plot:
    points = [(sample["at"], value(sample)) for sample in run.samples]
    return Plot(name, title, "seconds from the start of the run", unit, {name: points})


def _growth_per_s(samples: list[dict[str, float]]) -> float:
    """Return the slope of the backlog, without the start and the end, where it rises and falls."""
    kept = samples[len(samples) // 6 : -max(1, len(samples) // 6)]
    if len(kept) < 3:
        return 0.0
    return statistics.linear_regression([s["at"] for s in kept], [s["backlog"] for s in kept]).slope


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _latency_s(row: dict[str, Any]) -> float:
    return _seconds(row["complete_at"]) - _seconds(row["noticed_at"])


if __name__ == "__main__":
    run_script("sustained", measure)
