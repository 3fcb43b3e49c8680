"""Target 13: one tile, six levels, by each filter of Pillow, beside what the old tool does with Pillow alone.

The old tool reads the whole file into memory, calls `Image.resize` for each level and writes the files unverified.
Compared too: the same from a path, which Pillow maps into memory; a file that is truncated then ends the process. Each
way runs in its own process, as in a pool: with memory that another way has freed, Pillow would take half the time.
"""

import io
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image

from benchmarks.common import Options, Outcome, Row, Taken, median_cpu_s, median_ratio, number, run_script, time_of
from benchmarks.mipmap_kernel import COPIES, LEVELS, PLACES, SIDES, TILE, arrivals, texture
from handlers.images.reduction import METHODS, Reduction
from handlers.mipmaps.job import MipmapJob
from handlers.mipmaps.make import make_mipmaps

RUNS, LIMIT = {"NEAREST": 11}, 1.5
OTHER_RUNS = 5
"""A tile by LANCZOS takes Pillow thirty times as long as one by NEAREST."""


def measure(options: Options) -> Outcome:
    """Measure CPU in turn: a busy machine disturbs it less than the wall clock."""
    side, runs = (512, {}) if options.quick else (SIDES[0], RUNS)
    rows, facts = [], {}
    with ExitStack() as stack:
        processes = {way: stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for way in WAYS}
        for bits in (8, 16):
            for number_of_copy in range(COPIES):
                Image.fromarray(texture(side, bits)).save(options.directory / f"copy-{number_of_copy}.tif")
            (options.directory / TILE).touch()
            for place in PLACES:
                (options.directory / place).mkdir(exist_ok=True)
            for name in METHODS["PIL"]:
                taken = in_turn(processes, options.directory, side, name, runs.get(name, OTHER_RUNS))
                rows.append(row(f"{name}, {side}x{side}, {bits} bit", taken))
                facts[f"{name}, {bits} bit"] = {way: median_cpu_s(each) for way, each in taken.items()}
    return Outcome(rows, facts=facts)


def in_turn(
    processes: Mapping[str, ProcessPoolExecutor], directory: Path, side: int, name: str, runs: int
) -> dict[str, list[Taken]]:
    """Run each way in its process, in turn. A first run of each is not counted."""
    prepare = arrivals(directory)
    taken: dict[str, list[Taken]] = {way: [] for way in processes}
    for _ in range(runs + 1):
        for way, process in processes.items():
            prepare()
            taken[way].append(process.submit(time_of_way, directory, side, name, way).result())
    return {way: each[1:] for way, each in taken.items()}


def time_of_way(directory: Path, side: int, name: str, way: str) -> Taken:
    """Measure one way from the tile's file to its level files, in this process."""
    return time_of(works(directory, side, name)[way])


WAYS = ("temwatch", "old tool", "mapped")


def works(directory: Path, side: int, name: str) -> dict[str, Callable[[], object]]:
    """Return each of WAYS."""
    level0, place = directory / TILE, directory / "peer"
    outputs = tuple((level, directory / "temwatch" / f"{level}.tif") for level in LEVELS)
    job = MipmapJob("tile", level0, outputs, side, side, reduction=Reduction("PIL", name), convert_to_8bit=False)

    def ours() -> None:
        fault = make_mipmaps(job).fault
        assert fault is None, fault

    old_tool = partial(resize, lambda: Image.open(io.BytesIO(level0.read_bytes())), place, Image.Resampling[name])
    mapped = partial(resize, lambda: Image.open(level0), place, Image.Resampling[name])
    return dict(zip(WAYS, (ours, old_tool, mapped), strict=True))


def resize(open_level0: Callable[[], Image.Image], place: Path, resample: Image.Resampling) -> None:
    """Make the levels with Pillow alone."""
    with open_level0() as image:
        for level in LEVELS:
            content = io.BytesIO()
            image.resize((image.width >> level, image.height >> level), resample).save(content, "TIFF")
            (place / f"{level}.tif").write_bytes(content.getvalue())


def row(what: str, taken: dict[str, list[Taken]]) -> Row:
    """Compare with the old tool; its command makes NEAREST only, whatever filter is requested."""
    cpu = {way: [each.cpu_s for each in many] for way, many in taken.items()}
    ratio = median_ratio(cpu["old tool"], cpu["temwatch"])
    return Row(
        13,
        f"PIL {what}, six levels, tif",
        median_cpu_s(taken["temwatch"]) * 1e3,
        "ms of CPU",
        LIMIT,
        at_most=False,
        peer=median_cpu_s(taken["old tool"]) * 1e3,
        peer_is="the old tool's calls of Pillow, unverified",
        ratio=ratio,
        ratio_is="peer / measured",
        judged=ratio,
        note=f"of Pillow from a mapped file {number(median_ratio(cpu['mapped'], cpu['temwatch']))}",
    )


if __name__ == "__main__":
    run_script("filters", measure)
