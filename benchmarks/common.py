"""What every script uses: rows of the table, plots, facts about the machine, medians of interleaved runs.

A script defines a function from `Options` to an `Outcome` and calls `run_script(name, measure)`. That writes
`benchmarks/results/<name>.json`; `benchmarks.report` makes the table of these files.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
DISK_RESULTS = RESULTS / "disk"
"""Results of the same scripts with their data on a disk instead of in memory."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    target: int
    """Number of its target in docs/performance.md."""
    what: str
    """What is measured, and on what input."""
    measured: float
    unit: str
    limit: float | None = None
    """Limit for `judged`; None if the target sets none."""
    at_most: bool = True
    """Whether the limit is a maximum; otherwise it is a minimum."""
    floor: float | None = None
    """Lower bound, in the same unit."""
    floor_is: str = ""
    """Description of the floor."""
    peer: float | None = None
    """Result of another implementation or another case, in the same unit."""
    peer_is: str = ""
    """Description of the peer."""
    ratio: float | None = None
    ratio_is: str = ""
    """Description of the quotient, as in `measured / floor`."""
    judged: float | None = None
    """Value that is compared with the limit. None: the measured value."""
    note: str = ""

    @property
    def is_met(self) -> bool | None:
        """Whether the target is met; None if this row has no limit."""
        if self.limit is None:
            return None
        value = self.measured if self.judged is None else self.judged
        return value <= self.limit if self.at_most else value >= self.limit


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: a line of points for each label."""

    name: str
    """Name of the file, without its extension."""
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Sequence[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results of one script."""

    rows: Sequence[Row]
    plots: Sequence[Plot] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Raw figures behind the table; JSON."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a script."""

    directory: Path
    """Empty directory for data, on tmpfs by default, removed afterwards."""
    quick: bool
    """Whether to use smaller sizes, which only test the script."""


def run_script(name: str, measure: Callable[[Options], Outcome], argv: Sequence[str] | None = None) -> None:
    """Measure, write `results/<name>.json` and print the rows."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, only to test the script")
    parser.add_argument(
        "--on", type=_absolute, default=default_directory(), help="directory for the data; default: tmpfs"
    )
    parser.add_argument("--output", type=_absolute, default=RESULTS)
    arguments = parser.parse_args(argv)
    began, others = time.monotonic(), others_busy_s()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no data and no process behind
    directory = Path(tempfile.mkdtemp(prefix=f"temwatch-bench-{name}-", dir=arguments.on))
    try:
        with _keep_compiled_modules(directory / "pycache"):
            outcome = measure(Options(directory, arguments.quick))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    seconds = time.monotonic() - began
    report = {
        "benchmark": name,
        "quick": arguments.quick,
        "seconds": round(seconds, 1),
        "machine": {**machine(arguments.on), "others_share": round((others_busy_s() - others) / seconds / cores(), 2)},
        "rows": [{**asdict(row), "met": row.is_met} for row in outcome.rows],
        "plots": [asdict(plot) for plot in outcome.plots],
        "facts": outcome.facts,
    }
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for row in outcome.rows:
        print(text_of(row), flush=True)


@contextmanager
def _keep_compiled_modules(directory: Path) -> Iterator[None]:
    """Let the programs that are started keep their compiled modules, as an installation does."""
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = os.fspath(directory)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _absolute(name: str) -> Path:
    return Path(name).absolute()


def text_of(row: Row) -> str:
    """Return the row as one line."""
    parts = [f"{row.target}  {row.what}: {number(row.measured)} {row.unit}"]
    parts += [f"floor {number(row.floor)} ({row.floor_is})"] if row.floor is not None else []
    parts += [f"peer {number(row.peer)} ({row.peer_is})"] if row.peer is not None else []
    parts += [f"{row.ratio_is} {number(row.ratio)}"] if row.ratio is not None else []
    if row.is_met is not None:
        parts.append(f"{'met' if row.is_met else 'MISSED'}: {'<=' if row.at_most else '>='} {number(row.limit)}")
    return "; ".join(parts + ([row.note] if row.note else []))


def number(value: float | None) -> str:
    """Return a figure with three significant digits; from 100 on, with all digits before the point.

    >>> number(0.012345), number(1234567), number(12.0), number(None)
    ('0.0123', '1,234,567', '12', '')
    """
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# --- timing


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one run."""

    wall_s: float
    cpu_s: float
    """CPU of this process and of its children that ended during the run."""


def time_of(work: Callable[[], object]) -> Timing:
    """Measure one call."""
    began, cpu = time.perf_counter(), own_cpu_s()
    work()
    return Timing(time.perf_counter() - began, own_cpu_s() - cpu)


def interleaved(variants: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[Timing]]:
    """Run the variants in turn, so that other load of the machine affects all of them.

    The first run of each is not counted.
    """
    for work in variants.values():
        work()
    timings: dict[str, list[Timing]] = {name: [] for name in variants}
    for _ in range(runs):
        for name, work in variants.items():
            timings[name].append(time_of(work))
    return timings


def median_wall_s(timings: Sequence[Timing]) -> float:
    """Median of the wall-clock seconds."""
    return statistics.median(each.wall_s for each in timings)


def median_cpu_s(timings: Sequence[Timing]) -> float:
    """Median of the CPU seconds, on which other load has less effect."""
    return statistics.median(each.cpu_s for each in timings)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the quotients of neighbouring runs."""
    return statistics.median(above / below for above, below in zip(numerators, denominators, strict=True))


def own_cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def scheduled_s(pids: Sequence[int]) -> tuple[float, float]:
    """Return for how many seconds processes have run, and have waited for a core. Only main threads count."""
    fields = [Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split() for pid in pids]
    return sum(int(each[0]) for each in fields) / 1e9, sum(int(each[1]) for each in fields) / 1e9


# --- the machine


def default_directory() -> Path:
    """Return a directory in memory, which has no noise of a disk."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def machine(directory: Path) -> dict[str, Any]:
    """Facts about the machine on which the figures depend."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cores(),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "system": f"Linux {platform.release()}",
        "python": platform.python_version(),
        "data_on": file_system(directory),
        "load": [round(each, 1) for each in os.getloadavg()],
    }


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def file_system(directory: Path) -> str:
    """Type of a directory's file system."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    over = [(mount[1], mount[2]) for mount in mounts if directory.resolve().is_relative_to(mount[1])]
    return max(over, key=lambda mount: len(mount[0]))[1]


def idle_s() -> float:
    """Idle seconds of all cores since the machine's start, waits for a disk included."""
    ticks = _ticks_of_all_cores()
    return (ticks[3] + ticks[4]) / TICKS


def others_busy_s() -> float:
    """CPU seconds of all other programs since the machine's start."""
    return sum(_ticks_of_all_cores()[:8]) / TICKS - idle_s() - own_cpu_s()


def _ticks_of_all_cores() -> list[int]:
    """Clock ticks by kind: user, nice, system, idle, iowait, irq, softirq, steal (proc(5))."""
    return [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]]
