"""Target 3: six 50-megapixel scopes at once, through the whole daemon, with uploads, mipmaps, journal and closing.

Images are links to one tile, so that the run fits into memory; the cost of writing them is measured separately.
COMPLETE montages are counted, file by file, and deleted.
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
"""Tiles of a section. Real sections have some hundreds to 3,000; the rate is the same, the bursts are more frequent."""
SATURATED_SECTIONS = 8
OFFERED_S = 45.0
SHARE_OFFERED = 0.85
"""Share of the measured capacity that the second part of the run offers, if the target's rate is out of reach."""
PROFILE_S = 8
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
    """Saturate the daemon, which gives the capacity; then offer the rate of six scopes, or what it can serve."""
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
    """A daemon under load, and what is observed of it."""

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
        self._number = 0
        self._over = threading.Event()

    # --- the two parts

    def saturate(self, count: int, *, profiled: bool = True) -> None:
        """Deliver as many sections at once as keep every core busy; sets the capacity in tiles a second."""
        self._give()
        self._wait_until_complete()  # warms up: imports, stacks created
        before, idle = self._cpu(), idle_s()
        made, began = self._made(), time.monotonic()
        given = [self._give() for _ in range(count)]
        profiling = threading.Thread(target=self._profile if profiled else bool)
        profiling.start()
        wanted = made + len(given) * self.tiles
        processes.wait_for(lambda: self._made() >= wanted, 600, "the backlog worked off", every_s=0.1)
        seconds = time.monotonic() - began
        after = self._cpu()
        self.idle_share = (idle_s() - idle) / seconds / cores()
        self.own_share = sum(after[name] - before[name] for name in before) / seconds / cores()
        self.capacity = (wanted - made) / seconds
        self.cpu = {name: (after[name] - before[name]) / (wanted - made) for name in before}
        profiling.join()
        self._wait_until_complete()

    def offer(self, tiles_per_s: float, seconds: float) -> None:
        """Deliver sections at the rate of six scopes that are not in step."""
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
            self._give()
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
        """Sample and clean up until the end."""
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
            "the benchmark itself, linking and asking": own_cpu_s(),
        }

    def _profile(self) -> None:
        """Sample from outside where the daemon and its busiest worker spend their time."""
        main, *others = processes.family(self.program.pid)
        busiest = max(others, key=processes.cpu_of)
        runs = {name: self._sample(name, pid) for name, pid in (("daemon", main), ("worker", busiest))}
        for name, (process, output) in runs.items():
            if process is not None and process.wait() == 0:
                self.profiles[name] = profile_of(output.read_text())

    def _sample(self, name: str, pid: int) -> tuple[subprocess.Popen[bytes] | None, Path]:
        output = self.directory / f"{name}.profile"
        command = [
            "py-spy",
            "record",
            "-d",
            str(PROFILE_S),
            "-r",
            "100",
            "-f",
            "raw",
            "-o",
            str(output),
            "-p",
            str(pid),
        ]
        beside = Path(sys.executable).parent / command[0]
        if not beside.exists():
            return None, output
        command[0] = str(beside)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), output


def profile_of(raw: str, most: int = 14) -> list[tuple[str, float]]:
    """Return the running functions, without waits, with their share of the rest, largest first."""
    own: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        function = stack.rpartition(";")[2].rpartition(":")[0] + ")"
        if not function.startswith(WAITS):
            own[function] += int(count)
    return [(name, count / own.total()) for name, count in own.most_common(most)]


def write_cost_s(image: Path, directory: Path) -> float:
    """Measure the CPU seconds of writing one tile."""
    content = image.read_bytes()
    taken = []
    for number in range(8):
        path = directory / f"written{number}.tif"
        began = own_cpu_s()
        path.write_bytes(content)
        taken.append(own_cpu_s() - began)
        path.unlink()
    return statistics.median(taken)


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
            f"six scopes' rate held, {cores()} cores for the daemon, its workers and the stand-in",
            scene.capacity,
            "tiles/s",
            limit=TARGET_TILES_PER_S,
            at_most=False,
            floor=cores() / (scene.cpu["workers"] or 1),
            floor_is="cores / workers' CPU",
            note=f"CPU a tile: {', '.join(f'{name} {1000 * value:.1f} ms' for name, value in scene.cpu.items())}",
        ),
        Row(
            3,
            f"backlog's growth while {offered:.1f} tiles/s come in bursts",
            growth,
            "tiles/s",
            limit=0.02 * offered,
            note=f"at most {max(sample['backlog'] for sample in during):.0f} tiles wait",
        ),
        Row(
            3,
            "metafile noticed to COMPLETE under that load, median",
            statistics.median(_latency_s(row) for row in list(run.rows.values())[-max(1, len(during) // 8) :]),
            "s",
            note=f"sections of {scene.tiles} tiles; settle and closing times of 0.5 s and 2 s in it",
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
            "of the cores, taken by other programs or idle while saturated",
            100 * (1 - scene.own_share),
            "%",
            note=f"idle {100 * scene.idle_share:.0f} %, ours {100 * scene.own_share:.0f} %, others have the rest",
        ),
        Row(3, "CPU of a tile, daemon and workers", 1000 * work_s, "ms", note=f"with all else {1000 * cpu_s:.1f} ms"),
        Row(3, "CPU of writing a tile, not in the run", 1000 * write_s, "ms"),
        Row(3, "memory of the daemon with its workers, most", max(s["memory"] for s in run.samples) / 2**20, "MiB"),
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
    """Return the slope of the line through the backlog, without the ends, where it rises and falls."""
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
