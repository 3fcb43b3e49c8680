"""Target 13: a metafile to a stack with mipmaps, by the three commands, by the daemon, and by the old tool's libraries.

Data in memory and on a disk. `benchmarks.old_pipeline` is the old pipeline without its Java clients: the figures favour
it by the time of its JVMs, and it syncs and verifies nothing. CPU is that of every process, by a subreaper.
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
    Taken,
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
"""The three commands; then other mipmaps, and a large section."""
SECTION_OF = {"png": "few", "large": "large"}
"""Step -> its section, unless it is "many"."""
LIMIT, LARGE_LIMIT = 1.5, 1.0
"""Least quotient. In a large section the old tool's libraries read no image, while each header is read and checked."""
Times = dict[str, list[Taken]]


def measure(options: Options) -> Outcome:
    """Run both pipelines in turn, step by step; each has stacks and level files of its own."""
    counts = {"many": 8, "few": 4, "large": 40} if options.quick else {"many": 40, "few": 8, "large": 2_772}
    side, runs = (256, 1) if options.quick else (3840, 3)
    directory = options.directory
    image = sections.write_image(directory / "image.tif", (side, side))
    metafiles = {}
    for name, tiles in counts.items():
        section = sections.plan(tiles, (side, side), 0)
        sections.link_images(section, directory / name, image)
        metafiles[name] = sections.put_metafile(section, directory / name)
    taken: dict[str, Times] = {step: {"temwatch": [], "old tool": []} for step in STEPS}
    daemon: list[Taken] = []
    with processes.standin(directory) as (_, url), _Daemon.running(directory / "daemon", url, image, side) as watching:
        stack = f"{url}/owner/bench/project/old/stack"
        run_command(url, "ingest", metafiles["few"], directory, "few")
        _old(stack, "ingest", metafiles["few"], directory, "few")
        watching.completed(counts["few"])
        for _ in range(runs):
            for step in STEPS:
                which = SECTION_OF.get(step, "many")
                given = step, metafiles[which], directory, which
                taken[step]["temwatch"].append(of_whole_tree(partial(run_command, url, *given)))
                taken[step]["old tool"].append(of_whole_tree(partial(_old, stack, *given)))
            daemon.append(watching.completed(counts["many"]))
    made = sum(1 for _ in directory.glob("old/mipmaps/**/*.tif"))
    assert made == counts["many"] * len(LEVELS), made
    tiles = {step: f"{counts[SECTION_OF.get(step, 'many')]:,} tiles of {side}x{side}" for step in STEPS}
    whole = _summed(taken)
    by_daemon = {"temwatch": daemon, "old tool": whole["old tool"]}
    rows = [
        row(f"metafile to applied mipmaps by three commands, {tiles['mipmaps']}", whole),
        row(f"metafile renamed to COMPLETE by the daemon, with {WAITS_S:g} s to wait, {tiles['mipmaps']}", by_daemon),
    ]
    limits = {"large": LARGE_LIMIT}
    rows += [row(f"{what}, {tiles[step]}", taken[step], limits.get(step, LIMIT)) for step, what in STEPS.items()]
    return Outcome(rows)


SETTLE_S, CLOSE_AFTER_S = 0.5, 1.0
WAITS_S = SETTLE_S + CLOSE_AFTER_S


class _Daemon:
    """A daemon that waits for sections of its own."""

    def __init__(self, acquisition: Path, image: Path, side: int, program: processes.Program, url: str) -> None:
        self._acquisition, self._image, self._side = acquisition, image, side
        self._program, self._url = program, url
        self._sections = 0

    @classmethod
    @contextmanager
    def running(cls, directory: Path, render_url: str, image: Path, side: int) -> Iterator["_Daemon"]:
        """Yield a daemon that is ready."""
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

    def completed(self, tiles: int) -> Taken:
        """Deliver a section, and return what it takes until it is COMPLETE."""
        section = sections.plan(tiles, (self._side, self._side), self._sections)
        self._sections += 1
        sections.link_images(section, self._acquisition, self._image)
        began, before = time.perf_counter(), self._program.cpu_s()
        sections.put_metafile(section, self._acquisition)
        processes.wait_for(self._all_complete, 120, f"{tiles} tiles COMPLETE")
        return Taken(time.perf_counter() - began, self._program.cpu_s() - before)

    def _all_complete(self) -> bool:
        answer = processes.fetch(f"{self._url}/api/montages?limit=1")
        return bool(answer) and answer["counts"].get("bench", {}) == {"complete": self._sections}


def _summed(taken: Mapping[str, Mapping[str, Sequence[Taken]]]) -> dict[str, list[Taken]]:
    """Return the times of the three commands together."""
    return {
        name: [
            Taken(sum(each.wall_s for each in round_), sum(each.cpu_s for each in round_))
            for round_ in zip(*(taken[step][name] for step in WHOLE), strict=True)
        ]
        for name in ("temwatch", "old tool")
    }


def row(what: str, taken: Mapping[str, Sequence[Taken]], limit: float = LIMIT) -> Row:
    """Compare CPU, which a busy machine disturbs least."""
    cpu = {name: [each.cpu_s for each in many] for name, many in taken.items()}
    wall = {name: [each.wall_s for each in many] for name, many in taken.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        what,
        median_cpu_s(taken["temwatch"]),
        "s of CPU",
        limit,
        at_most=False,
        peer=median_cpu_s(taken["old tool"]),
        peer_is="the old tool's libraries, without its JVMs",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"wall {number(median_wall_s(taken['temwatch']))} s and {number(median_wall_s(taken['old tool']))} s, "
        f"ratio {number(median_ratio(wall['old tool'], wall['temwatch']))}",
    )


def of_whole_tree(work: Callable[[], object]) -> Taken:
    """Measure work in a process that inherits and reaps every descendant whose own parent has ended.

    A fork server ends after the command that started it, and would be reaped, uncounted, by the first process.
    """
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_reap_and_report, args=(work, sender))
    process.start()
    sender.close()
    try:
        return Taken(*receiver.recv())
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
