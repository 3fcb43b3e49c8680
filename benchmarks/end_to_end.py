"""Target 13: from a metafile to a stack with mipmaps: the three commands, the daemon, and the old tool's libraries.

`benchmarks.old_pipeline` is the old pipeline without its Java clients: its figures do not contain the time of its JVMs,
and it syncs and verifies nothing. The CPU is that of all processes, which a subreaper collects.
"""

import ctypes
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import old_pipeline, processes, sections
from benchmarks.common import (
    Options,
    Outcome,
    Row,
    Timing,
    median_cpu_s,
    median_ratio,
    median_wall_s,
    number,
    run_script,
)
from benchmarks.import_commands import LEVELS, WORKERS, run_command

SET_CHILD_SUBREAPER = 36
"""prctl(2)"""
WHOLE = ("ingest", "mipmaps", "apply")
STEPS = {
    "ingest": "metafile to raw stack",
    "mipmaps": "mipmaps, mean, tif",
    "apply": "apply mipmaps and close",
    "NEAREST": "mipmaps, PIL NEAREST, tif",
    "png": "mipmaps, mean, png",
    "large": "metafile to raw stack",
}
"""The three commands; then other kinds of mipmaps, and a large section."""
SECTION_OF = {"png": "few", "large": "large"}
"""Step -> its section, unless it is "many"."""
LIMIT, LARGE_LIMIT = 1.5, 1.0
"""Smallest ratio that meets the target. "large" has a lower limit: temwatch reads the header of each image, and the old
tool reads no image in this step."""
SETTLE_S, CLOSE_AFTER_S = 0.5, 1.0
WAITS_S = SETTLE_S + CLOSE_AFTER_S


def measure(options: Options) -> Outcome:
    """Run both pipelines in turn, step by step; each has its own stacks and level files."""
    counts = {"many": 8, "few": 4, "large": 40} if options.quick else {"many": 40, "few": 8, "large": 2_772}
    side, runs = (256, 1) if options.quick else (3840, 3)
    directory = options.directory
    image = sections.write_image(directory / "image.tif", (side, side))
    metafiles = {}
    for name, tiles in counts.items():
        section = sections.plan(tiles, (side, side), 0)
        sections.link_images(section, directory / name, image)
        metafiles[name] = sections.put_metafile(section, directory / name)
    timings: dict[str, dict[str, list[Timing]]] = {step: {"temwatch": [], "old tool": []} for step in STEPS}
    daemon: list[Timing] = []
    with processes.standin(directory) as (_, url), _Daemon.running(directory / "daemon", url, image, side) as watching:
        stack = f"{url}/owner/bench/project/old/stack"
        run_command(url, "ingest", metafiles["few"], directory, "few")
        _old(stack, "ingest", metafiles["few"], directory, "few")
        watching.completed(counts["few"])
        for _ in range(runs):
            for step in STEPS:
                which = SECTION_OF.get(step, "many")
                given = step, metafiles[which], directory, which
                timings[step]["temwatch"].append(of_whole_tree(partial(run_command, url, *given)))
                timings[step]["old tool"].append(of_whole_tree(partial(_old, stack, *given)))
            daemon.append(watching.completed(counts["many"]))
    made = sum(1 for _ in directory.glob("old/mipmaps/**/*.tif"))
    assert made == counts["many"] * len(LEVELS), made
    sizes = {step: f"{counts[SECTION_OF.get(step, 'many')]:,} tiles of {side}x{side}" for step in STEPS}
    whole = _summed(timings)
    by_daemon = {"temwatch": daemon, "old tool": whole["old tool"]}
    rows = [
        row(f"metafile to applied mipmaps, by the three commands, {sizes['mipmaps']}", whole),
        row(f"metafile to COMPLETE, by the daemon, which waits {WAITS_S:g} s, {sizes['mipmaps']}", by_daemon),
    ]
    limits = {"large": LARGE_LIMIT}
    rows += [row(f"{what}, {sizes[step]}", timings[step], limits.get(step, LIMIT)) for step, what in STEPS.items()]
    return Outcome(rows)


