"""Target 5: a tree of a million files in 10,000 directories: the idle daemon, its scans, its memory."""

import os
import subprocess
import threading
import time
from pathlib import Path

from benchmarks import processes
from benchmarks.common import Options, Outcome, Row, interleaved, median_cpu_s, median_ratio, median_wall_s, run_script
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
    """Run `find` and our own scans in turn on the same tree, then an idle daemon."""
    directories = 500 if options.quick else DIRECTORIES
    root = options.directory / "acquisition"
    make_tree(root, directories)
    state = options.directory / "state"
    state.mkdir()
    scanners: list[RootScanner] = []

    def start() -> None:
        """Do what a daemon does before it is ready: request watches, list everything."""
        if scanners:
            scanners.pop().close()
        scanner = scanner_of(root, state)
        scanner.open()
        scanner.scan(everything=True)
        scanners.append(scanner)

    def find() -> None:
        subprocess.run(["find", str(root), "-name", "_metadata_*.json"], stdout=subprocess.DEVNULL, check=True)

    runs = 2 if options.quick else 5
    taken = interleaved({"find": find, "start": start}, runs)
    scanner = scanners[0]
    time.sleep(2.5)  # new directories are listed again until their mtimes can be trusted
    scanner.scan()
    again = interleaved({"find": find, "following": scanner.scan}, runs)
    scanner.close()
    find_s = median_wall_s(taken["find"])
    start_ratio = median_ratio([each.wall_s for each in taken["start"]], [each.wall_s for each in taken["find"]])
    again_ratio = median_ratio([each.wall_s for each in again["following"]], [each.wall_s for each in again["find"]])
    size = f"{directories * FILES:,} files in {directories:,} directories"
    rows = [
        Row(
            5,
            f"start: watches asked for and everything listed, {size}",
            median_wall_s(taken["start"]),
            "s",
            limit=2.0,
            floor=find_s,
            floor_is="find",
            ratio=start_ratio,
            ratio_is="measured / floor",
            judged=start_ratio,
            note=f"CPU {median_cpu_s(taken['start']):.2f} s, find's {median_cpu_s(taken['find']):.2f} s",
        ),
        Row(
            5,
            "following scan, nothing changed",
            median_wall_s(again["following"]),
            "s",
            limit=0.2,
            floor=median_wall_s(again["find"]),
            floor_is="find",
            ratio=again_ratio,
            ratio_is="measured / floor",
            judged=again_ratio,
        ),
        *_idle_rows(options, root, directories),
    ]
    return Outcome(rows, facts={"taken": {name: [each.wall_s for each in found] for name, found in taken.items()}})


def make_tree(root: Path, directories: int) -> None:
    """Make directories of a metafile and links to one empty image: a million inodes would take all memory."""
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
    """What looks at a root in the daemon, with watchdog's events."""
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
    """Compare a daemon on the tree with one on an empty directory, while nothing happens."""
    idle_s = 5.0 if options.quick else IDLE_S
    empty = options.directory / "nothing"
    (empty / "here").mkdir(parents=True)
    memory: dict[str, int] = {}
    share: dict[str, float] = {}
    with processes.standin(options.directory) as (_, render_url):
        for name, watched in (("tree", root), ("empty", empty)):
            place = options.directory / name
            place.mkdir()
            # Its metafiles are not to be measured: none of them is processed.
            watch = {"ignore": ["_metadata_*"], "scan_interval_s": 60}
            config = processes.write_config(place, render_url, watched, watch=watch)
            with processes.daemon(place, config, timeout_s=300) as (program, url):
                _wait_until_recorded(url, directories if name == "tree" else 0)
                before, began = program.cpu_s(), time.monotonic()
                threading.Event().wait(idle_s)
                share[name] = (program.cpu_s() - before) / (time.monotonic() - began)
                memory[name] = program.memory_bytes()
    return [
        Row(
            5,
            f"CPU of the idle daemon over {idle_s:.0f} s, {directories * FILES:,} files",
            100 * share["tree"],
            "% of a core",
            limit=0.5,
            floor=100 * share["empty"],
            floor_is="watching an empty directory",
            note="one pass over mtimes comes every 60 s beside",
        ),
        Row(
            5,
            "memory for each watched directory",
            (memory["tree"] - memory["empty"]) / directories,
            "bytes",
            note=f"daemon {memory['tree'] / 2**20:.0f} MiB, {memory['empty'] / 2**20:.0f} MiB with nothing to watch;"
            " the kernel's own 1 KiB a watch besides",
        ),
    ]


def _wait_until_recorded(url: str, metafiles: int) -> None:
    """Wait until the daemon watches and has recorded all metafiles as ignored."""

    def recorded() -> bool:
        answer = processes.fetch(f"{url}/readyz")
        if not answer or answer["watches"][0]["status"] != "watching":
            return False
        return f'temwatch_montages{{state="ignored",watch="bench"}} {metafiles}.0' in processes.fetch(f"{url}/metrics")

    processes.wait_for(recorded, 300, "the daemon watching", every_s=1.0)


if __name__ == "__main__":
    run_script("watching", measure)
