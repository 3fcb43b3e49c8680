"""Target 5: a tree of a million files in 10,000 directories: the idle daemon, its scans, its memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import processes
from benchmarks.common import (
    Options,
    Outcome,
    Row,
    Timing,
    interleaved,
    median_cpu_s,
    median_ratio,
    median_wall_s,
    run_script,
)
from daemon.watching.event_hints import HintBox, open_hints
from daemon.watching.mounts import read_mounts
from daemon.watching.root import RootScanner
from daemon.watching.roots import WatchRoot

DIRECTORIES = 10_000
FILES = 100
"""Files of each directory, one of them a metafile."""
IDLE_S = 20.0
PER_PARENT = 100


def measure(options: Options) -> Outcome:
    """Run `find` and temwatch's scans in turn on the same tree, then an idle daemon."""
    directories = 500 if options.quick else DIRECTORIES
    root = options.directory / "acquisition"
    make_tree(root, directories)
    state = options.directory / "state"
    state.mkdir()
    scanners: list[RootScanner] = []

    def first_scan() -> None:
        """Request watches and list all directories, as a daemon does before it is ready."""
        if scanners:
            scanners.pop().close()
        scanner = scanner_of(root, state)
        scanner.open()
        scanner.scan(everything=True)
        scanners.append(scanner)

    def find() -> None:
        subprocess.run(["find", str(root), "-name", "_metadata_*.json"], stdout=subprocess.DEVNULL, check=True)

    runs = 2 if options.quick else 5
    timings = interleaved({"find": find, "first": first_scan}, runs)
    scanner = scanners[0]
    time.sleep(2.5)  # new directories are listed again until their mtimes can be trusted
    scanner.scan()
    again = interleaved({"find": find, "next": scanner.scan}, runs)
    scanner.close()
    size = f"{directories * FILES:,} files in {directories:,} directories"
    rows = [
        _scan_row(f"first scan, with its requests of watches, {size}", timings["first"], timings["find"], 2.0),
        _scan_row(f"next scan, nothing has changed, {size}", again["next"], again["find"], 0.2),
        *_idle_rows(options, root, directories),
    ]
    return Outcome(rows, facts={"timings": {name: [each.wall_s for each in found] for name, found in timings.items()}})


def _scan_row(what: str, scan: Sequence[Timing], find: Sequence[Timing], limit: float) -> Row:
    """Compare a scan with `find`."""
    ratio = median_ratio([each.wall_s for each in scan], [each.wall_s for each in find])
    return Row(
        5,
        what,
        median_wall_s(scan),
        "s",
        limit=limit,
        floor=median_wall_s(find),
        floor_is="find",
        ratio=ratio,
        ratio_is="measured / floor",
        judged=ratio,
        note=f"CPU {median_cpu_s(scan):.2f} s, find {median_cpu_s(find):.2f} s",
    )


def make_tree(root: Path, directories: int) -> None:
    """Make directories with a metafile and links to one empty image: a million inodes would take all memory."""
    root.mkdir()
    image = root.parent / "image.tif"
    image.touch()
    then = time.time() - 86_400
    for number in range(directories):
        place = root / f"{number // PER_PARENT:04d}" / f"{number:06d}"
        place.mkdir(parents=True)
        base = f"{place}/"
        metafile = Path(f"{base}_metadata_2024{number:010d}_block_{number:06d}_0_.json")
        metafile.write_text(str(number))
        os.utime(metafile, (then, then))
        for tile in range(FILES - 1):
            os.link(image, f"{base}{tile:017d}_block_{number:06d}_0_{tile % 10}_{tile // 10}.tif")
    for path, _, _ in os.walk(root, topdown=False):
        os.utime(path, (then, then))


def scanner_of(root: Path, state: Path) -> RootScanner:
    """Return the daemon's scanner of a root, with watchdog's file events."""
    return RootScanner(
        WatchRoot("bench", root),
        HintBox(lambda: None),
        known_metafiles=0,
        open_hints=open_hints,
        read_mounts=read_mounts,
        state_directory=state,
        granularity_s=2.0,
    )


def _idle_rows(options: Options, root: Path, directories: int) -> list[Row]:
    """Compare a daemon that watches the tree with one that watches an empty directory, both idle at the same time."""
    idle_s = 5.0 if options.quick else IDLE_S
    empty = options.directory / "nothing"
    (empty / "here").mkdir(parents=True)
    programs: dict[str, processes.Program] = {}
    with ExitStack() as stack:
        _, render_url = stack.enter_context(processes.standin(options.directory))
        for name, watched in (("tree", root), ("empty", empty)):
            place = options.directory / name
            place.mkdir()
            watch = {"ignore": ["_metadata_*"], "scan_interval_s": 60}  # no metafile is processed
            config = processes.write_config(place, render_url, watched, watch=watch)
            programs[name], url = stack.enter_context(processes.daemon(place, config, timeout_s=300))
            _wait_until_recorded(url, directories if name == "tree" else 0)
        before = {name: program.cpu_s() for name, program in programs.items()}
        time.sleep(idle_s)
        share = {name: (program.cpu_s() - before[name]) / idle_s for name, program in programs.items()}
        memory = {name: program.memory_bytes() for name, program in programs.items()}
    return [
        Row(
            5,
            f"CPU of the idle daemon over {idle_s:.0f} s, {directories * FILES:,} files",
            100 * share["tree"],
            "% of a core",
            limit=0.5,
            floor=100 * share["empty"],
            floor_is="watching an empty directory",
            note="may not contain a scan, which follows every 60 s",
        ),
        Row(
            5,
            f"memory of the daemon for each of {directories:,} watched directories",
            (memory["tree"] - memory["empty"]) / directories,
            "bytes",
            note=f"daemon {memory['tree'] / 2**20:.0f} MiB, {memory['empty'] / 2**20:.0f} MiB with an empty directory;"
            " in addition the kernel uses 1 KiB for each watch",
        ),
    ]


def _wait_until_recorded(url: str, metafiles: int) -> None:
    """Wait until the daemon watches and has recorded all metafiles as IGNORED."""

    def recorded() -> bool:
        answer = processes.fetch(f"{url}/readyz")
        if not answer or answer["watches"][0]["status"] != "watching":
            return False
        return f'temwatch_montages{{state="ignored",watch="bench"}} {metafiles}.0' in processes.fetch(f"{url}/metrics")

    processes.wait_for(recorded, 300, "the daemon watching", every_s=1.0)


if __name__ == "__main__":
    run_script("watching", measure)