class _Daemon:
    """A daemon to which sections are delivered."""

    def __init__(self, acquisition: Path, image: Path, side: int, program: processes.Program, url: str) -> None:
        self._acquisition, self._image, self._side = acquisition, image, side
        self._program, self._url = program, url
        self._sections = 0

    @classmethod
    @contextmanager
    def running(cls, directory: Path, render_url: str, image: Path, side: int) -> Iterator["_Daemon"]:
        """Start a daemon and yield it when it is ready."""
        acquisition = directory / "acquisition"
        acquisition.mkdir(parents=True)
        config = processes.write_config(
            directory,
            render_url,
            acquisition,
            watch={"settle_s": SETTLE_S},
            stacks={"close_after_s": CLOSE_AFTER_S},
            mipmaps={"levels": len(LEVELS)},
            workers={"count": WORKERS},
        )
        with processes.daemon(directory, config) as (program, url):
            yield cls(acquisition, image, side, program, url)

    def completed(self, tiles: int) -> Timing:
        """Deliver a section; return the seconds from the metafile to COMPLETE."""
        section = sections.plan(tiles, (self._side, self._side), self._sections)
        self._sections += 1
        sections.link_images(section, self._acquisition, self._image)
        began, before = time.perf_counter(), self._program.cpu_s()
        sections.put_metafile(section, self._acquisition)
        processes.wait_for(self._all_complete, 120, f"{tiles} tiles COMPLETE")
        return Timing(time.perf_counter() - began, self._program.cpu_s() - before)

    def _all_complete(self) -> bool:
        answer = processes.fetch(f"{self._url}/api/montages?limit=1")
        return bool(answer) and answer["counts"].get("bench", {}) == {"complete": self._sections}


def _summed(timings: Mapping[str, Mapping[str, Sequence[Timing]]]) -> dict[str, list[Timing]]:
    """Return the times of the three commands together."""
    return {
        name: [
            Timing(sum(each.wall_s for each in round_), sum(each.cpu_s for each in round_))
            for round_ in zip(*(timings[step][name] for step in WHOLE), strict=True)
        ]
        for name in ("temwatch", "old tool")
    }


def row(what: str, timings: Mapping[str, Sequence[Timing]], limit: float = LIMIT) -> Row:
    """Compare the CPU, on which other load has the least effect."""
    cpu = {name: [each.cpu_s for each in many] for name, many in timings.items()}
    wall = {name: [each.wall_s for each in many] for name, many in timings.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        what,
        median_cpu_s(timings["temwatch"]),
        "s of CPU",
        limit,
        at_most=False,
        peer=median_cpu_s(timings["old tool"]),
        peer_is="the old tool's libraries, without its JVMs",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"time {number(median_wall_s(timings['temwatch']))} s and {number(median_wall_s(timings['old tool']))} s, "
        f"ratio {number(median_ratio(wall['old tool'], wall['temwatch']))}",
    )


def of_whole_tree(work: Callable[[], object]) -> Timing:
    """Measure work in a new process that is a subreaper: it reaps each descendant whose parent has ended.

    A fork server ends after the command that started it. Without a subreaper, init would reap it and its CPU would not
    be counted.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_reap_and_report, args=(work, sender))
    process.start()
    sender.close()
    try:
        return Timing(*receiver.recv())
    finally:
        process.join()


def _reap_and_report(work: Callable[[], object], sender: Any) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    began = time.perf_counter()
    work()
    wall_s = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    sender.send((wall_s, sum(each.ru_utime + each.ru_stime for each in used)))


def _old(stacks: str, step: str, metafile: Path, directory: Path, stack: str) -> None:
    """Run the old pipeline's step."""
    place = directory / "old" / ("mipmaps" if step == "apply" else step)
    step = {"large": "ingest", "mipmaps": "mean"}.get(step, step)
    old_pipeline.run_step(step, metafile, place, f"{stacks}/{stack}", f"{stacks}/mips")


if __name__ == "__main__":
    run_script("end_to_end", measure)
